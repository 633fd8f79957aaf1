// What a lane keeps while it walks along a row of real states: forward.cu, and of the state relay.cu.
#pragma once

#include "selective_scan/tile_values.cuh"

namespace mamba_scan {
namespace {

struct Lane {
  States state;
  States rate;
  DeltaReader delta;
#if MS_HAS_D
  float D[kChannels];  // zero in all lanes but one of those that share a channel
#endif
#if MS_B_ORDER == 3
  States B;
#endif
#if MS_C_ORDER == 3
  States C;
#endif
};

__device__ __forceinline__ void load_lane(const SelectiveScanProblem& p, const Row& row, LaneId id, Lane& self) {
  load_decay_rates(p, row, id, self.rate);
  self.delta.load(p, row, id);
#if MS_HAS_D
#pragma unroll
  for (int r = 0; r < kChannels; ++r) {
    const int c = channel_of(id, r);
    self.D[r] = id.part == 0 && c < row.channels ? p.D[row.first_channel + c] : 0.0f;
  }
#endif
#if MS_B_ORDER == 3
  load_constant_projection(p.B, row, id, self.B);
#endif
#if MS_C_ORDER == 3
  load_constant_projection(p.C, row, id, self.C);
#endif
}

// Of the index-th (dim, dstate) part of the initial and final states.
__device__ __forceinline__ void start_state(const SelectiveScanProblem& p, const Row& row, Index index, LaneId id,
                                            Lane& self) {
#if MS_HAS_INITIAL
  if (MS_INVARIANT && p.initial_state.data == nullptr) {
    set_zero(self.state);
    return;
  }
  const float* initial = row_states(p.initial_state, row, index);
  for_each_state(row, id, p.initial_state.dim_stride, p.initial_state.state_stride,
                 [&](int r, int s, Index i, bool exists) { self.state[r][s] = exists ? initial[i] : 0.0f; });
#else
  set_zero(self.state);
#endif
}

__device__ __forceinline__ void store_state(const SelectiveScanProblem& p, const Row& row, Index index, LaneId id,
                                            const Lane& self) {
#if MS_HAS_FINAL
  if (MS_INVARIANT && p.final_state.data == nullptr) return;
  float* final_state = row_states(p.final_state, row, index);
  for_each_state(row, id, p.final_state.dim_stride, p.final_state.state_stride,
                 [&](int r, int s, Index i, bool exists) {
                   if (exists) final_state[i] = self.state[r][s];
                 });
#endif
}

// Of the sequence at hand.
__device__ __forceinline__ void start_state(const SelectiveScanProblem& p, const Shared& shared, LaneId id,
                                            Lane& self) {
  start_state(p, shared.piece.row, state_index(p, shared), id, self);
}

__device__ __forceinline__ void store_state(const SelectiveScanProblem& p, const Shared& shared, LaneId id,
                                            const Lane& self) {
  store_state(p, shared.piece.row, state_index(p, shared), id, self);
}

// B and C of a step for the lane's states, unless they are constant in time.
__device__ __forceinline__ void read_projections(const ExpandedTile& expanded, const Stage& stage, int step, LaneId id,
                                                 float (&B)[kStates], float (&C)[kStates]) {
  if constexpr (!kBConstant) read_states(tile_B(expanded, stage) + step * kPaddedStates, id.part, 0, B);
  if constexpr (!kCConstant) read_states(tile_C(expanded, stage) + step * kPaddedStates, id.part, 0, C);
}

// One step for the lane's channels. Adds the lane's share of the output before the gate to y.
__device__ __forceinline__ void advance_states(const float (&delta)[kChannels], const float (&delta_u)[kChannels],
                                               float (&B)[kStates], float (&C)[kStates], Lane& self,
                                               float (&y)[kChannels]) {
#pragma unroll
  for (int s = 0; s < kStates; ++s)
#pragma unroll
    for (int r = 0; r < kChannels; ++r) {
#if MS_B_ORDER == 3
      B[s] = self.B[r][s];
#endif
#if MS_C_ORDER == 3
      C[s] = self.C[r][s];
#endif
      self.state[r][s] = exp2_fast(delta[r] * self.rate[r][s]) * self.state[r][s] + delta_u[r] * B[s];
      y[r] += self.state[r][s] * C[s];
    }
}

}  // namespace
}  // namespace mamba_scan
