// NVRTC, NVIDIA's run-time compiler, opened from a file: its functions, what it says about itself, one compile call.
// Needs neither a driver nor a GPU.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "jit/kernel_sources.h"
#include "platform/dynamic_library.h"

namespace mamba_scan::jit {

// What must be known before anything is compiled: which options and targets NVRTC takes, and what names its output.
struct NvrtcFacts {
  int major = 0, minor = 0;
  std::string version;     // "13.0.88"
  std::string build;       // NVIDIA's build id, "CL-36424714"
  std::vector<int> archs;  // capabilities it compiles for, 90 for sm_90; ascending

  bool lists(int capability) const;
  bool operator==(const NvrtcFacts&) const = default;
};

struct NvrtcOutput {
  bool succeeded = false;
  std::string error;  // "NVRTC_ERROR_COMPILATION"; empty when it succeeded
  std::string log;
  std::string binary;  // cubin or PTX
};

// Thread safe: NVRTC compiles different programs at the same time.
class NvrtcLibrary {
 public:
  // Loads this file and the nvrtc-builtins library beside it. Throws JitError.
  static std::shared_ptr<const NvrtcLibrary> load(const std::string& path);

  const NvrtcFacts& facts() const { return facts_; }
  const std::string& path() const { return path_; }

  NvrtcOutput compile(const SourceBundle& bundle, const std::vector<std::string>& options, bool to_ptx) const;

 private:
  struct Functions;
  NvrtcLibrary(const std::string& path, platform::DynamicLibrary library);
  void load_builtins() const;
  void read_facts();

  std::string path_;
  platform::DynamicLibrary library_;
  std::shared_ptr<const Functions> functions_;
  NvrtcFacts facts_;
};

}  // namespace mamba_scan::jit
