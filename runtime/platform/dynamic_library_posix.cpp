#include <dlfcn.h>
#include <link.h>

#include "platform/dynamic_library.h"

namespace mamba_scan::platform {
namespace {

void* open_or_explain(const char* name, int flags, std::string* why) {
  void* handle = dlopen(name, flags);
  if (handle == nullptr && why != nullptr) {
    const char* text = dlerror();
    *why = text != nullptr ? text : "unknown loader error";
  }
  return handle;
}

}  // namespace

std::optional<DynamicLibrary> DynamicLibrary::try_open(const std::string& path, std::string* why) {
  // A bare name would send the loader searching; "./" keeps it to the file that was asked for.
  const std::string file = path.find('/') == std::string::npos ? "./" + path : path;
  void* handle = open_or_explain(file.c_str(), RTLD_NOW | RTLD_LOCAL, why);
  if (handle == nullptr) return std::nullopt;
  return DynamicLibrary(handle);
}

std::optional<DynamicLibrary> DynamicLibrary::try_open_system(const std::string& name, std::string* why) {
  void* handle = open_or_explain(name.c_str(), RTLD_NOW | RTLD_LOCAL, why);
  if (handle == nullptr) return std::nullopt;
  return DynamicLibrary(handle);
}

std::optional<DynamicLibrary> DynamicLibrary::find_loaded(const std::string& name) {
  void* handle = dlopen(name.c_str(), RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD);
  if (handle == nullptr) return std::nullopt;
  return DynamicLibrary(handle);
}

void* DynamicLibrary::symbol(const char* name) const noexcept {
  return handle_ == nullptr ? nullptr : dlsym(handle_, name);
}

std::string DynamicLibrary::path() const {
  link_map* map = nullptr;
  if (handle_ == nullptr || dlinfo(handle_, RTLD_DI_LINKMAP, &map) != 0 || map == nullptr) return {};
  return map->l_name != nullptr ? map->l_name : "";
}

void DynamicLibrary::close() noexcept {
  if (handle_ != nullptr && !keep_loaded_) dlclose(handle_);
  handle_ = nullptr;
}

}  // namespace mamba_scan::platform
