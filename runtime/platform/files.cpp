#include "platform/files.h"

#include <atomic>
#include <random>

#include "platform/environment.h"
#include "platform/files_system.h"
#include "platform/paths.h"

namespace mamba_scan::platform {
namespace {

// Unique among threads by the counter, among processes by the id, among machines on one network folder and among
// restarted containers (whose process ids repeat) by the random part.
std::string temporary_name(const std::string& path) {
  static std::atomic<unsigned> counter{0};
  static const unsigned random_part = std::random_device{}();
  return path + "." + std::to_string(process_id()) + "-" + std::to_string(counter++) + "-" +
         std::to_string(random_part) + std::string(kTemporarySuffix);
}

}  // namespace

FileStatus write_file_atomically(const std::string& path, std::string_view content) {
  const std::string temporary = temporary_name(path);
  FileStatus status = write_new_file(temporary, content);
  if (!status) return status;
  status = replace_file(temporary, path);
  if (!status) remove_file(temporary);
  return status;
}

FileStatus create_folders(const std::string& path) {
  if (is_folder(path)) return {};
  const FileStatus status = create_one_folder(path);
  if (status.outcome != FileOutcome::kMissing) return status;
  const std::string parent = parent_folder(path);
  if (parent.empty() || parent == path) return status;
  const FileStatus above = create_folders(parent);
  return above ? create_one_folder(path) : above;
}

bool is_file(const std::string& path) {
  FileInfo info;
  return file_info(path, &info) && !info.is_folder;
}

bool is_folder(const std::string& path) {
  FileInfo info;
  return file_info(path, &info) && info.is_folder;
}

}  // namespace mamba_scan::platform
