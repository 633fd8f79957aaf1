// What a lane of forward.cu keeps and does when A, B, C and the states are complex (MS_COMPLEX): the counterparts of
// the real ones there.
//
// Cost per (channel, state, step): about 21 for the rotation and its angle, mul and ex2 for the magnitude, 2 for the
// decay, 6 for the state, 2 for y; arithmetic binds, not the exponential unit.
//
// Never cut in time: what a piece hands on is turned by the sum of delta over the next ones, thousands of turns of
// which a float keeps too few digits.
#pragma once

#include "common/rotation.cuh"
#include "selective_scan/tile_values.cuh"

namespace mamba_scan {
namespace {

struct Complex {
  float re, im;
};
using ComplexStates = Complex[kChannels][kStates];

struct Lane {
  ComplexStates state;
  States rate;  // re(A) * log2(e)
  HalfTurns turns[kChannels][kStates];
  DeltaReader delta;
#if MS_HAS_D
  float D[kChannels];  // in one of the lanes that share a channel, zero in the others
#endif
#if MS_B_ORDER == 3
  ComplexStates B;
#endif
#if MS_C_ORDER == 3
  ComplexStates C;
#endif
};

// The lane's states of a (dim, dstate) array from the row's first channel on; zero where there is no such state.
__device__ __forceinline__ void load_complex(const float* from, Index dim_stride, Index state_stride, Index imag_stride,
                                             const Row& row, LaneId id, ComplexStates& to) {
  for_each_state(row, id, dim_stride, state_stride, [&](int r, int s, Index index, bool exists) {
    to[r][s].re = exists ? from[index] : 0.0f;
    to[r][s].im = exists ? from[index + imag_stride] : 0.0f;
  });
}

__device__ __forceinline__ void load_constant(const ProjectionTensor& tensor, const Row& row, LaneId id,
                                              ComplexStates& to) {
  load_complex(static_cast<const float*>(tensor.data) + row.first_channel * tensor.group_stride, tensor.group_stride,
               tensor.state_stride, tensor.imag_stride, row, id, to);
}

__device__ __forceinline__ void load_lane(const SelectiveScanProblem& p, const Row& row, LaneId id, Lane& self) {
  const float* A = p.A + row.first_channel * p.A_dim_stride;
  for_each_state(row, id, p.A_dim_stride, p.A_state_stride, [&](int r, int s, Index index, bool exists) {
    self.rate[r][s] = exists ? A[index] * kLog2E : 0.0f;
    self.turns[r][s] = half_turns(exists ? A[index + p.A_imag_stride] : 0.0f);
  });
  self.delta.load(p, row, id);
#if MS_HAS_D
#pragma unroll
  for (int r = 0; r < kChannels; ++r) {
    const int c = channel_of(id, r);
    self.D[r] = id.part == 0 && c < row.channels ? p.D[row.first_channel + c] : 0.0f;
  }
#endif
#if MS_B_ORDER == 3
  load_constant(p.B, row, id, self.B);
#endif
#if MS_C_ORDER == 3
  load_constant(p.C, row, id, self.C);
#endif
}

__device__ __forceinline__ void set_zero(ComplexStates& value) {
#pragma unroll
  for (int r = 0; r < kChannels; ++r)
#pragma unroll
    for (int s = 0; s < kStates; ++s) value[r][s] = {0.0f, 0.0f};
}

__device__ __forceinline__ void start_state(const SelectiveScanProblem& p, const Shared& shared, LaneId id,
                                            Lane& self) {
  const StateTensor& tensor = p.initial_state;
  if (!MS_HAS_INITIAL || (MS_INVARIANT && tensor.data == nullptr)) {
    set_zero(self.state);
  } else {
    load_complex(row_states(p, tensor, shared), tensor.dim_stride, tensor.state_stride, tensor.imag_stride,
                 shared.piece.row, id, self.state);
  }
}

__device__ __forceinline__ void store_state(const SelectiveScanProblem& p, const Shared& shared, LaneId id,
                                            const Lane& self) {
  const StateTensor& tensor = p.final_state;
  if (!MS_HAS_FINAL || (MS_INVARIANT && tensor.data == nullptr)) return;
  float* final_state = row_states(p, tensor, shared);
  for_each_state(shared.piece.row, id, tensor.dim_stride, tensor.state_stride,
                 [&](int r, int s, Index index, bool exists) {
                   if (!exists) return;
                   final_state[index] = self.state[r][s].re;
                   final_state[index + tensor.imag_stride] = self.state[r][s].im;
                 });
}

// One step for the lane's channels. Returns in y the lane's share of the output before the gate.
__device__ __forceinline__ void step_states(const Shared& shared, const Stage& stage, int step, LaneId id,
                                            const float (&dt)[kChannels], const float (&u)[kChannels], Lane& self,
                                            float (&y)[kChannels]) {
  float B[2 * kStates], C[2 * kStates];
  if constexpr (!kBConstant)
    read_floats(tile_B(shared.expanded, stage) + (step * kPaddedStates + id.part * kStates) * kParts, B);
  if constexpr (!kCConstant)
    read_floats(tile_C(shared.expanded, stage) + (step * kPaddedStates + id.part * kStates) * kParts, C);
#pragma unroll
  for (int r = 0; r < kChannels; ++r) {
    const float delta_u = dt[r] * u[r];
    float sum = 0.0f;
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
#if MS_B_ORDER == 3
      B[2 * s] = self.B[r][s].re, B[2 * s + 1] = self.B[r][s].im;
#endif
#if MS_C_ORDER == 3
      C[2 * s] = self.C[r][s].re, C[2 * s + 1] = self.C[r][s].im;
#endif
      Complex decay;
      rotate(exp2_fast(dt[r] * self.rate[r][s]), dt[r], self.turns[r][s], decay.re, decay.im);
      const Complex h = self.state[r][s];
      self.state[r][s] = {decay.re * h.re - decay.im * h.im + delta_u * B[2 * s],
                          decay.re * h.im + decay.im * h.re + delta_u * B[2 * s + 1]};
      sum += self.state[r][s].re * C[2 * s] - self.state[r][s].im * C[2 * s + 1];
    }
    y[r] = 2.0f * sum;  // the conjugate states' share is the same
#if MS_HAS_D
    y[r] += self.D[r] * u[r];
#endif
  }
}

}  // namespace
}  // namespace mamba_scan
