// The elementary functions of the scan over arrays, for tests of their accuracy and for the benchmark, which
// measures the scan against the rate of its own exponential.
#pragma once

#include <cstddef>

#include "platform/export.h"

namespace mamba_scan::cpu {

MAMBA_SCAN_API void exp2(const float* from, float* to, std::size_t count);
// The same bits without the range check, for |from| <= 125: what the scan uses where it has proven the range.
MAMBA_SCAN_API void exp2_bounded(const float* from, float* to, std::size_t count);
MAMBA_SCAN_API void softplus(const float* from, float* to, std::size_t count);
MAMBA_SCAN_API void silu(const float* from, float* to, std::size_t count);
// Cosine and sine of x * rate, as decay rates with an imaginary part need them.
MAMBA_SCAN_API void cos_sin(const float* x, const float* rate, float* cos, float* sin, std::size_t count);

// Conversions as the scan does them, through one 16-bit element each.
MAMBA_SCAN_API void float16_to_float(const unsigned short* from, float* to, std::size_t count);
MAMBA_SCAN_API void float_to_float16(const float* from, unsigned short* to, std::size_t count);
MAMBA_SCAN_API void bfloat16_to_float(const unsigned short* from, float* to, std::size_t count);
MAMBA_SCAN_API void float_to_bfloat16(const float* from, unsigned short* to, std::size_t count);

}  // namespace mamba_scan::cpu
