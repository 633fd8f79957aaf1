#include <dlfcn.h>
#include <pwd.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>

#include "platform/environment.h"
#include "platform/folders.h"
#include "platform/paths.h"

namespace mamba_scan::platform {
namespace {

std::string real_path(const char* path) {
  char* resolved = realpath(path, nullptr);
  if (resolved == nullptr) return {};
  std::string out(resolved);
  std::free(resolved);
  return out;
}

// A service may run without HOME.
std::string home_folder() {
  if (auto home = environment_variable("HOME")) return *home;
  char buffer[4096];
  passwd entry{};
  passwd* found = nullptr;
  if (getpwuid_r(getuid(), &entry, buffer, sizeof(buffer), &found) != 0 || found == nullptr) return {};
  return found->pw_dir != nullptr ? found->pw_dir : "";
}

}  // namespace

std::string cache_folder() {
  if (auto folder = environment_variable("MAMBA_SCAN_CACHE_DIR")) return absolute_path(*folder);
  // The XDG specification says to ignore a relative value.
  const auto xdg = environment_variable("XDG_CACHE_HOME");
  if (xdg && is_absolute(*xdg)) return join(*xdg, "mamba_scan");
  const std::string home = home_folder();
  return home.empty() ? std::string() : join(home, ".cache/mamba_scan");
}

std::string library_folder_of(const void* address) {
  Dl_info info{};
  std::string path;
  if (dladdr(address, &info) != 0 && info.dli_fname != nullptr) path = real_path(info.dli_fname);
  if (path.empty()) path = executable_path();
  return parent_folder(path);
}

std::string executable_path() { return real_path("/proc/self/exe"); }

std::string absolute_path(const std::string& path) {
  if (is_absolute(path)) return path;
  const std::string folder = real_path(".");
  return folder.empty() ? path : join(folder, path);
}

std::string temporary_folder() { return environment_variable("TMPDIR").value_or("/tmp"); }

}  // namespace mamba_scan::platform
