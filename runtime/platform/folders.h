// Well-known places.
#pragma once

#include <string>

#include "platform/export.h"

namespace mamba_scan::platform {

// Where cached files of this user belong: MAMBA_SCAN_CACHE_DIR, else %LOCALAPPDATA%\mamba_scan\cache, or
// $XDG_CACHE_HOME/mamba_scan (~/.cache/mamba_scan). Empty when the system names none. Not created.
MAMBA_SCAN_API std::string cache_folder();

// Folder of the shared library (or program) that contains this address.
MAMBA_SCAN_API std::string library_folder_of(const void* address);
MAMBA_SCAN_API std::string executable_path();
MAMBA_SCAN_API std::string temporary_folder();

// What a relative path means while the working folder is this one; absolute ones stay as they are.
MAMBA_SCAN_API std::string absolute_path(const std::string& path);

}  // namespace mamba_scan::platform
