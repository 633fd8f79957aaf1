#include "jit/disk_cache.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <mutex>
#include <nlohmann/json.hpp>

#include "jit/cache_housekeeping.h"
#include "jit/cache_record.h"
#include "jit/sha256.h"
#include "platform/environment.h"
#include "platform/folders.h"
#include "platform/log.h"
#include "platform/paths.h"

namespace mamba_scan::jit {
namespace {

using platform::FileOutcome;
using platform::FileStatus;
using platform::FileTime;
using platform::LogLevel;

FileTime now() { return std::chrono::system_clock::now(); }

enum class Finding { kGood, kAbsent, kBroken };

struct Loaded {
  Finding finding = Finding::kAbsent;
  CacheRecord record;
  std::string payload;
};

Loaded read_entry(const CachePaths& paths, const std::string& key) {
  Loaded out;
  std::string text;
  // Unreadable for now (held by a virus scanner, no permission) is not broken: it is left alone.
  if (!platform::read_file(paths.record(key), &text)) return out;
  const FileStatus status = platform::read_file(paths.binary(key), &out.payload);
  if (!status && status.outcome != FileOutcome::kMissing) return out;
  std::optional<CacheRecord> record = read_record(text, key);
  const bool good = status && record && record->payload_bytes == out.payload.size() &&
                    record->payload_sha256 == sha256_hex(out.payload);
  out.finding = good ? Finding::kGood : Finding::kBroken;
  if (good) out.record = std::move(*record);
  return out;
}

// Two writers of one key may interleave between the two files; a moment later they agree. So a mismatch counts only
// when it is seen twice.
Loaded read_entry_twice_if_broken(const CachePaths& paths, const std::string& key) {
  Loaded first = read_entry(paths, key);
  return first.finding == Finding::kBroken ? read_entry(paths, key) : std::move(first);
}

FileStatus write_to(const std::string& folder, const std::string& path, std::string_view content) {
  FileStatus status = platform::write_file_atomically(path, content);
  if (status.outcome != FileOutcome::kMissing) return status;
  // First entry of this folder, or somebody removed the cache while we run.
  status = platform::create_folders(folder);
  return status ? platform::write_file_atomically(path, content) : status;
}

bool is_key(const std::string& key) {
  return key.size() == 64 && key.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

struct DiskCache::Housekeeping {
  std::mutex mutex;
  bool tidied = false;         // once per process at least, to sweep what others left
  std::uint64_t estimate = 0;  // bytes after the last walk plus what was stored since
};

DiskCache::DiskCache(std::string folder, std::uint64_t limit_bytes)
    : folder_(std::move(folder)), limit_bytes_(limit_bytes), housekeeping_(std::make_unique<Housekeeping>()) {}

DiskCache::~DiskCache() = default;

std::unique_ptr<DiskCache> DiskCache::from_environment() {
  std::uint64_t limit = kDefaultLimit;
  if (const auto text = platform::environment_variable("MAMBA_SCAN_CACHE_LIMIT")) {
    const auto parsed = parse_size(*text);
    if (parsed) {
      limit = *parsed;
    } else {
      platform::warn_once("cache limit",
                          "MAMBA_SCAN_CACHE_LIMIT=" + *text + " is not a size such as 1000000, 64M or 2G; using 256M");
    }
  }
  return std::make_unique<DiskCache>(platform::cache_folder(), limit);
}

std::optional<Binary> DiskCache::load(const std::string& key) {
  if (!enabled() || !is_key(key)) return std::nullopt;
  const CachePaths paths{folder_};
  Loaded loaded = read_entry_twice_if_broken(paths, key);
  if (loaded.finding == Finding::kBroken) {
    platform::log(LogLevel::kInfo, "a cached kernel is damaged and will be compiled anew: " + paths.binary(key));
    remove_entry(paths, key);
  }
  if (loaded.finding != Finding::kGood) return std::nullopt;
  platform::set_modified(paths.record(key), now());
  Binary binary;
  binary.bytes.assign(loaded.payload.begin(), loaded.payload.end());
  binary.info = std::move(loaded.record.info);
  binary.outcome = BuildOutcome::kDisk;
  return binary;
}

void DiskCache::store(const std::string& key, const Binary& binary) {
  if (!enabled() || !is_key(key)) return;
  const CachePaths paths{folder_};
  if (read_entry(paths, key).finding == Finding::kGood) return;
  const std::string_view payload(binary.bytes.data(), binary.bytes.size());
  CacheRecord record;
  record.key = key;
  record.payload_sha256 = sha256_hex(payload);
  record.payload_bytes = payload.size();
  record.created_unix_s = std::chrono::duration_cast<std::chrono::seconds>(now().time_since_epoch()).count();
  record.info = binary.info;
  const std::string text = to_text(record);
  if (payload.size() + text.size() > limit_bytes_) return;

  FileStatus status = write_to(paths.entry_folder(key), paths.binary(key), payload);
  if (status) status = write_to(paths.entry_folder(key), paths.record(key), text);
  if (status.outcome == FileOutcome::kBusy) return;  // somebody else's copy is in use there; ours stays in memory
  if (!status) {
    platform::warn_once("cache write " + folder_,
                        "compiled kernels cannot be kept in " + folder_ + ": " + status.message +
                            " They are compiled again in every process. MAMBA_SCAN_CACHE_DIR chooses another folder.");
    return;
  }
  std::lock_guard lock(housekeeping_->mutex);
  housekeeping_->estimate += payload.size() + text.size();
  if (!housekeeping_->tidied || housekeeping_->estimate > limit_bytes_) {
    housekeeping_->estimate = tidy_cache(paths, limit_bytes_, now());
    housekeeping_->tidied = true;
  }
}

std::optional<std::string> DiskCache::load_note(const std::string& key, NoteKind kind) {
  const std::string path = CachePaths{folder_}.note(key, kind);
  std::string text;
  if (!enabled() || !is_key(key) || !platform::read_file(path, &text)) return std::nullopt;
  const auto object = unseal(text);
  if (!object) {
    platform::log(LogLevel::kInfo, "removing a damaged file: " + path);
    platform::remove_file(path);
    return std::nullopt;
  }
  return object->dump();
}

bool DiskCache::store_note(const std::string& key, const std::string& json_object, NoteKind kind) {
  const auto object = nlohmann::json::parse(json_object, nullptr, false);
  if (!enabled() || !is_key(key) || !object.is_object()) return false;
  const CachePaths paths{folder_};
  const FileStatus status = write_to(paths.notes(kind), paths.note(key, kind), seal(object));
  if (!status) platform::log(LogLevel::kDebug, "cannot write " + paths.note(key, kind) + ": " + status.message);
  return static_cast<bool>(status);
}

std::vector<CacheEntry> DiskCache::list() const {
  std::vector<CacheEntry> out;
  if (folder_.empty()) return out;
  const CachePaths paths{folder_};
  for (const StoredEntry& stored : scan_cache(paths).entries) {
    std::string text;
    if (!platform::read_file(paths.record(stored.key), &text)) continue;
    std::optional<CacheRecord> record = read_record(text, stored.key);
    if (!record) continue;
    record->info.log.clear();
    out.push_back({stored.key, std::move(record->info), stored.bytes,
                   FileTime(std::chrono::seconds(record->created_unix_s)), stored.last_used});
  }
  std::sort(out.begin(), out.end(), [](const CacheEntry& a, const CacheEntry& b) { return a.last_used > b.last_used; });
  return out;
}

CacheVerification DiskCache::verify() {
  CacheVerification out;
  if (folder_.empty()) return out;
  const CachePaths paths{folder_};
  for (const StoredEntry& stored : scan_cache(paths).entries) {
    ++out.checked;
    const Finding finding = read_entry_twice_if_broken(paths, stored.key).finding;
    if (finding == Finding::kGood) ++out.good;
    if (finding != Finding::kBroken) continue;
    remove_entry(paths, stored.key);
    out.removed.push_back(stored.key);
  }
  if (enabled()) tidy_cache(paths, limit_bytes_, now());  // off, it would make room for nothing
  return out;
}

CacheRemoval DiskCache::clear() {
  CacheRemoval out;
  if (folder_.empty()) return out;
  const CachePaths paths{folder_};
  CacheScan scan = scan_cache(paths);
  for (const StoredEntry& stored : scan.entries) {
    remove_entry(paths, stored.key);
    if (platform::is_file(paths.record(stored.key))) continue;
    ++out.entries;
    out.bytes += stored.bytes;
  }
  for (const Leftover& leftover : scan.leftovers) platform::remove_file(leftover.path);
  const std::string facts = paths.notes(NoteKind::kFact);
  std::vector<platform::FileInfo> notes;
  platform::list_folder(facts, &notes);
  for (const platform::FileInfo& note : notes) {
    if (note.name.ends_with(kRecordSuffix)) platform::remove_file(platform::join(facts, note.name));
  }
  return out;
}

std::optional<std::uint64_t> parse_size(const std::string& text) {
  std::size_t digits = text.find_first_not_of("0123456789");
  if (text.empty() || digits == 0) return std::nullopt;
  if (digits == std::string::npos) digits = text.size();
  if (digits > 18) return std::nullopt;
  const std::uint64_t number = std::stoull(text.substr(0, digits));
  std::string unit = text.substr(digits);
  if (unit.ends_with("B") || unit.ends_with("b")) unit.pop_back();
  if (unit.size() > 1) return std::nullopt;
  int shift = 0;
  if (!unit.empty()) {
    switch (unit[0]) {
      case 'k':
      case 'K':
        shift = 10;
        break;
      case 'm':
      case 'M':
        shift = 20;
        break;
      case 'g':
      case 'G':
        shift = 30;
        break;
      default:
        return std::nullopt;
    }
  }
  if (number > (std::numeric_limits<std::uint64_t>::max() >> shift)) return std::nullopt;
  return number << shift;
}

}  // namespace mamba_scan::jit
