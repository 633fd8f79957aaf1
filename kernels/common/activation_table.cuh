// softplus and the sigmoid without the exponential unit: by straight lines from a table in shared memory. That unit is
// what bounds a scan, and they would take two and a half of its slots a step where 16 states take 16.
//
// Between -22 and 10 there is a line for every 1/32, off by 6e-5 of the value at most, an eighth of what rounding to
// fp16 may be off by. Below -22, where either is less than 3e-10, they are zero, and above 10 softplus is x and the
// sigmoid 1, off by 5e-5 at most. softplus of NaN is NaN; the sigmoid of NaN is zero, and NaN again once it is
// multiplied by NaN for a gate.
#pragma once

#include "common/activation.cuh"
#include "common/device.cuh"

namespace mamba_scan::device {

constexpr int kLinesPerUnit = 32, kTableUnits = 32, kTableBegin = -22;
constexpr int kLines = kLinesPerUnit * kTableUnits;  // and one more, of what is above

// Lines as (value at 0, slope). The sigmoid's are functions of the place in the table, from 0 to 1, so that of what
// lies outside it is not asked for infinity times zero.
struct __align__(16) ActivationTable {
  float2 softplus[kLines + 2];
  float2 sigmoid[kLines + 2];
};

// By all `threads` of the block together, before a barrier.
__device__ __forceinline__ void fill_table(ActivationTable& table, int thread, int threads) {
  // A tangent's distance to the curve at the ends of its 1/32, of which half is added everywhere: f'' (1/64)^2 / 4.
  constexpr float kShift = 1.0f / 16384.0f;
  for (int i = thread; i <= kLines; i += threads) {
    const float at = static_cast<float>(i) * (1.0f / kLinesPerUnit), x = at + kTableBegin;
    const float sigmoid = reciprocal_fast(1.0f + exp2_fast(-x * kLog2E));
    const float slope = sigmoid * reciprocal_fast(1.0f + exp2_fast(x * kLog2E));  // of the sigmoid
    const float of_softplus = softplus<true>(x) - sigmoid * x + kShift * slope;
    const float of_sigmoid = sigmoid - slope * at + kShift * slope * (1.0f - 2.0f * sigmoid);
    table.softplus[i] = make_float2(of_softplus, sigmoid);
    table.sigmoid[i] = make_float2(of_sigmoid, slope * kTableUnits);
    if (i == 0) table.softplus[i] = table.sigmoid[i] = make_float2(0.0f, 0.0f);
    if (i == kLines) table.softplus[i] = make_float2(0.0f, 1.0f), table.sigmoid[i] = make_float2(1.0f, 0.0f);
  }
}

// From 0 to 1 in the table.
__device__ __forceinline__ float place_in_table(float x) {
  return fma_saturated(x, 1.0f / kTableUnits, static_cast<float>(-kTableBegin) / kTableUnits);
}

__device__ __forceinline__ float2 line_at(const float2* lines, float place) {
  return read_pair(lines, place * (kLines * kPairUnit) + kPairZero);
}

__device__ __forceinline__ float softplus(const ActivationTable& table, float x) {
  x = max_or_nan(x, -1e30f);  // minus infinity, of which softplus is zero
  const float2 line = line_at(table.softplus, place_in_table(x));
  return line.y * x + line.x;
}

__device__ __forceinline__ float sigmoid(const ActivationTable& table, float x) {
  const float place = place_in_table(x);
  const float2 line = line_at(table.sigmoid, place);
  return line.y * place + line.x;
}

}  // namespace mamba_scan::device
