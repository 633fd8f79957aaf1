// softplus and SiLU in fp32 from the fast exponential, once per (step, channel), never per state.
#pragma once

#include "common/device.cuh"

namespace mamba_scan::device {

constexpr float kLog2E = 1.4426950408889634f;

// log(1 + exp(x)) = max(x, 0) + log1p(e), e = exp(-|x|), without a branch and with one use of the exponential unit.
// Above 20 that is x itself, as in torch.nn.functional.softplus: e is less than the last bit of x. log1p(e) / e is a
// minimax polynomial on [0, 1], of relative error 1.6e-7 when PRECISE; else 1.3e-6, far below what rounding to 16 bits
// does to delta.
template <bool PRECISE>
__device__ __forceinline__ float softplus(float x) {
  const float e = exp2_fast(fabsf(x) * -kLog2E);
  float p;
  if constexpr (PRECISE) {
    p = 0.005232696887105703f;
    p = p * e - 0.029505250975489616f;
    p = p * e + 0.07822597771883011f;
    p = p * e - 0.13663248717784882f;
    p = p * e + 0.19106008112430573f;
    p = p * e - 0.2484298199415207f;
    p = p * e + 0.3331909775733948f;
    p = p * e - 0.4999949336051941f;
    p = p * e + 0.9999999403953552f;
  } else {
    p = 0.014141024090349674f;
    p = p * e - 0.06640180200338364f;
    p = p * e + 0.14922387897968292f;
    p = p * e - 0.2350386083126068f;
    p = p * e + 0.33109450340270996f;
    p = p * e - 0.4998696446418762f;
    p = p * e + 0.9999987483024597f;
  }
  return p * e + fmaxf(x, 0.0f);
}

// x * sigmoid(x)
__device__ __forceinline__ float silu(float x) { return x * reciprocal_fast(1.0f + exp2_fast(-x * kLog2E)); }

// Multiplies a and b by silu(x) and silu(z) with one reciprocal for both. The exponents are capped so
// that the product of the denominators stays finite: below x = -43, where silu is less than 1e-17, it is x * 2^-62.
__device__ __forceinline__ void multiply_silu(float x, float z, float& a, float& b) {
  const float x_denominator = 1.0f + exp2_fast(fminf(x * -kLog2E, 62.0f));
  const float z_denominator = 1.0f + exp2_fast(fminf(z * -kLog2E, 62.0f));
  const float both = reciprocal_fast(x_denominator * z_denominator);
  a *= x * (both * z_denominator);
  b *= z * (both * x_denominator);
}

// Of one number, or of pairs: multiplies y by silu(x).
template <int COUNT>
__device__ __forceinline__ void multiply_silu(const float (&x)[COUNT], float (&y)[COUNT]) {
  if constexpr (COUNT == 1) {
    y[0] *= silu(x[0]);
  } else {
    static_assert(COUNT % 2 == 0, "whole pairs");
#pragma unroll
    for (int i = 0; i < COUNT; i += 2) multiply_silu(x[i], x[i + 1], y[i], y[i + 1]);
  }
}

}  // namespace mamba_scan::device
