// File operations with the manners a shared cache needs. Nothing here throws: a status says what happened.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "platform/export.h"

namespace mamba_scan::platform {

enum class FileOutcome {
  kOk,
  kMissing,  // no such file or folder
  kBusy,     // another process holds it (Windows sharing errors), still after about 200 ms of retries
  kDenied,   // no permission, read-only
  kFull,     // no space, quota
  kFailed,   // anything else
};

struct FileStatus {
  FileOutcome outcome = FileOutcome::kOk;
  std::string message;  // the system's words; empty when fine

  explicit operator bool() const { return outcome == FileOutcome::kOk; }
};

using FileTime = std::chrono::system_clock::time_point;

struct FileInfo {
  std::string name;  // without folder
  bool is_folder = false;
  std::uint64_t size = 0;
  FileTime modified;
};

MAMBA_SCAN_API FileStatus read_file(const std::string& path, std::string* content);

// A temporary file in the same folder is written, flushed to the disk and put in place in one step: a reader sees
// the old content or the new, never a part. Temporary names end in kTemporarySuffix.
MAMBA_SCAN_API FileStatus write_file_atomically(const std::string& path, std::string_view content);
inline constexpr std::string_view kTemporarySuffix = ".tmp";

MAMBA_SCAN_API FileStatus create_folders(const std::string& path);
MAMBA_SCAN_API FileStatus remove_file(const std::string& path);
MAMBA_SCAN_API FileStatus remove_folder(const std::string& path);  // empty ones only
MAMBA_SCAN_API FileStatus list_folder(const std::string& path, std::vector<FileInfo>* entries);
MAMBA_SCAN_API FileStatus file_info(const std::string& path, FileInfo* info);

// NTFS keeps no time of last access; who needs one touches the time of modification.
MAMBA_SCAN_API FileStatus set_modified(const std::string& path, FileTime time);

MAMBA_SCAN_API bool is_file(const std::string& path);
MAMBA_SCAN_API bool is_folder(const std::string& path);

}  // namespace mamba_scan::platform
