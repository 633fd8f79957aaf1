// The state that a piece of a row begins with, and whose the one at its end is: forward.cu and served.cu.
#pragma once

#if MS_COMPLEX
#include "selective_scan/complex_lane.cuh"
#else
#include "selective_scan/lane.cuh"
#endif

namespace mamba_scan {
namespace {

#if !MS_COMPLEX
#if MS_INVARIANT
// The state at the start of a segment, as compose.cu has left it.
__device__ __forceinline__ void load_composed(const SelectiveScanForwardParams& params, LaneId id, Lane& self) {
  const float* state = params.carry_state + static_cast<Index>(this_slot()) * (kChannels * kStates * 32);
#pragma unroll
  for (int r = 0; r < kChannels; ++r)
#pragma unroll
    for (int s = 0; s < kStates; ++s) self.state[r][s] = state[carry_place(id, r, state_of(id.part, s))];
}
#endif

#if MS_CUT
// The state at the start of a slot's first piece, which lies inside a row: the carries of the slots before it, each
// decayed by the sum of delta since, until the sequence's begin is reached or nothing older is left to see.
__device__ __forceinline__ void compose_state(const SelectiveScanForwardParams& params, const Shared& shared, LaneId id,
                                              Lane& self) {
  const Piece& piece = shared.piece;
  const Row& row = piece.row;
  int first_tile = piece.next - piece.end;  // the sequence's, counted over all rows
#if MS_PACKED
  first_tile += static_cast<int>(sequence_begin(params.problem, shared.sequence) / kTile);
#endif
  // Carries read at once: what one costs is the way to memory and back.
  constexpr int kTogether = kChannels * kStates >= 32 ? 1 : kChannels * kStates <= 4 ? 8 : 32 / (kChannels * kStates);
  float since[kChannels];  // sum of delta from the end of the slot looked at to the start of this one
#pragma unroll
  for (int r = 0; r < kChannels; ++r) since[r] = 0.0f;
  set_zero(self.state);
  bool alive = true, reached = false;  // the same in all lanes
  int from = this_slot();
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
  const float* initial = row_states(params.problem, tensor, shared);
  for_each_state(row, id, tensor.dim_stride, tensor.state_stride, [&](int r, int s, Index index, bool exists) {
    if (exists) self.state[r][s] += exp2_fast(since[r] * self.rate[r][s]) * initial[index];
  });
#endif
}
#endif
#endif  // !MS_COMPLEX

// The state that the piece begins with.
__device__ __forceinline__ void enter_piece(const SelectiveScanForwardParams& params, const Shared& shared, LaneId id,
                                            Lane& self) {
#if MS_INVARIANT && !MS_COMPLEX
  if (params.carry_state != nullptr) {
    load_composed(params, id, self);
    return;
  }
#elif MS_CUT
  Index first_step = 0;  // of the sequence
#if MS_PACKED
  first_step = sequence_begin(params.problem, shared.sequence);
#endif
  if (first_step < static_cast<Index>(shared.piece.begin) * kTile) {
    compose_state(params, shared, id, self);
    return;
  }
#endif
  start_state(params.problem, shared, id, self);
}

// Is the state at the piece's end the row's final state? Where compose.cu ran and the row ends with a whole segment, it
// is what compose.cu has stored: a later call that continues from there would compute the same.
__device__ __forceinline__ bool hands_out_state(const SelectiveScanForwardParams& params, const Piece& piece) {
#if MS_INVARIANT
  if (params.carry_state != nullptr && is_whole_segment(params, piece)) return false;
#endif
  return piece.end == params.tiles_per_row;
}

}  // namespace
}  // namespace mamba_scan
