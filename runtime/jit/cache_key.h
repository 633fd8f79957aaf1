// The name of a binary in the disk cache.
#pragma once

#include <string>
#include <vector>

#include "jit/compile_options.h"
#include "jit/kernel_sources.h"
#include "jit/nvrtc_library.h"
#include "jit/variant.h"

namespace mamba_scan::jit {

// SHA-256, 64 hex digits, of everything that decides the bytes, which is what compile() takes and which NVRTC it is.
// Neither the driver's version nor the device's index is in it: the same binary serves them all.
std::string cache_key(const Variant& variant, const SourceBundle& bundle, const CompileTarget& target,
                      const std::vector<std::string>& options, const NvrtcFacts& facts);

}  // namespace mamba_scan::jit
