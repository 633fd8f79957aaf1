#include "platform/folders.h"

#include "platform/environment.h"
#include "platform/paths.h"
#include "platform/win32.h"

// After <windows.h>, and with initguid so that the folder's identifier needs no import library.
#include <initguid.h>
#include <knownfolders.h>
#include <shlobj.h>

namespace mamba_scan::platform {
namespace {

std::string module_path(HMODULE module) {
  std::wstring name(MAX_PATH, L'\0');
  for (;;) {
    const DWORD length = GetModuleFileNameW(module, name.data(), static_cast<DWORD>(name.size()));
    if (length == 0) return {};
    if (length < name.size()) {
      name.resize(length);
      return without_prefix(name);
    }
    name.resize(name.size() * 2);
  }
}

}  // namespace

std::string cache_folder() {
  if (auto folder = environment_variable("MAMBA_SCAN_CACHE_DIR")) return absolute_path(*folder);
  if (auto local = environment_variable("LOCALAPPDATA")) return join(*local, "mamba_scan\\cache");
  wchar_t* known = nullptr;
  std::string local;
  if (SHGetKnownFolderPath(FOLDERID_LocalAppData, 0, nullptr, &known) == S_OK) local = from_wide(known);
  CoTaskMemFree(known);
  return local.empty() ? std::string() : join(local, "mamba_scan\\cache");
}

std::string library_folder_of(const void* address) {
  HMODULE module = nullptr;
  GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
                     static_cast<const wchar_t*>(address), &module);
  return parent_folder(module_path(module));
}

std::string executable_path() { return module_path(nullptr); }

std::string absolute_path(const std::string& path) {
  return is_absolute(path) ? path : without_prefix(win32_path(path));
}

std::string temporary_folder() {
  wchar_t buffer[MAX_PATH + 2];
  const DWORD length = GetTempPathW(MAX_PATH + 2, buffer);
  return from_wide(std::wstring_view(buffer, length));
}

}  // namespace mamba_scan::platform
