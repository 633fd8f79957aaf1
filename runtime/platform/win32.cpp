#include "platform/win32.h"

#include "platform/unicode.h"

namespace mamba_scan::platform {

static_assert(sizeof(wchar_t) == sizeof(char16_t));

std::wstring to_wide(std::string_view utf8) {
  const std::u16string text = to_utf16(utf8);
  return std::wstring(text.begin(), text.end());
}

std::string from_wide(std::wstring_view wide) { return to_utf8(std::u16string(wide.begin(), wide.end())); }

std::wstring win32_path(const std::string& utf8_path) {
  const std::wstring given = to_wide(utf8_path);
  if (given.starts_with(L"\\\\?\\") || given.empty()) return given;
  const DWORD needed = GetFullPathNameW(given.c_str(), 0, nullptr, nullptr);
  std::wstring full(needed, L'\0');
  const DWORD written = GetFullPathNameW(given.c_str(), needed, full.data(), nullptr);
  if (written == 0 || written >= needed) return given;
  full.resize(written);
  if (full.starts_with(L"\\\\.\\")) return full;
  if (full.starts_with(L"\\\\")) return L"\\\\?\\UNC\\" + full.substr(2);
  return L"\\\\?\\" + full;
}

std::string without_prefix(const std::wstring& path) {
  if (path.starts_with(L"\\\\?\\UNC\\")) return from_wide(L"\\\\" + path.substr(8));
  if (path.starts_with(L"\\\\?\\")) return from_wide(path.substr(4));
  return from_wide(path);
}

std::string win32_message(DWORD code) {
  wchar_t* text = nullptr;
  const DWORD length =
      FormatMessageW(FORMAT_MESSAGE_ALLOCATE_BUFFER | FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS,
                     nullptr, code, 0, reinterpret_cast<wchar_t*>(&text), 0, nullptr);
  std::string message = length == 0 ? std::string() : from_wide(std::wstring_view(text, length));
  LocalFree(text);
  while (!message.empty() && (message.back() == '\n' || message.back() == '\r' || message.back() == ' ')) {
    message.pop_back();
  }
  return message + (message.empty() ? "error " : " (error ") + std::to_string(code) + (message.empty() ? "" : ")");
}

}  // namespace mamba_scan::platform
