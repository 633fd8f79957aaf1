// The pieces of a slot, one after another; and where slots are ranges of rows that go round (MS_WRAPPED, see
// forward_params.h), the state between two slots that share a row.
#pragma once

#include "selective_scan/warp_tile.cuh"

namespace mamba_scan {
namespace {

// Of a slot's tiles, counted over all rows: where its first piece begins or, as those of wrapped slots are taken from
// the end back, ends; that piece; and where the next one does.
__device__ __forceinline__ int first_of(Range slot) { return kWrapped ? slot.end : slot.begin; }

__device__ __forceinline__ Piece next_piece(const SelectiveScanForwardParams& params, Range slot, int at) {
  return kWrapped ? piece_until(params, slot.begin, at) : piece_at(params, at, slot.end);
}

__device__ __forceinline__ int after_piece(const Piece& piece) {
  return kWrapped ? piece.next - piece.end + piece.begin : piece.next;
}

__device__ __forceinline__ bool is_over(Range slot, int at) { return kWrapped ? at <= slot.begin : at >= slot.end; }

// What all lanes of a warp have written for the slot after this one is there for it.
__device__ __forceinline__ void announce_state(const SelectiveScanForwardParams& params, int slot, int lane) {
  __syncwarp();
  if (lane == 0) flag_set(params.carry_ready + slot);
}

// Until a slot's state is there for all lanes of the warp.
__device__ __forceinline__ void await_state_of(const SelectiveScanForwardParams& params, int slot, int lane) {
  if (lane == 0) flag_wait(params.carry_ready + slot);
  __syncwarp();
}

template <class Visit>
__device__ __forceinline__ void for_each_handed(const SelectiveScanForwardParams& params, int slot, LaneId id,
                                                const Visit& visit) {
  float* state = params.carry_state + static_cast<Index>(slot) * (kChannels * kStates * 32);
#pragma unroll
  for (int r = 0; r < kChannels; ++r)
#pragma unroll
    for (int s = 0; s < kStates; ++s) visit(r, s, state[carry_place(id, r, state_of(id.part, s))]);
}

// The state after the first piece of a row, on to the slot after this one; there, at the begin of the second one.
__device__ __forceinline__ void leave_state(const SelectiveScanForwardParams& params, int slot, LaneId id,
                                            const States& states) {
  for_each_handed(params, slot, id, [&](int r, int s, float& handed) { handed = states[r][s]; });
  announce_state(params, slot, id.lane);
}

__device__ __forceinline__ void await_state(const SelectiveScanForwardParams& params, int slot, LaneId id,
                                            States& states) {
  await_state_of(params, slot - 1, id.lane);
  for_each_handed(params, slot - 1, id, [&](int r, int s, float& handed) { states[r][s] = handed; });
}

}  // namespace
}  // namespace mamba_scan
