// softplus and SiLU in fp32 from the fast exponential, once per (step, channel), never per state.
#pragma once

#include "common/device.cuh"

namespace mamba_scan::device {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// log(1 + exp(x)); x itself above 20, as torch.nn.functional.softplus. Relative error about 1e-6 for |x| <= 20.
__device__ __forceinline__ float softplus(float x) {
  const float e = exp2_fast(x * kLog2E);
  // log(1 + e) for small e: 1 + e would round e away. Minimax polynomial of log1p(e) / e on [0, 0.5], 1.5e-7.
  float p = 0.03867357224225998f;
  p = p * e - 0.11369699239730835f;
  p = p * e + 0.18450473248958588f;
  p = p * e - 0.2475198358297348f;
  p = p * e + 0.3331380784511566f;
  p = p * e - 0.4999941289424896f;
  p = p * e + 1.0f;
  float y = p * e;
  if (e > 0.5f) y = log2_fast(1.0f + e) * kLn2;
  return x > 20.0f ? x : y;
}

// x * sigmoid(x)
__device__ __forceinline__ float silu(float x) { return x * reciprocal_fast(1.0f + exp2_fast(-x * kLog2E)); }

}  // namespace mamba_scan::device
