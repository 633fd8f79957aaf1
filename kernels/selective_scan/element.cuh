// The type of u, delta, z, y and of B and C unless constant in time: MS_DTYPE is 0 for fp32, 1 for fp16, 2 for bf16.
#pragma once

#include "common/device.cuh"

namespace mamba_scan {
namespace {

#if MS_DTYPE == 0
using Element = float;
#elif MS_DTYPE == 1
using Element = device::Float16;
#else
using Element = device::BFloat16;
#endif
constexpr int kElementBytes = static_cast<int>(sizeof(Element));

}  // namespace
}  // namespace mamba_scan
