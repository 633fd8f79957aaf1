// Shared by the *_win32.cpp files only: <windows.h>, wide strings, and a path in the form Win32 calls take.
#pragma once

#include <windows.h>

#include <string>
#include <string_view>

namespace mamba_scan::platform {

std::wstring to_wide(std::string_view utf8);
std::string from_wide(std::wstring_view wide);

// Absolute, backslashes, with the \\?\ prefix that lifts the limit of 260 characters. Only for the call itself:
// the prefix never enters a path that the program keeps or shows.
std::wstring win32_path(const std::string& utf8_path);
std::string without_prefix(const std::wstring& path);

// "Access is denied. (error 5)"
std::string win32_message(DWORD code);

}  // namespace mamba_scan::platform
