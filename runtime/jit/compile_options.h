// What NVRTC is told, decided before it is loaded: the list is part of the cache key.
#pragma once

#include <string>
#include <vector>

#include "jit/nvrtc_library.h"
#include "jit/variant.h"

namespace mamba_scan::jit {

struct CompileTarget {
  std::string arch;     // "sm_90", or "compute_90" for PTX
  bool is_ptx = false;  // NVRTC is older than the GPU: the driver finishes the work when it loads the kernel
};

// sm_XX if this NVRTC lists the GPU, else PTX of the newest listed compute_XX that is not newer than the GPU.
// Throws JitError for a GPU older than everything listed.
CompileTarget choose_target(int capability, const NvrtcFacts& facts);

std::vector<std::string> compile_options(const Variant& variant, const CompileTarget& target, const NvrtcFacts& facts,
                                         bool line_info);

}  // namespace mamba_scan::jit
