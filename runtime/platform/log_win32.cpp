#include <cstdio>

#include "platform/log.h"
#include "platform/win32.h"

namespace mamba_scan::platform {

void write_error_stream(const std::string& utf8) {
  // A console wants UTF-16, whatever its code page; a pipe or a file gets UTF-8.
  HANDLE handle = GetStdHandle(STD_ERROR_HANDLE);
  DWORD mode = 0;
  if (handle != nullptr && handle != INVALID_HANDLE_VALUE && GetConsoleMode(handle, &mode)) {
    const std::wstring wide = to_wide(utf8);
    DWORD written = 0;
    WriteConsoleW(handle, wide.data(), static_cast<DWORD>(wide.size()), &written, nullptr);
    return;
  }
  std::fwrite(utf8.data(), 1, utf8.size(), stderr);
  std::fflush(stderr);
}

}  // namespace mamba_scan::platform
