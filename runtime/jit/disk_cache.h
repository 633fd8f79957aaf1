// Compiled kernels on disk, shared by every process of the user without any lock.
//
//   <folder>/entries/<2 hex>/<62 hex>.cubin   the bytes
//   <folder>/entries/<2 hex>/<62 hex>.json    what the compiler said, and the SHA-256 of the bytes
//   <folder>/notes/<64 hex>.json              small facts that are slow to find out (which NVRTC lies where)
//   <folder>/tuned/<64 hex>.json              what was measured on this machine, which clear() leaves
//
// The .cubin is written first and the .json last, each by atomic replacement, so an entry exists once its .json does.
// Whatever does not match its hash is deleted and counts as absent. The .json's time of modification says when the
// entry was last used. Nothing here throws or fails towards the caller: the worst case is a compile.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "jit/binary.h"
#include "jit/cache_housekeeping.h"
#include "platform/export.h"
#include "platform/files.h"

namespace mamba_scan::jit {

struct CacheEntry {
  std::string key;  // 64 hex digits
  BinaryInfo info;  // without the log
  std::uint64_t bytes = 0;
  platform::FileTime created;
  platform::FileTime last_used;
};

struct CacheVerification {
  std::size_t checked = 0;
  std::size_t good = 0;
  std::vector<std::string> removed;  // keys that were broken
};

struct CacheRemoval {
  std::size_t entries = 0;
  std::uint64_t bytes = 0;
};

// Thread safe.
class MAMBA_SCAN_API DiskCache {
 public:
  static constexpr std::uint64_t kDefaultLimit = 256ull << 20;

  // An empty folder or a limit of zero: nothing is kept.
  DiskCache(std::string folder, std::uint64_t limit_bytes);
  ~DiskCache();
  DiskCache(const DiskCache&) = delete;
  DiskCache& operator=(const DiskCache&) = delete;

  // Folder: platform::cache_folder(); limit: MAMBA_SCAN_CACHE_LIMIT in bytes, or "64K", "256M", "2G".
  static std::unique_ptr<DiskCache> from_environment();

  std::optional<Binary> load(const std::string& key);
  // Keeps an intact entry that is there already (another process was faster). Then holds the size limit.
  void store(const std::string& key, const Binary& binary);

  std::optional<std::string> load_note(const std::string& key, NoteKind kind = NoteKind::kFact);
  // Whether it is there now.
  bool store_note(const std::string& key, const std::string& json_object, NoteKind kind = NoteKind::kFact);

  std::vector<CacheEntry> list() const;  // most recently used first; does not read the binaries
  CacheVerification verify();            // reads everything, deletes what is broken
  CacheRemoval clear();                  // facts and temporaries too, measurements not

  const std::string& folder() const { return folder_; }
  std::uint64_t limit_bytes() const { return limit_bytes_; }
  bool enabled() const { return !folder_.empty() && limit_bytes_ > 0; }

 private:
  struct Housekeeping;

  std::string folder_;
  std::uint64_t limit_bytes_;
  std::unique_ptr<Housekeeping> housekeeping_;
};

// "256M" -> 268435456; nothing for what is not a size.
std::optional<std::uint64_t> parse_size(const std::string& text);

}  // namespace mamba_scan::jit
