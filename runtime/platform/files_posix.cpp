#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "platform/files.h"
#include "platform/files_system.h"
#include "platform/paths.h"

namespace mamba_scan::platform {
namespace {

FileStatus failure(int code) {
  FileOutcome outcome = FileOutcome::kFailed;
  switch (code) {
    case ENOENT:
    case ENOTDIR:
      outcome = FileOutcome::kMissing;
      break;
    case EACCES:
    case EPERM:
    case EROFS:
      outcome = FileOutcome::kDenied;
      break;
    case ENOSPC:
    case EDQUOT:
      outcome = FileOutcome::kFull;
      break;
    case EBUSY:
    case ETXTBSY:
      outcome = FileOutcome::kBusy;
      break;
    default:
      break;
  }
  return {outcome, std::generic_category().message(code)};
}

FileStatus result(int returned) { return returned == 0 ? FileStatus{} : failure(errno); }

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }
  int close() {  // a full network disk speaks only here
    const int value = value_;
    value_ = -1;
    return ::close(value);
  }

 private:
  int value_;
};

FileInfo info_from(const std::string& name, const struct stat& status) {
  const auto since_epoch =
      std::chrono::seconds(status.st_mtim.tv_sec) + std::chrono::nanoseconds(status.st_mtim.tv_nsec);
  return {name, S_ISDIR(status.st_mode), static_cast<std::uint64_t>(status.st_size),
          FileTime(std::chrono::duration_cast<FileTime::duration>(since_epoch))};
}

int write_all(int descriptor, std::string_view content) {
  while (!content.empty()) {
    const ssize_t written = ::write(descriptor, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return -1;
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

}  // namespace

FileStatus read_file(const std::string& path, std::string* content) {
  content->clear();
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return failure(errno);
  struct stat status{};
  if (::fstat(file.get(), &status) == 0 && S_ISREG(status.st_mode)) content->reserve(status.st_size);
  char buffer[65536];
  for (;;) {
    const ssize_t count = ::read(file.get(), buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failure(errno);
    if (count == 0) return {};
    content->append(buffer, static_cast<std::size_t>(count));
  }
}

FileStatus write_new_file(const std::string& path, std::string_view content) {
  Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (file.get() < 0) return failure(errno);
  if (write_all(file.get(), content) == 0 && ::fsync(file.get()) == 0 && file.close() == 0) return {};
  const FileStatus status = failure(errno);
  ::unlink(path.c_str());
  return status;
}

FileStatus replace_file(const std::string& from, const std::string& to) {
  return result(::rename(from.c_str(), to.c_str()));
}

FileStatus create_one_folder(const std::string& path) {
  if (::mkdir(path.c_str(), 0777) == 0) return {};
  const int code = errno;
  return code == EEXIST && is_folder(path) ? FileStatus{} : failure(code);
}

FileStatus remove_file(const std::string& path) { return result(::unlink(path.c_str())); }

FileStatus remove_folder(const std::string& path) { return result(::rmdir(path.c_str())); }

FileStatus list_folder(const std::string& path, std::vector<FileInfo>* entries) {
  entries->clear();
  DIR* folder = ::opendir(path.c_str());
  if (folder == nullptr) return failure(errno);
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(folder);
    if (entry == nullptr) break;
    const std::string name = entry->d_name;
    struct stat status{};
    // What vanished between the two calls is simply not there.
    if (name != "." && name != ".." && ::fstatat(::dirfd(folder), name.c_str(), &status, 0) == 0) {
      entries->push_back(info_from(name, status));
    }
  }
  const int code = errno;
  ::closedir(folder);
  return code == 0 ? FileStatus{} : failure(code);
}

FileStatus file_info(const std::string& path, FileInfo* info) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return failure(errno);
  *info = info_from(file_name(path), status);
  return {};
}

FileStatus set_modified(const std::string& path, FileTime time) {
  const auto since_epoch = time.time_since_epoch();
  const auto seconds = std::chrono::floor<std::chrono::seconds>(since_epoch);
  timespec modified{};
  modified.tv_sec = static_cast<time_t>(seconds.count());
  modified.tv_nsec = static_cast<long>(std::chrono::nanoseconds(since_epoch - seconds).count());
  timespec accessed{};
  accessed.tv_nsec = UTIME_OMIT;
  const timespec times[2] = {accessed, modified};
  return result(::utimensat(AT_FDCWD, path.c_str(), times, 0));
}

}  // namespace mamba_scan::platform
