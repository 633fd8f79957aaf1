// From a variant to its binary: disk cache, then NVRTC.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "jit/binary.h"
#include "jit/disk_cache.h"
#include "jit/kernel_sources.h"
#include "jit/nvrtc_discovery.h"
#include "jit/variant.h"
#include "platform/export.h"

namespace mamba_scan::trace {
class Recorder;
}

namespace mamba_scan::jit {

struct BuildResult {
  std::optional<Binary> binary;
  std::string error;  // when there is none
};

// Thread safe. Needs neither a driver nor a GPU.
class MAMBA_SCAN_API Builder {
 public:
  // Kernel text, cache and NVRTC as the environment says.
  Builder();
  // `nvrtc` null: the real machine.
  Builder(KernelSources sources, std::unique_ptr<DiskCache> cache, std::unique_ptr<NvrtcEnvironment> nvrtc);
  ~Builder();
  Builder(const Builder&) = delete;
  Builder& operator=(const Builder&) = delete;

  // capability: 90 for sm_90. Throws JitError. Does not remember: KernelLibrary does.
  Binary build(const Variant& variant, int capability);

  // In the order of `variants`, compiled side by side. threads = 0: as many as there are cores.
  std::vector<BuildResult> build_many(const std::vector<Variant>& variants, int capability, int threads = 0);

  // Name of the cache entry. Throws JitError as build() does.
  std::string cache_key(const Variant& variant, int capability);

  // Which NVRTC serves this capability (0: any), and where it was looked for.
  NvrtcSearch search_nvrtc(int capability = 0);

  // cuDriverGetVersion(), e.g. 12040: an NVRTC of a newer CUDA major is then passed over. Zero: not known.
  void set_driver_cuda_version(int version);
  // A folder that holds NVRTC (torch/lib), or a site-packages folder.
  void add_search_folder(const std::string& folder);
  // Kernels with source line numbers, for profilers.
  void set_line_info(bool enabled);
  // May be null. Not owned.
  void set_recorder(trace::Recorder* recorder);

  DiskCache& cache() { return *cache_; }
  const KernelSources& sources() const { return sources_; }

 private:
  struct Plan;
  struct State;

  NvrtcChoice choose_nvrtc(int capability);
  Plan plan(const Variant& variant, int capability);

  KernelSources sources_;
  std::unique_ptr<DiskCache> cache_;
  std::unique_ptr<NvrtcEnvironment> environment_;
  std::unique_ptr<State> state_;
};

}  // namespace mamba_scan::jit
