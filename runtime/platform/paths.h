// Paths are UTF-8 strings, absolute wherever they are kept. On Windows both separators are understood, '\' is made.
#pragma once

#include <string>
#include <string_view>

#include "platform/export.h"

namespace mamba_scan::platform {

// join("a", "b/c") -> "a/b/c" ("a\b\c" on Windows)
MAMBA_SCAN_API std::string join(std::string_view folder, std::string_view name);
MAMBA_SCAN_API std::string parent_folder(std::string_view path);  // empty when there is none
MAMBA_SCAN_API std::string file_name(std::string_view path);
MAMBA_SCAN_API bool is_absolute(std::string_view path);

}  // namespace mamba_scan::platform
