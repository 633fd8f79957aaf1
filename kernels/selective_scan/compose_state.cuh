// The state in the middle of a row of a scan that is cut in time, from what carry.cu has left (forward_params.h).
#pragma once

#include "selective_scan/lane.cuh"

namespace mamba_scan {
namespace {

// The state at the start of the block's slot, whose first piece `piece` lies inside a row: the carries of the slots
// before it, each decayed by the sum of delta since, until the sequence's begin is reached or nothing older is left to
// see. first_step: the sequence's, in the row; index: of its initial state.
__device__ __forceinline__ void compose_state(const SelectiveScanForwardParams& params, const Piece& piece,
                                              Index first_step, Index index, LaneId id, Lane& self) {
  const Row& row = piece.row;
  const int first_tile = piece.next - piece.end + static_cast<int>(first_step / kTile);  // counted over all rows
  // Carries read at once: what one costs is the way to memory and back.
  constexpr int kTogether = kChannels * kStates >= 32 ? 1 : kChannels * kStates <= 4 ? 8 : 32 / (kChannels * kStates);
  float since[kChannels];  // sum of delta from the end of the slot looked at to the start of this one
#pragma unroll
  for (int r = 0; r < kChannels; ++r) since[r] = 0.0f;
  set_zero(self.state);
  bool alive = true, reached = false;  // the same in all lanes
  int from = this_slot(params);
  do {
    float state[kTogether][kChannels][kStates], delta[kTogether][kChannels];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const Index slot = max(from - 1 - i, 0);
#pragma unroll
      for (int r = 0; r < kChannels; ++r) {
        delta[i][r] = params.carry_delta[slot * (kChannels * 32) + r * 32 + id.lane];
#pragma unroll
        for (int s = 0; s < kStates; ++s)
          state[i][r][s] =
              params.carry_state[slot * (kChannels * kStates * 32) + carry_place(id, r, state_of(id.part, s))];
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (!alive || reached) break;
      --from;
      bool any = false;
#pragma unroll
      for (int r = 0; r < kChannels; ++r) {
        const float older = since[r] + delta[i][r];
#pragma unroll
        for (int s = 0; s < kStates; ++s) {
          self.state[r][s] += exp2_fast(since[r] * self.rate[r][s]) * state[i][r][s];
          const bool exists = channel_of(id, r) < row.channels && state_of(id.part, s) < kDState;
          any = any || (exists && !(older * self.rate[r][s] < kDecayed));
        }
        since[r] = older;
      }
      alive = __any_sync(kAllLanes, any);
      reached = slot_range(params, from).begin <= first_tile;
    }
  } while (alive && !reached);
#if MS_HAS_INITIAL
  if (!alive) return;
  const StateTensor& tensor = params.problem.initial_state;
  const float* initial = row_states(tensor, row, index);
  for_each_state(row, id, tensor.dim_stride, tensor.state_stride, [&](int r, int s, Index i, bool exists) {
    if (exists) self.state[r][s] += exp2_fast(since[r] * self.rate[r][s]) * initial[i];
  });
#endif
}

}  // namespace
}  // namespace mamba_scan
