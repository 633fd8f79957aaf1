#include <algorithm>

#include "platform/files.h"
#include "platform/files_system.h"
#include "platform/paths.h"
#include "platform/win32.h"

namespace mamba_scan::platform {
namespace {

FileStatus failure(DWORD code) {
  FileOutcome outcome = FileOutcome::kFailed;
  switch (code) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
    case ERROR_DIRECTORY:
    case ERROR_INVALID_DRIVE:
      outcome = FileOutcome::kMissing;
      break;
    case ERROR_SHARING_VIOLATION:
    case ERROR_LOCK_VIOLATION:
    case ERROR_USER_MAPPED_FILE:
      outcome = FileOutcome::kBusy;
      break;
    case ERROR_ACCESS_DENIED:
    case ERROR_WRITE_PROTECT:
      outcome = FileOutcome::kDenied;
      break;
    case ERROR_DISK_FULL:
    case ERROR_HANDLE_DISK_FULL:
      outcome = FileOutcome::kFull;
      break;
    default:
      break;
  }
  return {outcome, win32_message(code)};
}

// Antivirus and indexing services open new files for moments without sharing them, and "access denied" is also
// what a file that is being deleted answers.
bool may_pass(DWORD code) {
  return code == ERROR_ACCESS_DENIED || code == ERROR_SHARING_VIOLATION || code == ERROR_LOCK_VIOLATION;
}

// Repeats a call that returns whether it succeeded; about 200 ms in all.
template <typename Call>
FileStatus with_retries(Call&& call) {
  for (DWORD delay_ms : {1, 2, 4, 8, 16, 32, 64, 73, 0}) {
    if (call()) return {};
    const DWORD code = GetLastError();
    if (!may_pass(code) || delay_ms == 0) return failure(code);
    Sleep(delay_ms);
  }
  return {};
}

class Handle {
 public:
  Handle() = default;
  ~Handle() { close(); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  bool open(const std::string& path, DWORD access, DWORD share, DWORD disposition) {
    const DWORD flags = FILE_ATTRIBUTE_NORMAL | (access == FILE_WRITE_ATTRIBUTES ? FILE_FLAG_BACKUP_SEMANTICS : 0);
    value_ = CreateFileW(win32_path(path).c_str(), access, share, nullptr, disposition, flags, nullptr);
    return value_ != INVALID_HANDLE_VALUE;
  }
  void close() {
    if (value_ != INVALID_HANDLE_VALUE) CloseHandle(value_);
    value_ = INVALID_HANDLE_VALUE;
  }
  HANDLE get() const { return value_; }

 private:
  HANDLE value_ = INVALID_HANDLE_VALUE;
};

// A reader of ours never stands in the way of a writer.
constexpr DWORD kShareAll = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

using Ticks = std::chrono::duration<std::int64_t, std::ratio<1, 10'000'000>>;
constexpr Ticks kUnixEpoch{116'444'736'000'000'000};  // 1970 in 100 ns since 1601

FileTime to_time(const FILETIME& time) {
  const Ticks since_1601{(static_cast<std::int64_t>(time.dwHighDateTime) << 32) | time.dwLowDateTime};
  return FileTime(std::chrono::duration_cast<FileTime::duration>(since_1601 - kUnixEpoch));
}

FILETIME from_time(FileTime time) {
  const Ticks ticks = std::chrono::duration_cast<Ticks>(time.time_since_epoch()) + kUnixEpoch;
  FILETIME out{};
  out.dwLowDateTime = static_cast<DWORD>(ticks.count() & 0xFFFFFFFF);
  out.dwHighDateTime = static_cast<DWORD>(ticks.count() >> 32);
  return out;
}

template <typename Data>
FileInfo info_from(std::string name, const Data& data) {
  return {std::move(name), (data.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0,
          (static_cast<std::uint64_t>(data.nFileSizeHigh) << 32) | data.nFileSizeLow, to_time(data.ftLastWriteTime)};
}

bool write_and_flush(HANDLE file, std::string_view content) {
  while (!content.empty()) {
    const DWORD part = static_cast<DWORD>(std::min<std::size_t>(content.size(), 1u << 30));
    DWORD written = 0;
    if (!WriteFile(file, content.data(), part, &written, nullptr)) return false;
    content.remove_prefix(written);
  }
  return FlushFileBuffers(file) != 0;
}

}  // namespace

FileStatus read_file(const std::string& path, std::string* content) {
  content->clear();
  Handle file;
  if (FileStatus status = with_retries([&] { return file.open(path, GENERIC_READ, kShareAll, OPEN_EXISTING); });
      !status) {
    return status;
  }
  LARGE_INTEGER size{};
  if (GetFileSizeEx(file.get(), &size)) content->reserve(static_cast<std::size_t>(size.QuadPart));
  std::string buffer(1 << 16, '\0');
  for (;;) {
    DWORD count = 0;
    // A byte range may be locked although the file could be opened.
    const FileStatus status = with_retries(
        [&] { return ReadFile(file.get(), buffer.data(), static_cast<DWORD>(buffer.size()), &count, nullptr) != 0; });
    if (!status || count == 0) return status;
    content->append(buffer.data(), count);
  }
}

FileStatus write_new_file(const std::string& path, std::string_view content) {
  Handle file;
  if (FileStatus status = with_retries([&] { return file.open(path, GENERIC_WRITE, 0, CREATE_NEW); }); !status) {
    return status;
  }
  if (write_and_flush(file.get(), content)) return {};
  const FileStatus status = failure(GetLastError());
  file.close();
  remove_file(path);
  return status;
}

FileStatus replace_file(const std::string& from, const std::string& to) {
  const std::wstring source = win32_path(from), target = win32_path(to);
  FileStatus status =
      with_retries([&] { return MoveFileExW(source.c_str(), target.c_str(), MOVEFILE_REPLACE_EXISTING) != 0; });
  // A file that somebody holds answers "access denied" here. The folder can be written: the temporary came to be.
  if (status.outcome == FileOutcome::kDenied && is_file(to)) status.outcome = FileOutcome::kBusy;
  return status;
}

FileStatus create_one_folder(const std::string& path) {
  if (CreateDirectoryW(win32_path(path).c_str(), nullptr)) return {};
  const DWORD code = GetLastError();
  return code == ERROR_ALREADY_EXISTS && is_folder(path) ? FileStatus{} : failure(code);
}

FileStatus remove_file(const std::string& path) {
  const std::wstring target = win32_path(path);
  return with_retries([&] { return DeleteFileW(target.c_str()) != 0; });
}

FileStatus remove_folder(const std::string& path) {
  return RemoveDirectoryW(win32_path(path).c_str()) ? FileStatus{} : failure(GetLastError());
}

FileStatus list_folder(const std::string& path, std::vector<FileInfo>* entries) {
  entries->clear();
  // std::filesystem is no help here: on MinGW it lists the current folder when the path is longer than MAX_PATH.
  WIN32_FIND_DATAW data{};
  HANDLE search = FindFirstFileExW(win32_path(join(path, "*")).c_str(), FindExInfoBasic, &data, FindExSearchNameMatch,
                                   nullptr, FIND_FIRST_EX_LARGE_FETCH);
  if (search == INVALID_HANDLE_VALUE) return failure(GetLastError());
  do {
    const std::string name = from_wide(data.cFileName);
    if (name != "." && name != "..") entries->push_back(info_from(name, data));
  } while (FindNextFileW(search, &data));
  const DWORD code = GetLastError();
  FindClose(search);
  return code == ERROR_NO_MORE_FILES ? FileStatus{} : failure(code);
}

FileStatus file_info(const std::string& path, FileInfo* info) {
  WIN32_FILE_ATTRIBUTE_DATA data{};
  if (!GetFileAttributesExW(win32_path(path).c_str(), GetFileExInfoStandard, &data)) return failure(GetLastError());
  *info = info_from(file_name(path), data);
  return {};
}

FileStatus set_modified(const std::string& path, FileTime time) {
  Handle file;
  if (!file.open(path, FILE_WRITE_ATTRIBUTES, kShareAll, OPEN_EXISTING)) return failure(GetLastError());
  const FILETIME modified = from_time(time);
  return SetFileTime(file.get(), nullptr, nullptr, &modified) ? FileStatus{} : failure(GetLastError());
}

}  // namespace mamba_scan::platform
