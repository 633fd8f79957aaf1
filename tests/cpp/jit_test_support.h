// Scratch folders, captured log lines and a process launcher for the tests of platform and jit.
#pragma once

#include <atomic>
#include <cstdio>
#include <iterator>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "platform/environment.h"
#include "platform/files.h"
#include "platform/folders.h"
#include "platform/log.h"
#include "platform/paths.h"

#if defined(_WIN32)
#include "platform/win32.h"
#else
#include <spawn.h>
#include <sys/wait.h>

extern char** environ;
#endif

namespace mamba_scan::test {

// Latin, Cyrillic, CJK and a letter outside the basic plane: user names look like that.
inline const std::string kOddName =
    "J\xC3\xBCrgen \xD0\x96\xD0\xB5\xD0\xBD\xD1\x8F \xE5\xB1\xB1\xE7\x94\xB0 \xF0\x9F\x90\x8D";

inline void remove_tree(const std::string& folder) {
  std::vector<platform::FileInfo> entries;
  platform::list_folder(folder, &entries);
  for (const platform::FileInfo& entry : entries) {
    const std::string path = platform::join(folder, entry.name);
    if (entry.is_folder) {
      remove_tree(path);
    } else {
      platform::remove_file(path);
    }
  }
  platform::remove_folder(folder);
}

// Without the flush to the disk that write_file_atomically() makes: tests damage files by the hundred.
inline bool write_plainly(const std::string& path, const std::string& content) {
#if defined(_WIN32)
  std::FILE* file = _wfopen(platform::win32_path(path).c_str(), L"wb");
#else
  std::FILE* file = std::fopen(path.c_str(), "wb");
#endif
  if (file == nullptr) return false;
  const bool written = std::fwrite(content.data(), 1, content.size(), file) == content.size();
  return std::fclose(file) == 0 && written;
}

// A new folder with an odd name, gone with the object.
class ScratchFolder {
 public:
  ScratchFolder() {
    static std::atomic<int> counter{0};
    base_ = platform::join(platform::temporary_folder(), "mamba_scan_test_" + std::to_string(platform::process_id()) +
                                                             "_" + std::to_string(counter++));
    path_ = platform::join(base_, kOddName);
    platform::create_folders(path_);
  }
  ~ScratchFolder() { remove_tree(base_); }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return platform::join(path_, name); }

 private:
  std::string base_;
  std::string path_;
};

// Sets a variable for the life of the object.
class ScopedVariable {
 public:
  ScopedVariable(std::string name, const std::string& value)
      : name_(std::move(name)), before_(platform::environment_variable(name_).value_or("")) {
    platform::set_environment_variable(name_, value);
  }
  ~ScopedVariable() { platform::set_environment_variable(name_, before_); }
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;

 private:
  std::string name_;
  std::string before_;
};

// Collects what is logged.
class LogCapture {
 public:
  LogCapture() {
    before_ = platform::set_log_sink([this](platform::LogLevel level, const std::string& message) {
      std::lock_guard lock(mutex_);
      lines_.emplace_back(level, message);
    });
  }
  ~LogCapture() { platform::set_log_sink(std::move(before_)); }
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  std::vector<std::string> at(platform::LogLevel level) const {
    std::lock_guard lock(mutex_);
    std::vector<std::string> out;
    for (const auto& [line_level, message] : lines_) {
      if (line_level == level) out.push_back(message);
    }
    return out;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::pair<platform::LogLevel, std::string>> lines_;
  platform::LogSink before_;
};

// What stands before a program's name where programs of this kind do not start by themselves, e.g. an emulator:
// MAMBA_SCAN_TEST_LAUNCHER, words separated by spaces.
inline std::vector<std::string> launcher() {
  std::istringstream text(platform::environment_variable("MAMBA_SCAN_TEST_LAUNCHER").value_or(""));
  return {std::istream_iterator<std::string>(text), {}};
}

// This program once more, with one plain ASCII argument; everything else goes through environment variables, which
// Windows hands over without a code page in between.
class ChildProcess {
 public:
  explicit ChildProcess(const std::string& argument) {
    const std::string program = platform::executable_path();
#if defined(_WIN32)
    std::wstring command = L"\"" + platform::to_wide(program) + L"\" " + platform::to_wide(argument);
    STARTUPINFOW startup{};
    startup.cb = sizeof(startup);
    PROCESS_INFORMATION process{};
    if (CreateProcessW(platform::to_wide(program).c_str(), command.data(), nullptr, nullptr, FALSE, 0, nullptr, nullptr,
                       &startup, &process)) {
      CloseHandle(process.hThread);
      handle_ = process.hProcess;
    }
#else
    std::vector<std::string> words = launcher();
    words.push_back(program);
    words.push_back(argument);
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    if (posix_spawnp(&id_, arguments[0], nullptr, nullptr, arguments.data(), environ) != 0) id_ = -1;
#endif
  }

  // Exit code, -1 if it could not be started or did not end by itself.
  int wait() {
#if defined(_WIN32)
    if (handle_ == nullptr) return -1;
    WaitForSingleObject(handle_, INFINITE);
    DWORD code = 0;
    GetExitCodeProcess(handle_, &code);
    CloseHandle(handle_);
    handle_ = nullptr;
    return static_cast<int>(code);
#else
    int status = 0;
    if (id_ < 0 || waitpid(id_, &status, 0) != id_ || !WIFEXITED(status)) return -1;
    return WEXITSTATUS(status);
#endif
  }

 private:
#if defined(_WIN32)
  HANDLE handle_ = nullptr;
#else
  pid_t id_ = -1;
#endif
};

}  // namespace mamba_scan::test
