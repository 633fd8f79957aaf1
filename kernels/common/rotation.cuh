// The angle of a complex exponential: exp(dt * a) = 2^(dt * re(a) * log2(e)) * (cos, sin)(dt * im(a)).
#pragma once

#include "common/device.cuh"

namespace mamba_scan::device {

// An angular rate in half turns, im(a) / pi, as a sum: one float alone would lose 3e-6 of a turn per 100 turns.
struct HalfTurns {
  float high, low;
};

__device__ __forceinline__ HalfTurns half_turns(float radians) {
  constexpr float kInversePi = 0.318309886f, kInversePiRest = 1.28412766e-8f;
  const float high = __fmul_rn(radians, kInversePi);
  return {high, __fmaf_rn(radians, kInversePi, -high) + radians * kInversePiRest};
}

// magnitude * (cos, sin) of dt * rate. Whole half turns are taken off exactly, so the error stays near 2e-7 of the
// magnitude as long as dt * rate, below 4 million, is exact; then minimax polynomials on [-1/2, 1/2], 4e-9, rather than
// the exponential unit's sine, whose 5e-7 would add up over the many equal steps of a slow state.
__device__ __forceinline__ void rotate(float magnitude, float dt, HalfTurns rate, float& re, float& im) {
  constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23: the sum's lowest bits are the nearest integer
  const float angle = __fmul_rn(dt, rate.high);
  const float shifted = __fadd_rn(angle, kToInteger);
  const float rest = __fmaf_rn(dt, rate.low, __fmaf_rn(dt, rate.high, -angle));
  const float r = (angle - __fadd_rn(shifted, -kToInteger)) + rest;
  const float x = r * r;
  float sine = 0.07725965f;
  sine = sine * x - 0.5980689f;
  sine = sine * x + 2.5500362f;
  sine = sine * x - 5.1677074f;
  sine = sine * x + 3.1415925f;
  float cosine = -0.0244207f;
  cosine = cosine * x + 0.23495393f;
  cosine = cosine * x - 1.335216f;
  cosine = cosine * x + 4.0587096f;
  cosine = cosine * x - 4.934802f;
  cosine = cosine * x + 1.0f;
  // An odd number of half turns changes both signs.
  magnitude = __uint_as_float(__float_as_uint(magnitude) ^ __float_as_uint(shifted) << 31);
  re = magnitude * cosine;
  im = magnitude * (sine * r);
}

}  // namespace mamba_scan::device
