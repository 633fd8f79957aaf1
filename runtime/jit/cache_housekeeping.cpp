#include "jit/cache_housekeeping.h"

#include <algorithm>
#include <map>

#include "platform/paths.h"

namespace mamba_scan::jit {
namespace {

using platform::FileInfo;
using platform::join;

constexpr std::size_t kPrefixLength = 2;
constexpr std::size_t kKeyLength = 64;

struct Parts {
  bool has_record = false;
  std::uint64_t bytes = 0;
  platform::FileTime last_used;
  platform::FileTime binary_time;
};

void scan_entry_folder(const std::string& folder, const std::string& prefix, CacheScan* scan) {
  std::vector<FileInfo> files;
  platform::list_folder(folder, &files);
  std::map<std::string, Parts> entries;
  for (const FileInfo& file : files) {
    if (file.is_folder) continue;
    scan->bytes += file.size;
    if (file.name.ends_with(platform::kTemporarySuffix)) {
      scan->leftovers.push_back({join(folder, file.name), file.size, file.modified});
      continue;
    }
    const bool is_record = file.name.ends_with(kRecordSuffix);
    if (!is_record && !file.name.ends_with(kBinarySuffix)) continue;  // not ours
    const std::string key = prefix + file.name.substr(0, file.name.rfind('.'));
    if (key.size() != kKeyLength) continue;
    Parts& parts = entries[key];
    parts.bytes += file.size;
    parts.has_record |= is_record;
    (is_record ? parts.last_used : parts.binary_time) = file.modified;
  }
  for (const auto& [key, parts] : entries) {
    if (parts.has_record) {
      scan->entries.push_back({key, parts.bytes, parts.last_used});
    } else {
      const std::string name = key.substr(kPrefixLength) + std::string(kBinarySuffix);
      scan->leftovers.push_back({join(folder, name), parts.bytes, parts.binary_time});
    }
  }
}

}  // namespace

std::string CachePaths::entries() const { return join(folder, "entries"); }
std::string CachePaths::notes(NoteKind kind) const {
  return join(folder, kind == NoteKind::kMeasurement ? "tuned" : "notes");
}
std::string CachePaths::entry_folder(const std::string& key) const {
  return join(entries(), key.substr(0, kPrefixLength));
}
std::string CachePaths::binary(const std::string& key) const {
  return join(entry_folder(key), key.substr(kPrefixLength)) + std::string(kBinarySuffix);
}
std::string CachePaths::record(const std::string& key) const {
  return join(entry_folder(key), key.substr(kPrefixLength)) + std::string(kRecordSuffix);
}
std::string CachePaths::note(const std::string& key, NoteKind kind) const {
  return join(notes(kind), key) + std::string(kRecordSuffix);
}

CacheScan scan_cache(const CachePaths& paths) {
  CacheScan scan;
  std::vector<FileInfo> folders;
  platform::list_folder(paths.entries(), &folders);
  for (const FileInfo& folder : folders) {
    if (folder.is_folder && folder.name.size() == kPrefixLength) {
      scan_entry_folder(join(paths.entries(), folder.name), folder.name, &scan);
    }
  }
  for (const NoteKind kind : kNoteKinds) {
    std::vector<FileInfo> notes;
    platform::list_folder(paths.notes(kind), &notes);
    for (const FileInfo& note : notes) {
      scan.bytes += note.size;
      if (!note.name.ends_with(platform::kTemporarySuffix)) continue;
      scan.leftovers.push_back({join(paths.notes(kind), note.name), note.size, note.modified});
    }
  }
  return scan;
}

void remove_entry(const CachePaths& paths, const std::string& key) {
  platform::remove_file(paths.record(key));  // first: without it the entry does not exist
  platform::remove_file(paths.binary(key));
}

std::uint64_t tidy_cache(const CachePaths& paths, std::uint64_t limit, platform::FileTime now) {
  CacheScan scan = scan_cache(paths);
  for (const Leftover& leftover : scan.leftovers) {
    if (leftover.modified >= now - kStaleAfter) continue;
    if (platform::remove_file(leftover.path)) scan.bytes -= std::min(scan.bytes, leftover.bytes);
  }
  if (scan.bytes <= limit) return scan.bytes;
  std::sort(scan.entries.begin(), scan.entries.end(),
            [](const StoredEntry& a, const StoredEntry& b) { return a.last_used < b.last_used; });
  const std::uint64_t goal = limit / 10 * 9;
  for (const StoredEntry& entry : scan.entries) {
    if (scan.bytes <= goal) break;
    remove_entry(paths, entry.key);
    scan.bytes -= std::min(scan.bytes, entry.bytes);
  }
  return scan.bytes;
}

}  // namespace mamba_scan::jit
