#include "platform/dynamic_library.h"

#include <utility>

#include "platform/error.h"

namespace mamba_scan::platform {

DynamicLibrary::DynamicLibrary(DynamicLibrary&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)), keep_loaded_(std::exchange(other.keep_loaded_, false)) {}

DynamicLibrary& DynamicLibrary::operator=(DynamicLibrary&& other) noexcept {
  if (this != &other) {
    close();
    handle_ = std::exchange(other.handle_, nullptr);
    keep_loaded_ = std::exchange(other.keep_loaded_, false);
  }
  return *this;
}

DynamicLibrary::~DynamicLibrary() { close(); }

DynamicLibrary DynamicLibrary::open(const std::string& path) {
  std::string why;
  std::optional<DynamicLibrary> library = try_open(path, &why);
  if (!library) throw Error("cannot load the library " + path + ": " + why);
  return std::move(*library);
}

}  // namespace mamba_scan::platform
