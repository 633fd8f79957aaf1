// One variant through NVRTC.
#pragma once

#include <string>
#include <vector>

#include "jit/binary.h"
#include "jit/compile_options.h"
#include "jit/kernel_sources.h"
#include "jit/nvrtc_library.h"
#include "jit/variant.h"

namespace mamba_scan::jit {

// Thread safe. Throws CompileError with the compiler's log, the variant and the options.
Binary compile(const NvrtcLibrary& nvrtc, const Variant& variant, const SourceBundle& bundle,
               const CompileTarget& target, const std::vector<std::string>& options);

}  // namespace mamba_scan::jit
