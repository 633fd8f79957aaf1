// A shared library opened at run time. Nothing of CUDA is linked: the driver and NVRTC come through here.
#pragma once

#include <optional>
#include <string>

#include "platform/export.h"

namespace mamba_scan::platform {

// Owns one reference to a loaded library; the destructor gives it back unless keep_loaded() was called.
class MAMBA_SCAN_API DynamicLibrary {
 public:
  DynamicLibrary() = default;
  DynamicLibrary(DynamicLibrary&& other) noexcept;
  DynamicLibrary& operator=(DynamicLibrary&& other) noexcept;
  ~DynamicLibrary();

  // Opens this very file; its dependencies may lie beside it. Symbols stay private to the library (RTLD_LOCAL).
  // Throws Error with the loader's words.
  static DynamicLibrary open(const std::string& path);
  // As open(), but nothing on failure, with the loader's words in *why (may be null).
  static std::optional<DynamicLibrary> try_open(const std::string& path, std::string* why);

  // A library of the operating system, by bare name: System32 and nowhere else on Windows (no planted DLL in the
  // working folder can take its place), the loader's usual search elsewhere.
  static std::optional<DynamicLibrary> try_open_system(const std::string& name, std::string* why);

  // A library the process has loaded already, by bare name; loads nothing.
  static std::optional<DynamicLibrary> find_loaded(const std::string& name);

  // Null when the library has no such symbol.
  void* symbol(const char* name) const noexcept;

  template <typename Function>
  Function function(const char* name) const noexcept {
    return reinterpret_cast<Function>(symbol(name));
  }

  // Where the loader found it; empty when it does not say.
  std::string path() const;

  // Leaves the library loaded for the life of the process: unloading CUDA libraries at exit is not safe.
  void keep_loaded() noexcept { keep_loaded_ = true; }

  explicit operator bool() const noexcept { return handle_ != nullptr; }

 private:
  explicit DynamicLibrary(void* handle) : handle_(handle) {}
  void close() noexcept;

  void* handle_ = nullptr;
  bool keep_loaded_ = false;
};

}  // namespace mamba_scan::platform
