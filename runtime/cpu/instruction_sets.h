// Which instruction sets the vector code can use here.
#pragma once

#include <string>
#include <vector>

#include "platform/export.h"

namespace mamba_scan::cpu {

// The one in use, as Highway names it: "AVX3", "AVX2", "SSE4", "NEON", ...
MAMBA_SCAN_API std::string instruction_set();

// Those that this processor supports and this library contains, best first.
MAMBA_SCAN_API std::vector<std::string> supported_instruction_sets();

// Uses this one of them from now on, or with an empty name the best again. For tests and for narrowing a bug down;
// not while a scan runs. Throws ArgumentError for one that is not supported.
MAMBA_SCAN_API void use_instruction_set(const std::string& name);

}  // namespace mamba_scan::cpu
