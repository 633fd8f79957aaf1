// What the search for NVRTC asks of the machine; tests put a made-up machine in its place.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "jit/nvrtc_library.h"
#include "jit/nvrtc_names.h"

namespace mamba_scan::jit {

class DiskCache;

inline constexpr char kNvrtcVariable[] = "MAMBA_SCAN_NVRTC";

class NvrtcEnvironment {
 public:
  virtual ~NvrtcEnvironment() = default;

  virtual NvrtcNaming naming() const = 0;
  virtual std::optional<std::string> variable(const std::string& name) const = 0;  // kNvrtcVariable: an absolute path
  // Names in a folder, files and folders alike; nothing when there is no such folder.
  virtual std::optional<std::vector<std::string>> list(const std::string& folder) const = 0;
  // Path of a library that the process has loaded.
  virtual std::optional<std::string> loaded(const std::string& name) const = 0;
  // Path of a library that the loader finds by itself.
  virtual std::optional<std::string> system_library(const std::string& name) const = 0;
  // Folder of the library (or program) that holds this code.
  virtual std::string own_folder() const = 0;
  // Loads the file and asks. Throws JitError saying why it is of no use.
  virtual NvrtcFacts facts(const std::string& path) const = 0;
};

// The real machine. What NVRTC says of itself is kept in the cache (may be null, must outlive the result), since
// asking means loading 100 MB: a process that finds all its kernels on disk never loads NVRTC.
std::unique_ptr<NvrtcEnvironment> system_nvrtc_environment(DiskCache* cache);

}  // namespace mamba_scan::jit
