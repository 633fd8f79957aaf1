// Walks the cache folder: what is there, what is too much, what a crashed process left behind.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "platform/files.h"

namespace mamba_scan::jit {

enum class NoteKind {
  kFact,         // slow to find out, and found out again when it is gone
  kMeasurement,  // of this machine, by somebody who asked for it: not removed by clear()
};
inline constexpr NoteKind kNoteKinds[] = {NoteKind::kFact, NoteKind::kMeasurement};

struct CachePaths {
  std::string folder;

  std::string entries() const;
  std::string notes(NoteKind kind) const;
  std::string entry_folder(const std::string& key) const;
  std::string binary(const std::string& key) const;
  std::string record(const std::string& key) const;
  std::string note(const std::string& key, NoteKind kind) const;
};

inline constexpr std::string_view kBinarySuffix = ".cubin";
inline constexpr std::string_view kRecordSuffix = ".json";
// A writer needs milliseconds; what is this old belongs to a process that died.
inline constexpr std::chrono::hours kStaleAfter{1};

struct StoredEntry {
  std::string key;
  std::uint64_t bytes = 0;  // both files
  platform::FileTime last_used;
};

struct Leftover {
  std::string path;
  std::uint64_t bytes = 0;
  platform::FileTime modified;
};

struct CacheScan {
  std::vector<StoredEntry> entries;  // those with a record
  std::vector<Leftover> leftovers;   // temporaries, and binaries without a record: being written, or abandoned
  std::uint64_t bytes = 0;           // of everything
};

CacheScan scan_cache(const CachePaths& paths);

void remove_entry(const CachePaths& paths, const std::string& key);

// Deletes temporaries older than kStaleAfter, then the least recently used entries until at most `limit` bytes remain
// (nine tenths of it, so that a full cache is not walked for every new entry). Returns the bytes left.
std::uint64_t tidy_cache(const CachePaths& paths, std::uint64_t limit, platform::FileTime now);

}  // namespace mamba_scan::jit
