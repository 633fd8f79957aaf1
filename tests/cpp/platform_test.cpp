#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <clocale>
#include <string>
#include <thread>

#include "jit_test_support.h"
#include "platform/dynamic_library.h"
#include "platform/error.h"
#include "platform/processors.h"
#include "platform/thread_locale.h"
#include "platform/unicode.h"

#if !defined(_WIN32)
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>
#include <csignal>
#endif

namespace mamba_scan::platform {
namespace {

using test::LogCapture;
using test::ScopedVariable;
using test::ScratchFolder;

TEST(Unicode, RoundTripsEveryPlane) {
  for (char32_t code : {0x41u, 0x7Fu, 0x80u, 0x7FFu, 0x800u, 0xD7FFu, 0xE000u, 0xFFFDu, 0xFFFFu, 0x10000u, 0x10FFFFu}) {
    std::u16string utf16;
    if (code < 0x10000) {
      utf16.push_back(static_cast<char16_t>(code));
    } else {
      utf16.push_back(static_cast<char16_t>(0xD800 + ((code - 0x10000) >> 10)));
      utf16.push_back(static_cast<char16_t>(0xDC00 + ((code - 0x10000) & 0x3FF)));
    }
    EXPECT_EQ(to_utf16(to_utf8(utf16)), utf16) << std::hex << static_cast<unsigned>(code);
  }
  EXPECT_EQ(to_utf8(u"J\u00FCrgen \u5C71 \U0001F40D"), "J\xC3\xBCrgen \xE5\xB1\xB1 \xF0\x9F\x90\x8D");
  EXPECT_EQ(to_utf16(test::kOddName).size(), 17u);
}

TEST(Unicode, ReplacesWhatIsNotText) {
  EXPECT_EQ(to_utf16("a\xFFz"), u"a\uFFFDz");
  EXPECT_EQ(to_utf16("\xC3"), u"\uFFFD");                       // cut short
  EXPECT_EQ(to_utf16("\xC0\xAF"), u"\uFFFD\uFFFD");             // overlong "/"
  EXPECT_EQ(to_utf16("\xED\xA0\x80"), u"\uFFFD\uFFFD\uFFFD");   // a surrogate in UTF-8
  EXPECT_EQ(to_utf16("\xF4\x90\x80\x80").find(u'\uFFFD'), 0u);  // beyond U+10FFFF
  const char16_t alone[] = {u'a', 0xD83D, u'b', 0xDC0D};
  EXPECT_EQ(to_utf8(std::u16string_view(alone, 4)),
            "a\xEF\xBF\xBD"
            "b\xEF\xBF\xBD");
}

TEST(Paths, JoinAndTakeApart) {
#if defined(_WIN32)
  EXPECT_EQ(join("C:\\a", "b/c"), "C:\\a\\b\\c");
  EXPECT_EQ(join("C:\\a\\", "b"), "C:\\a\\b");
  EXPECT_EQ(parent_folder("C:\\a\\b"), "C:\\a");
  EXPECT_EQ(parent_folder("C:\\a"), "C:\\");
  EXPECT_EQ(parent_folder("C:\\"), "");
  EXPECT_EQ(parent_folder("\\\\server\\share\\x"), "\\\\server\\share\\");
  EXPECT_TRUE(is_absolute("C:/a"));
  EXPECT_TRUE(is_absolute("\\\\server\\share"));
  EXPECT_FALSE(is_absolute("C:a"));
  EXPECT_FALSE(is_absolute("\\a"));
#else
  EXPECT_EQ(join("/a", "b/c"), "/a/b/c");
  EXPECT_EQ(join("/", "b"), "/b");
  EXPECT_EQ(join("", "b"), "b");
  EXPECT_EQ(parent_folder("/a/b/"), "/a");
  EXPECT_EQ(parent_folder("/a"), "/");
  EXPECT_EQ(parent_folder("/"), "");
  EXPECT_TRUE(is_absolute("/a"));
#endif
  EXPECT_EQ(parent_folder("a"), "");
  EXPECT_EQ(file_name(join("a", "b.txt")), "b.txt");
  EXPECT_FALSE(is_absolute("a"));
}

TEST(Environment, KeepsUtf8AndTreatsEmptyAsUnset) {
  const std::string name = "MAMBA_SCAN_TEST_VARIABLE";
  EXPECT_FALSE(environment_variable(name));
  set_environment_variable(name, test::kOddName);
  EXPECT_EQ(environment_variable(name), test::kOddName);
  const std::string longer(3000, 'x');
  set_environment_variable(name, longer);
  EXPECT_EQ(environment_variable(name), longer);
  set_environment_variable(name, "");
  EXPECT_FALSE(environment_variable(name));
}

TEST(Folders, RelativePathsAreMadeAbsolute) {
  const std::string here = absolute_path("x");
  EXPECT_TRUE(is_absolute(here));
  EXPECT_EQ(file_name(here), "x");
  EXPECT_EQ(absolute_path(here), here);
  EXPECT_TRUE(is_folder(parent_folder(here)));
  ScopedVariable relative("MAMBA_SCAN_CACHE_DIR", "x");
  EXPECT_EQ(cache_folder(), here) << "another working folder would be another cache";
}

TEST(Processors, AreThoseThatTheProcessMayRunOn) {
  EXPECT_GE(usable_processors(), 1);
#if defined(__linux__)
  cpu_set_t former, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof former, &former), 0);
  CPU_ZERO(&one);
  for (int i = 0; CPU_COUNT(&one) == 0; ++i)
    if (CPU_ISSET(i, &former)) CPU_SET(i, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(usable_processors(), 1);
  ASSERT_EQ(sched_setaffinity(0, sizeof former, &former), 0);
  EXPECT_EQ(usable_processors(), CPU_COUNT(&former));
#endif
}

TEST(Folders, CacheFolderFollowsItsVariables) {
  const ScratchFolder scratch;
  ScopedVariable unset("MAMBA_SCAN_CACHE_DIR", "");
#if defined(_WIN32)
  ScopedVariable local("LOCALAPPDATA", scratch.path());
  EXPECT_EQ(cache_folder(), join(scratch.path(), "mamba_scan\\cache"));
  set_environment_variable("LOCALAPPDATA", "");
  EXPECT_TRUE(cache_folder().ends_with("\\mamba_scan\\cache")) << cache_folder();
#else
  ScopedVariable home("HOME", "/home/nobody");
  ScopedVariable xdg("XDG_CACHE_HOME", scratch.path());
  EXPECT_EQ(cache_folder(), join(scratch.path(), "mamba_scan"));
  set_environment_variable("XDG_CACHE_HOME", "relative");
  EXPECT_EQ(cache_folder(), "/home/nobody/.cache/mamba_scan");
  set_environment_variable("XDG_CACHE_HOME", "");
  EXPECT_EQ(cache_folder(), "/home/nobody/.cache/mamba_scan");
#endif
  ScopedVariable direct("MAMBA_SCAN_CACHE_DIR", scratch.path());
  EXPECT_EQ(cache_folder(), scratch.path());
}

TEST(Folders, NameTheProgramAndItsFolder) {
  EXPECT_TRUE(is_file(executable_path())) << executable_path();
  static const int anchor = 0;
  EXPECT_EQ(library_folder_of(&anchor), parent_folder(executable_path()));
  EXPECT_TRUE(is_folder(temporary_folder())) << temporary_folder();
}

TEST(Files, WriteReadListTouchRemoveUnderAnOddName) {
  const ScratchFolder scratch;
  const std::string file = scratch / "a.bin";
  std::string content("zero\0inside", 11), back;
  ASSERT_TRUE(write_file_atomically(file, content));
  ASSERT_TRUE(read_file(file, &back));
  EXPECT_EQ(back, content);
  ASSERT_TRUE(write_file_atomically(file, ""));
  ASSERT_TRUE(read_file(file, &back));
  EXPECT_EQ(back, "");

  ASSERT_TRUE(create_folders(scratch / "b/c/d"));
  ASSERT_TRUE(create_folders(scratch / "b/c/d")) << "existing folders are fine";
  EXPECT_TRUE(is_folder(scratch / "b/c/d"));
  EXPECT_FALSE(is_file(scratch / "b"));

  std::vector<FileInfo> entries;
  ASSERT_TRUE(list_folder(scratch.path(), &entries));
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  ASSERT_EQ(entries.size(), 2u) << "no temporary may be left";
  EXPECT_EQ(entries[0].name, "a.bin");
  EXPECT_EQ(entries[0].size, 0u);
  EXPECT_TRUE(entries[1].is_folder);

  const FileTime past =
      std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()) - std::chrono::hours(48);
  ASSERT_TRUE(set_modified(file, past));
  FileInfo info;
  ASSERT_TRUE(file_info(file, &info));
  EXPECT_EQ(info.modified, past);

  EXPECT_TRUE(remove_file(file));
  EXPECT_EQ(remove_file(file).outcome, FileOutcome::kMissing);
  EXPECT_EQ(read_file(file, &back).outcome, FileOutcome::kMissing);
  EXPECT_EQ(list_folder(scratch / "nothing", &entries).outcome, FileOutcome::kMissing);
  EXPECT_FALSE(set_modified(file, past));
}

TEST(Files, CarryPathsBeyondTheWindowsLimit) {
  const ScratchFolder scratch;
  std::string folder = scratch.path();
  while (folder.size() < 600)
    folder = join(folder, "a folder with a long name, number " + std::to_string(folder.size()));
  ASSERT_TRUE(create_folders(folder)) << create_folders(folder).message;
  ASSERT_TRUE(write_file_atomically(join(folder, "x"), "content"));
  ASSERT_TRUE(write_file_atomically(join(folder, "x"), "replaced"));
  std::vector<FileInfo> entries;
  ASSERT_TRUE(list_folder(folder, &entries));
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].name, "x");
  EXPECT_EQ(entries[0].size, 8u);
}

TEST(Files, FailedWriteLeavesTheOldContentAndNoTemporary) {
  const ScratchFolder scratch;
  const std::string target = scratch / "target";
  ASSERT_TRUE(create_folders(target));  // a folder cannot be replaced by a file
  ASSERT_TRUE(write_file_atomically(join(target, "inside"), "kept"));
  const FileStatus status = write_file_atomically(target, "new");
  EXPECT_FALSE(status);
  EXPECT_FALSE(status.message.empty());
  std::vector<FileInfo> entries;
  ASSERT_TRUE(list_folder(scratch.path(), &entries));
  EXPECT_EQ(entries.size(), 1u);
  EXPECT_TRUE(is_file(join(target, "inside")));
}

TEST(Files, ManyWritersOfOneFileLeaveOneWholeContent) {
  const ScratchFolder scratch;
  const std::string file = scratch / "shared";
  ASSERT_TRUE(write_file_atomically(file, std::string(20000, 'a')));
  std::vector<std::jthread> writers;
  std::atomic<int> torn{0};
  for (char letter : {'a', 'b', 'c', 'd'}) {
    writers.emplace_back([&, letter] {
      for (int i = 0; i < 12; ++i) {
        write_file_atomically(file, std::string(20000, letter));
        std::string back;
        if (read_file(file, &back) && back != std::string(20000, back.empty() ? '?' : back[0])) ++torn;
      }
    });
  }
  writers.clear();
  EXPECT_EQ(torn, 0);
  std::vector<FileInfo> entries;
  ASSERT_TRUE(list_folder(scratch.path(), &entries));
  EXPECT_EQ(entries.size(), 1u);
}

#if defined(_WIN32)

// As a virus scanner opens a file: without letting anybody in.
HANDLE hold(const std::string& path) {
  return CreateFileW(win32_path(path).c_str(), GENERIC_READ, 0, nullptr, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
}

TEST(WindowsFiles, OutlastAShortSharingViolation) {
  const ScratchFolder scratch;
  const std::string file = scratch / "scanned";
  ASSERT_TRUE(write_file_atomically(file, "one"));
  const auto release_soon = [&] {
    HANDLE handle = hold(file);
    EXPECT_NE(handle, INVALID_HANDLE_VALUE);
    return std::jthread([handle] {
      Sleep(60);
      CloseHandle(handle);
    });
  };
  std::string back;
  {
    const std::jthread scanner = release_soon();
    EXPECT_TRUE(read_file(file, &back));
    EXPECT_EQ(back, "one");
  }
  {
    const std::jthread scanner = release_soon();
    EXPECT_TRUE(write_file_atomically(file, "two"));
  }
  {
    const std::jthread scanner = release_soon();
    EXPECT_TRUE(remove_file(file));
  }
}

TEST(WindowsFiles, GiveUpOnAHeldFileAfterAFifthOfASecond) {
  const ScratchFolder scratch;
  const std::string file = scratch / "held";
  ASSERT_TRUE(write_file_atomically(file, "one"));
  HANDLE handle = hold(file);
  ASSERT_NE(handle, INVALID_HANDLE_VALUE);
  const auto start = std::chrono::steady_clock::now();
  std::string back;
  EXPECT_EQ(read_file(file, &back).outcome, FileOutcome::kBusy);
  const auto elapsed = std::chrono::steady_clock::now() - start;
  EXPECT_GE(elapsed, std::chrono::milliseconds(150));
  EXPECT_LE(elapsed, std::chrono::milliseconds(3000));
  EXPECT_EQ(write_file_atomically(file, "two").outcome, FileOutcome::kBusy);
  CloseHandle(handle);
  ASSERT_TRUE(read_file(file, &back));
  EXPECT_EQ(back, "one");
  std::vector<FileInfo> entries;
  ASSERT_TRUE(list_folder(scratch.path(), &entries));
  EXPECT_EQ(entries.size(), 1u) << "the temporary must be gone";
}

#else

TEST(PosixFiles, FullDiskFailsCleanly) {
  const ScratchFolder scratch;
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{1000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const FileStatus status = write_file_atomically(scratch / "big", std::string(5000, 'x'));
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_FALSE(status);
  std::vector<FileInfo> entries;
  ASSERT_TRUE(list_folder(scratch.path(), &entries));
  EXPECT_TRUE(entries.empty());
}

#endif

#if defined(_WIN32)
const char kSystemLibrary[] = "kernel32.dll";
const char kSystemSymbol[] = "GetTickCount";
#else
const char kSystemLibrary[] = "libm.so.6";
const char kSystemSymbol[] = "cos";
#endif

TEST(DynamicLibrary, OpensTheSystemsOwnAndFindsItAgain) {
  std::string why;
  auto library = DynamicLibrary::try_open_system(kSystemLibrary, &why);
  ASSERT_TRUE(library) << why;
  EXPECT_NE(library->symbol(kSystemSymbol), nullptr);
  EXPECT_EQ(library->symbol("no_such_symbol_anywhere"), nullptr);
  EXPECT_TRUE(is_absolute(library->path())) << library->path();
  const auto again = DynamicLibrary::find_loaded(kSystemLibrary);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->path(), library->path());
  const auto by_path = DynamicLibrary::try_open(library->path(), &why);
  EXPECT_TRUE(by_path) << why;
  EXPECT_FALSE(DynamicLibrary::find_loaded("libmamba_scan_no_such.so"));
}

TEST(DynamicLibrary, SaysWhyAFileCannotBeLoaded) {
  const ScratchFolder scratch;
  const std::string missing = scratch / "libmissing.so", junk = scratch / "libjunk.so";
  ASSERT_TRUE(write_file_atomically(junk, "not a library"));
  try {
    DynamicLibrary::open(missing);
    FAIL() << "opened a file that does not exist";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(missing), std::string::npos) << error.what();
  }
  std::string why;
  EXPECT_FALSE(DynamicLibrary::try_open(junk, &why));
  EXPECT_FALSE(why.empty());
}

TEST(DynamicLibrary, SystemLibrariesNeverComeFromTheWorkingFolder) {
  // Not a library: had the loader looked here, it would complain of the format and not of the absence.
  const std::string planted = "mamba_scan_planted.dll";
  ASSERT_TRUE(write_file_atomically(planted, "not a library"));
  std::string why;
  EXPECT_FALSE(DynamicLibrary::try_open_system(planted, &why));
  remove_file(planted);
#if defined(_WIN32)
  EXPECT_NE(why.find("error 126"), std::string::npos) << why;
#else
  EXPECT_NE(why.find("No such file"), std::string::npos) << why;
#endif
}

TEST(Log, SendsEveryLevelToTheSinkAndWarnsOncePerKey) {
  const LogCapture capture;
  log(LogLevel::kDebug, "quiet");
  warn_once("a", "first");
  warn_once("a", "again");
  warn_once("b", "second");
  EXPECT_EQ(capture.at(LogLevel::kDebug), std::vector<std::string>{"quiet"});
  EXPECT_EQ(capture.at(LogLevel::kWarning), (std::vector<std::string>{"first", "second"}));
}

TEST(Log, ReadsItsLevel) {
  EXPECT_EQ(parse_log_level("debug"), LogLevel::kDebug);
  EXPECT_EQ(parse_log_level("info"), LogLevel::kInfo);
  EXPECT_EQ(parse_log_level("error"), LogLevel::kError);
  EXPECT_EQ(parse_log_level("off"), LogLevel::kOff);
  EXPECT_EQ(parse_log_level(""), LogLevel::kWarning);
  EXPECT_EQ(parse_log_level("loud"), LogLevel::kWarning);
}

TEST(ThreadLocale, IsAsBeforeAfterTheGuard) {
  const std::string before = std::setlocale(LC_ALL, nullptr);
#if defined(_WIN32)
  {
    ThreadLocaleGuard guard;
    ASSERT_NE(std::setlocale(LC_ALL, "English_United States.1252"), nullptr);
  }
  EXPECT_EQ(std::setlocale(LC_ALL, nullptr), before);
#else
  const locale_t thread_before = uselocale(nullptr);
  const locale_t other = newlocale(LC_ALL_MASK, "C", nullptr);
  {
    ThreadLocaleGuard guard;
    uselocale(other);
    ASSERT_EQ(uselocale(nullptr), other);
  }
  EXPECT_EQ(uselocale(nullptr), thread_before);
  freelocale(other);
#endif
}

}  // namespace
}  // namespace mamba_scan::platform
