#include "jit/disk_cache.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>

#include "jit/cache_housekeeping.h"
#include "jit/cache_record.h"
#include "jit/sha256.h"
#include "jit_test_support.h"

#if !defined(_WIN32)
#include <sys/stat.h>
#endif

namespace mamba_scan::jit {
namespace {

using platform::FileTime;
using platform::LogLevel;
using test::LogCapture;
using test::ScopedVariable;
using test::ScratchFolder;

constexpr std::uint64_t kPlenty = 1 << 20;

std::string key_of(const std::string& text) { return sha256_hex(text); }

Binary make_binary(const std::string& payload) {
  Binary binary;
  binary.bytes.assign(payload.begin(), payload.end());
  binary.info.variant = "scan[MS_DTYPE=1]";
  binary.info.entry = "scan";
  binary.info.arch = "sm_90";
  binary.info.nvrtc_version = "13.0.88";
  binary.info.registers = 40;
  binary.info.shared_bytes = 1024;
  binary.info.local_bytes = 16;
  binary.info.spill_store_bytes = 8;
  binary.info.spill_load_bytes = 4;
  binary.info.compile_ms = 123.456;
  binary.info.log = "ptxas info \xFF not UTF-8";
  return binary;
}

std::string payload_of(const Binary& binary) { return {binary.bytes.begin(), binary.bytes.end()}; }

std::string read(const std::string& path) {
  std::string content;
  EXPECT_TRUE(platform::read_file(path, &content)) << path;
  return content;
}

void write(const std::string& path, const std::string& content) {
  ASSERT_TRUE(test::write_plainly(path, content)) << path;
}

std::size_t files_below(const std::string& folder) {
  std::vector<platform::FileInfo> entries;
  platform::list_folder(folder, &entries);
  std::size_t count = 0;
  for (const auto& entry : entries) count += entry.is_folder ? files_below(platform::join(folder, entry.name)) : 1;
  return count;
}

TEST(DiskCache, GivesBackWhatWasStored) {
  const ScratchFolder scratch;
  const std::string key = key_of("k"), payload("bytes\0with zero", 15);
  EXPECT_FALSE(DiskCache(scratch.path(), kPlenty).load(key));
  DiskCache(scratch.path(), kPlenty).store(key, make_binary(payload));
  const auto loaded = DiskCache(scratch.path(), kPlenty).load(key);
  ASSERT_TRUE(loaded);
  EXPECT_EQ(payload_of(*loaded), payload);
  EXPECT_EQ(loaded->outcome, BuildOutcome::kDisk);
  EXPECT_EQ(loaded->info.variant, "scan[MS_DTYPE=1]");
  EXPECT_EQ(loaded->info.entry, "scan");
  EXPECT_EQ(loaded->info.arch, "sm_90");
  EXPECT_EQ(loaded->info.nvrtc_version, "13.0.88");
  EXPECT_FALSE(loaded->info.is_ptx);
  EXPECT_EQ(loaded->info.registers, 40);
  EXPECT_EQ(loaded->info.shared_bytes, 1024);
  EXPECT_EQ(loaded->info.local_bytes, 16);
  EXPECT_EQ(loaded->info.spill_store_bytes, 8);
  EXPECT_EQ(loaded->info.spill_load_bytes, 4);
  EXPECT_EQ(loaded->info.compile_ms, 123.456);
  EXPECT_EQ(loaded->info.log, "ptxas info \xEF\xBF\xBD not UTF-8");
  EXPECT_EQ(files_below(scratch.path()), 2u);
  EXPECT_TRUE(platform::is_file(scratch / ("entries/" + key.substr(0, 2) + "/" + key.substr(2) + ".cubin")));
}

TEST(DiskCache, RejectsEveryTruncationAndForgetsTheEntry) {
  const ScratchFolder scratch;
  DiskCache cache(scratch.path(), kPlenty);
  const CachePaths paths{scratch.path()};
  const std::string key = key_of("k");
  cache.store(key, make_binary("a small payload of 37 bytes or so....."));
  const std::string binary = read(paths.binary(key)), record = read(paths.record(key));
  for (const bool cut_record : {false, true}) {
    const std::string& whole = cut_record ? record : binary;
    // The record ends in a line break that means nothing.
    for (std::size_t length = 0; length < whole.size() - (cut_record ? 1 : 0); ++length) {
      const LogCapture capture;
      write(paths.binary(key), binary);
      write(paths.record(key), record);
      write(cut_record ? paths.record(key) : paths.binary(key), whole.substr(0, length));
      EXPECT_FALSE(cache.load(key)) << (cut_record ? "record" : "binary") << " cut to " << length;
      EXPECT_EQ(files_below(scratch.path()), 0u) << length;
      EXPECT_EQ(capture.at(LogLevel::kInfo).size(), 1u) << "one log line";
      EXPECT_TRUE(capture.at(LogLevel::kWarning).empty());
    }
  }
  cache.store(key, make_binary("new"));
  EXPECT_TRUE(cache.load(key));
}

TEST(DiskCache, RejectsEveryFlippedBitOfTheBytes) {
  const ScratchFolder scratch;
  DiskCache cache(scratch.path(), kPlenty);
  const CachePaths paths{scratch.path()};
  const std::string key = key_of("k");
  cache.store(key, make_binary("0123456789"));
  const std::string binary = read(paths.binary(key)), record = read(paths.record(key));
  for (std::size_t bit = 0; bit < 8 * binary.size(); ++bit) {
    std::string damaged = binary;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    write(paths.record(key), record);
    write(paths.binary(key), damaged);
    EXPECT_FALSE(cache.load(key)) << "bit " << bit;
    EXPECT_FALSE(platform::is_file(paths.record(key)));
  }
}

TEST(DiskCache, NeverReportsANumberFromADamagedRecord) {
  const ScratchFolder scratch;
  const std::string key = key_of("k");
  DiskCache cache(scratch.path(), kPlenty);
  cache.store(key, make_binary("0123456789"));
  const std::string record = read(CachePaths{scratch.path()}.record(key));
  const auto intact = read_record(record, key);
  ASSERT_TRUE(intact);
  std::size_t still_read = 0;
  for (std::size_t bit = 0; bit < 8 * record.size(); ++bit) {
    std::string damaged = record;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    const auto result = read_record(damaged, key);
    if (!result) continue;
    ++still_read;  // white space became other white space
    EXPECT_EQ(to_text(*result), to_text(*intact)) << "bit " << bit;
  }
  EXPECT_LT(still_read, record.size() / 8);
  EXPECT_FALSE(read_record(record, key_of("other"))) << "a record under another name is not that entry's";
}

TEST(DiskCache, HalfAnEntryIsNone) {
  const ScratchFolder scratch;
  DiskCache cache(scratch.path(), kPlenty);
  const CachePaths paths{scratch.path()};
  const std::string key = key_of("k");
  cache.store(key, make_binary("x"));
  platform::remove_file(paths.record(key));  // as if the writer had died between its two files
  EXPECT_FALSE(cache.load(key));
  EXPECT_TRUE(platform::is_file(paths.binary(key))) << "its writer may be about to finish";
  cache.store(key, make_binary("x"));
  EXPECT_TRUE(cache.load(key));
  platform::remove_file(paths.binary(key));
  EXPECT_FALSE(cache.load(key));
  EXPECT_FALSE(platform::is_file(paths.record(key)));
}

TEST(DiskCache, KeepsTheEntryOfAFasterProcess) {
  const ScratchFolder scratch;
  DiskCache cache(scratch.path(), kPlenty);
  cache.store(key_of("k"), make_binary("first"));
  cache.store(key_of("k"), make_binary("second"));
  EXPECT_EQ(payload_of(*cache.load(key_of("k"))), "first");
}

TEST(DiskCache, WarnsOnceAndGoesOnWhereNothingCanBeWritten) {
  const ScratchFolder scratch;
  const std::string blocked = scratch / "blocked";
  write(blocked, "a file where the folder should be");
  for (const std::string& folder : {blocked, platform::join(blocked, "deeper")}) {
    const LogCapture capture;
    DiskCache cache(folder, kPlenty);
    for (int i = 0; i < 3; ++i) {
      EXPECT_NO_THROW(cache.store(key_of(std::to_string(i)), make_binary("x")));
      EXPECT_FALSE(cache.load(key_of(std::to_string(i))));
    }
    const auto warnings = capture.at(LogLevel::kWarning);
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_NE(warnings[0].find(folder), std::string::npos) << warnings[0];
    EXPECT_NE(warnings[0].find("MAMBA_SCAN_CACHE_DIR"), std::string::npos) << warnings[0];
    EXPECT_EQ(cache.list().size(), 0u);
    EXPECT_EQ(cache.verify().checked, 0u);
    EXPECT_EQ(cache.clear().entries, 0u);
  }
  EXPECT_EQ(read(blocked), "a file where the folder should be");
}

#if !defined(_WIN32)
TEST(DiskCache, ReadsButDoesNotWriteAReadOnlyFolder) {
  const ScratchFolder scratch;
  DiskCache cache(scratch.path(), kPlenty);
  cache.store(key_of("k"), make_binary("kept"));
  const std::string entry_folder = CachePaths{scratch.path()}.entry_folder(key_of("k"));
  // The superuser writes anywhere, so then only reading is shown.
  chmod(entry_folder.c_str(), 0555);
  EXPECT_EQ(payload_of(cache.load(key_of("k")).value_or(Binary{})), "kept");
  chmod(entry_folder.c_str(), 0755);
}
#endif

TEST(DiskCache, ComesBackWhenItsFolderVanishes) {
  const ScratchFolder scratch;
  const LogCapture capture;
  const std::string folder = scratch / "cache";
  DiskCache cache(folder, kPlenty);
  cache.store(key_of("k"), make_binary("x"));
  test::remove_tree(folder);
  EXPECT_FALSE(cache.load(key_of("k")));
  cache.store(key_of("k"), make_binary("y"));
  EXPECT_EQ(payload_of(*cache.load(key_of("k"))), "y");
  EXPECT_TRUE(capture.at(LogLevel::kWarning).empty());
}

#if defined(_WIN32)
TEST(DiskCache, LeavesAnEntryAloneThatAScannerHolds) {
  const ScratchFolder scratch;
  const LogCapture capture;
  DiskCache cache(scratch.path(), kPlenty);
  const CachePaths paths{scratch.path()};
  const std::string key = key_of("k");
  cache.store(key, make_binary("x"));
  HANDLE handle = CreateFileW(platform::win32_path(paths.binary(key)).c_str(), GENERIC_READ, 0, nullptr, OPEN_EXISTING,
                              FILE_ATTRIBUTE_NORMAL, nullptr);
  ASSERT_NE(handle, INVALID_HANDLE_VALUE);
  EXPECT_FALSE(cache.load(key));
  EXPECT_NO_THROW(cache.store(key, make_binary("y")));
  CloseHandle(handle);
  EXPECT_EQ(payload_of(cache.load(key).value_or(Binary{})), "x");
  EXPECT_TRUE(capture.at(LogLevel::kWarning).empty());
}
#endif

TEST(DiskCache, HoldsItsLimitAndDropsTheLeastRecentlyUsed) {
  const ScratchFolder scratch;
  const std::string payload(4000, 'x');
  std::uint64_t entry_bytes = 0;
  {
    DiskCache cache(scratch.path(), kPlenty);
    cache.store(key_of("size"), make_binary(payload));
    entry_bytes = cache.list().at(0).bytes;
    cache.clear();
  }
  const std::uint64_t limit = 10 * entry_bytes + entry_bytes / 2;
  DiskCache cache(scratch.path(), limit);
  const CachePaths paths{scratch.path()};
  const FileTime start = std::chrono::system_clock::now() - std::chrono::hours(10);
  for (int i = 0; i < 10; ++i) {
    cache.store(key_of(std::to_string(i)), make_binary(payload));
    platform::set_modified(paths.record(key_of(std::to_string(i))), start + std::chrono::minutes(i));
  }
  ASSERT_EQ(cache.list().size(), 10u);
  EXPECT_TRUE(cache.load(key_of("0"))) << "used again: now the most recent";
  cache.store(key_of("10"), make_binary(payload));
  EXPECT_LE(scan_cache(paths).bytes, limit);
  EXPECT_TRUE(cache.load(key_of("0")));
  EXPECT_TRUE(cache.load(key_of("10")));
  EXPECT_FALSE(cache.load(key_of("1")));
  EXPECT_TRUE(cache.load(key_of("9")));
  for (int i = 11; i < 40; ++i) {
    cache.store(key_of(std::to_string(i)), make_binary(payload));
    ASSERT_LE(scan_cache(paths).bytes, limit) << i;
    ASSERT_TRUE(cache.load(key_of(std::to_string(i))));
  }
}

TEST(DiskCache, KeepsNothingLargerThanItsLimitAndNothingAtZero) {
  const ScratchFolder scratch;
  DiskCache small(scratch.path(), 1000);
  small.store(key_of("k"), make_binary(std::string(2000, 'x')));
  EXPECT_FALSE(small.load(key_of("k")));
  DiskCache off(scratch.path(), 0);
  off.store(key_of("k"), make_binary("x"));
  EXPECT_FALSE(off.load(key_of("k")));
  DiskCache nowhere("", kPlenty);
  nowhere.store(key_of("k"), make_binary("x"));
  EXPECT_FALSE(nowhere.load(key_of("k")));
  EXPECT_EQ(files_below(scratch.path()), 0u);
}

TEST(DiskCache, VerifiesWhatOthersKeepWhileItIsOff) {
  const ScratchFolder scratch;
  DiskCache on(scratch.path(), kPlenty);
  on.store(key_of("k"), make_binary("x"));
  const CacheVerification verification = DiskCache(scratch.path(), 0).verify();
  EXPECT_EQ(verification.good, 1u);
  EXPECT_TRUE(on.load(key_of("k")));
}

TEST(DiskCache, SweepsWhatDeadProcessesLeftAndNothingYoung) {
  const ScratchFolder scratch;
  const CachePaths paths{scratch.path()};
  const std::string key = key_of("k"), other = key_of("other");
  DiskCache(scratch.path(), kPlenty).store(key, make_binary("x"));
  const std::string stale = paths.binary(key) + ".4711-0-1.tmp", young = paths.binary(key) + ".4712-0-1.tmp";
  write(stale, "half");
  write(young, "half");
  platform::create_folders(paths.entry_folder(other));
  write(paths.binary(other), "its record was never written");
  const FileTime now = std::chrono::system_clock::now();
  platform::set_modified(stale, now - std::chrono::minutes(61));
  platform::set_modified(young, now - std::chrono::minutes(59));
  platform::set_modified(paths.binary(other), now - std::chrono::minutes(61));
  platform::set_modified(paths.record(key), now - std::chrono::hours(1000));
  DiskCache(scratch.path(), kPlenty).store(key_of("next"), make_binary("x"));
  EXPECT_FALSE(platform::is_file(stale));
  EXPECT_FALSE(platform::is_file(paths.binary(other)));
  EXPECT_TRUE(platform::is_file(young));
  EXPECT_TRUE(DiskCache(scratch.path(), kPlenty).load(key)) << "age alone is no reason to go";
}

TEST(DiskCache, ListsVerifiesAndClears) {
  const ScratchFolder scratch;
  DiskCache cache(scratch.path(), kPlenty);
  const CachePaths paths{scratch.path()};
  for (const char* name : {"a", "b", "c"}) cache.store(key_of(name), make_binary(name));
  EXPECT_TRUE(cache.store_note(key_of("note"), "{\"x\": 1}"));
  EXPECT_TRUE(cache.store_note(key_of("note"), "{\"y\": 2}", NoteKind::kMeasurement));
  platform::set_modified(paths.record(key_of("b")), std::chrono::system_clock::now() + std::chrono::hours(1));
  const auto entries = cache.list();
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].key, key_of("b")) << "most recently used first";
  EXPECT_EQ(entries[0].info.variant, "scan[MS_DTYPE=1]");
  EXPECT_LT(std::chrono::system_clock::now() - entries[0].created, std::chrono::minutes(1));

  write(paths.binary(key_of("a")), "damaged");
  const CacheVerification verification = cache.verify();
  EXPECT_EQ(verification.checked, 3u);
  EXPECT_EQ(verification.good, 2u);
  EXPECT_EQ(verification.removed, std::vector<std::string>{key_of("a")});

  const CacheRemoval removal = cache.clear();
  EXPECT_EQ(removal.entries, 2u);
  EXPECT_GT(removal.bytes, 0u);
  EXPECT_FALSE(cache.load_note(key_of("note")));
  EXPECT_EQ(cache.load_note(key_of("note"), NoteKind::kMeasurement), "{\"y\":2}") << "it cannot be found out again";
  EXPECT_EQ(files_below(scratch.path()), 1u);
}

TEST(DiskCache, NotesSurviveAndDamagedOnesVanish) {
  const ScratchFolder scratch;
  DiskCache cache(scratch.path(), kPlenty);
  const std::string key = key_of("note");
  EXPECT_FALSE(cache.load_note(key));
  cache.store_note(key, "{\"x\": 1}");
  EXPECT_EQ(cache.load_note(key), "{\"x\":1}");
  const std::string path = CachePaths{scratch.path()}.note(key, NoteKind::kFact);
  std::string text = read(path);
  text[text.find('1')] = '2';
  write(path, text);
  EXPECT_FALSE(cache.load_note(key));
  EXPECT_FALSE(platform::is_file(path));
}

TEST(DiskCache, WorksUnderALongPath) {
  const ScratchFolder scratch;
  std::string folder = scratch.path();
  while (folder.size() < 400) folder = platform::join(folder, "a folder with quite a long name " + test::kOddName);
  DiskCache cache(folder, kPlenty);
  cache.store(key_of("k"), make_binary("x"));
  EXPECT_TRUE(cache.load(key_of("k")));
  EXPECT_EQ(cache.list().size(), 1u);
  EXPECT_EQ(cache.clear().entries, 1u);
}

TEST(DiskCache, ReadsItsLimitFromTheEnvironment) {
  const ScratchFolder scratch;
  ScopedVariable folder("MAMBA_SCAN_CACHE_DIR", scratch.path());
  ScopedVariable limit("MAMBA_SCAN_CACHE_LIMIT", "3M");
  EXPECT_EQ(DiskCache::from_environment()->limit_bytes(), 3u << 20);
  EXPECT_EQ(DiskCache::from_environment()->folder(), scratch.path());
  platform::set_environment_variable("MAMBA_SCAN_CACHE_LIMIT", "");
  EXPECT_EQ(DiskCache::from_environment()->limit_bytes(), 256u << 20);
  const LogCapture capture;
  platform::set_environment_variable("MAMBA_SCAN_CACHE_LIMIT", "lots");
  EXPECT_EQ(DiskCache::from_environment()->limit_bytes(), 256u << 20);
  EXPECT_EQ(capture.at(LogLevel::kWarning).size(), 1u);
}

TEST(ParseSize, UnderstandsUnitsAndNothingElse) {
  EXPECT_EQ(parse_size("0"), 0u);
  EXPECT_EQ(parse_size("1000"), 1000u);
  EXPECT_EQ(parse_size("64K"), 65536u);
  EXPECT_EQ(parse_size("2g"), 2ull << 30);
  EXPECT_EQ(parse_size("1MB"), 1u << 20);
  for (const char* text : {"", "M", "-1", "1.5M", "1X", "1MM", "99999999999999999999", "999999999999999999G"}) {
    EXPECT_FALSE(parse_size(text)) << text;
  }
}

// ---- races between processes --------------------------------------------------------------------------------------

constexpr int kRaceKeys = 3;
constexpr int kRaceRounds = 12;

// Random content that anybody can check: its own SHA-256, then the bytes.
std::string checkable_payload(std::mt19937& random) {
  std::string body(3000 + random() % 3000, '\0');
  for (char& byte : body) byte = static_cast<char>(random());
  return sha256_hex(body) + body;
}

bool is_whole(const std::string& payload) {
  return payload.size() > 64 && payload.substr(0, 64) == sha256_hex(std::string_view(payload).substr(64));
}

}  // namespace

// One of the racing processes: different bytes for the same keys, so that any mixture would show.
int race_worker() {
  const std::string folder = platform::environment_variable("MAMBA_SCAN_TEST_RACE_FOLDER").value_or("");
  const std::string start = folder + ".go";
  DiskCache cache(folder, kPlenty);
  std::mt19937 random(static_cast<unsigned>(platform::process_id()));
  while (!platform::is_file(start)) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  for (int round = 0; round < kRaceRounds; ++round) {
    const std::string key = key_of(std::to_string(round % kRaceKeys));
    if (const auto loaded = cache.load(key)) {
      const std::string payload = payload_of(*loaded);
      if (!is_whole(payload) || loaded->info.variant != payload.substr(0, 64)) return 3;
    }
    Binary binary = make_binary(checkable_payload(random));
    binary.info.variant = payload_of(binary).substr(0, 64);  // ties the record to these very bytes
    cache.store(key, binary);
    // Now and then an entry goes, as eviction would have it, and the race begins anew.
    if (random() % 4 == 0) remove_entry(CachePaths{folder}, key);
  }
  return 0;
}

namespace {

TEST(DiskCacheRace, SixteenProcessesOnTheSameKeysNeverSeeAMixture) {
  if (test::ChildProcess("--nothing").wait() == 127) GTEST_SKIP() << "an emulator that cannot start its own programs";
  const ScratchFolder scratch;
  const std::string folder = scratch / "cache";
  ScopedVariable variable("MAMBA_SCAN_TEST_RACE_FOLDER", folder);
  std::vector<test::ChildProcess> workers;
  for (int i = 0; i < 16; ++i) workers.emplace_back("--race-worker");
  write(folder + ".go", "");
  for (test::ChildProcess& worker : workers) EXPECT_EQ(worker.wait(), 0);

  DiskCache cache(folder, kPlenty);
  const CacheVerification verification = cache.verify();
  EXPECT_LE(verification.checked, static_cast<std::size_t>(kRaceKeys));
  std::vector<platform::FileInfo> prefixes;
  platform::list_folder(CachePaths{folder}.entries(), &prefixes);
  for (const auto& prefix : prefixes) {
    std::vector<platform::FileInfo> files;
    platform::list_folder(platform::join(CachePaths{folder}.entries(), prefix.name), &files);
    for (const auto& file : files) EXPECT_FALSE(file.name.ends_with(".tmp")) << file.name;
  }
  // Whatever the race left, the cache works.
  for (int i = 0; i < kRaceKeys; ++i) {
    std::mt19937 random(static_cast<unsigned>(i));
    cache.store(key_of(std::to_string(i)), make_binary(checkable_payload(random)));
    const auto loaded = cache.load(key_of(std::to_string(i)));
    ASSERT_TRUE(loaded);
    EXPECT_TRUE(is_whole(payload_of(*loaded)));
  }
}

}  // namespace
}  // namespace mamba_scan::jit

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--nothing") == 0) return 0;
  if (argc == 2 && std::strcmp(argv[1], "--race-worker") == 0) return mamba_scan::jit::race_worker();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
