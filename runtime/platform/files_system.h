// What files.cpp asks of the operating system beyond files.h.
#pragma once

#include <string>
#include <string_view>

#include "platform/files.h"

namespace mamba_scan::platform {

// Fails if the file exists; on return the bytes are on the disk. Leaves nothing behind when it fails.
FileStatus write_new_file(const std::string& path, std::string_view content);
FileStatus replace_file(const std::string& from, const std::string& to);
FileStatus create_one_folder(const std::string& path);  // fine if it exists

}  // namespace mamba_scan::platform
