// Where the outputs of a tile go: through the gate, into the tile in place of u and, where no pointers are used, from
// there to global memory; or, of a slice of the states, into scratch memory.
#pragma once

#include "common/activation.cuh"
#include "selective_scan/tile_values.cuh"

namespace mamba_scan {
namespace {

// The lane's owned channels and steps of a group, from step `first` of the tile: the group's first plus id.first_step.
using Outputs = float[kOwned][kOwnedSteps];

// Of the lanes that own the same channels and steps, one stores.
__device__ __forceinline__ bool stores_outputs(LaneId id) {
  return kLanesOfChannel <= kSteps || id.part < kChannels * kSteps;
}

// The same channels and steps of a tile of u or z.
__device__ __forceinline__ void read_owned(const Element* tile, int first, LaneId id, Outputs& to) {
#if MS_SEQ_CONTIGUOUS
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
    const auto steps = read_elements<kOwnedSteps>(tile + channel_of(id, id.first_owned + i) * kPitch +
                                                  place_of_steps<kOwnedSteps>(first));
#pragma unroll
    for (int t = 0; t < kOwnedSteps; ++t) to[i][t] = to_float(steps.value[place_in_steps<kOwnedSteps>(t)]);
  }
#else
#pragma unroll
  for (int t = 0; t < kOwnedSteps; ++t) {
    const auto channels = read_elements<kOwned>(tile + (first + t) * kPitch + channel_of(id, id.first_owned));
#pragma unroll
    for (int i = 0; i < kOwned; ++i) to[i][t] = to_float(channels.value[i]);
  }
#endif
}

__device__ __forceinline__ void apply_gate(const Element* z, int first, LaneId id, Outputs& y) {
  Outputs gate;
  read_owned(z, first, id, gate);
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
    if constexpr (kOwnedSteps == 1) {
      y[i][0] *= silu(gate[i][0]);
    } else {
#pragma unroll
      for (int t = 0; t < kOwnedSteps; t += 2) multiply_silu(gate[i][t], gate[i][t + 1], y[i][t], y[i][t + 1]);
    }
  }
}

// A lane's outputs of a few steps are a fraction of a memory sector. They replace u in the tile, whose elements of
// these steps all lanes have read, and go to memory in whole rows of the tile. PART: only steps begin to end - 1,
// counted from `first`.
template <bool PART>
__device__ __forceinline__ void keep_outputs(Element* tile, int first, LaneId id, int begin, int end,
                                             const Outputs& y) {
#if MS_SEQ_CONTIGUOUS
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
    Element* to = tile + channel_of(id, id.first_owned + i) * kPitch + place_of_steps<kOwnedSteps>(first);
    Elements<kOwnedSteps> out;
    if constexpr (PART) out = read_elements<kOwnedSteps>(to);
#pragma unroll
    for (int t = 0; t < kOwnedSteps; ++t)
      if (!PART || (begin <= t && t < end)) from_float(y[i][t], out.value[place_in_steps<kOwnedSteps>(t)]);
    *reinterpret_cast<Elements<kOwnedSteps>*>(to) = out;
  }
#else
#pragma unroll
  for (int t = 0; t < kOwnedSteps; ++t) {
    if (PART && (t < begin || t >= end)) continue;
    Elements<kOwned> out;
#pragma unroll
    for (int i = 0; i < kOwned; ++i) from_float(y[i][t], out.value[i]);
    *reinterpret_cast<Elements<kOwned>*>(tile + (first + t) * kPitch + channel_of(id, id.first_owned)) = out;
  }
#endif
}

// The outputs of a tile without all steps or channels, or of a y that is stored element by element.
__device__ __forceinline__ void store_part(const Element* tile, const SequenceTensor& tensor, const Row& row,
                                           Index first_step, int steps, int lane) {
  Element* y = static_cast<Element*>(tensor.data) + row.batch * tensor.batch_stride + first_step * tensor.seq_stride +
               row.first_channel * tensor.dim_stride;
#pragma unroll 1
  for (int i = lane; i < kWarpChannels * kTile; i += 32) {
    const int channel = kSeqContiguous ? i / kTile : i % kWarpChannels;
    const int step = kSeqContiguous ? i % kTile : i / kWarpChannels;
    const int place = kSeqContiguous ? channel * kPitch + (kReverse ? kTile - 1 - step : step) : i;
    if (channel < row.channels && step < steps)
      store_global<kElementBytes>(y + channel * tensor.dim_stride + step * tensor.seq_stride, &tile[place]);
  }
}

#if MS_SLICE
// The sums over the states of the slices so far, of the lane's owned channels and steps of the group from step `first`
// of a tile.
__device__ __forceinline__ float* partial_place(float* tile_sums, int first, LaneId id, int i) {
  return tile_sums + first * kWarpChannels + channel_of(id, id.first_owned + i) * kSteps + id.first_step;
}

// Read only by the lanes that will write them.
__device__ __forceinline__ void read_partial(float* tile_sums, int first, LaneId id, bool there, Outputs& y) {
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
#pragma unroll
    for (int t = 0; t < kOwnedSteps; ++t) y[i][t] = 0.0f;
    if (there) read_floats(partial_place(tile_sums, first, id, i), y[i]);
  }
}

// Steps begin to end - 1, counted from the lane's first.
__device__ __forceinline__ void write_partial(float* tile_sums, int first, LaneId id, int begin, int end,
                                              const Outputs& y) {
  constexpr int kVector = kOwnedSteps < 4 ? kOwnedSteps : 4;
#pragma unroll
  for (int i = 0; i < kOwned; ++i)
#pragma unroll
    for (int t = 0; t < kOwnedSteps; t += kVector) {
      float* to = partial_place(tile_sums, first, id, i) + t;
      if (!kPacked || (begin <= t && t + kVector <= end)) {
        store_global<kVector * 4>(to, &y[i][t]);
      } else {
#pragma unroll
        for (int k = 0; k < kVector; ++k)
          if (begin <= t + k && t + k < end) to[k] = y[i][t + k];
      }
    }
}
#endif

}  // namespace
}  // namespace mamba_scan
