// Where the outputs of a tile go: through the gate, into the tile in place of u and, where no pointers are used, from
// there to global memory; or, of a slice of the states, into scratch memory.
#pragma once

#include "common/activation.cuh"
#include "selective_scan/tile_values.cuh"

namespace mamba_scan {
namespace {

// The lane's owned channels of kSteps steps, from step `first` of the tile.
using Outputs = float[kOwned][kSteps];

__device__ __forceinline__ void apply_gate(const Element* z, int first, LaneId id, Outputs& y) {
#if MS_SEQ_CONTIGUOUS
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
    const Elements<kSteps> gate =
        read_elements<kSteps>(z + channel_of(id, id.first_owned + i) * kPitch + place_of_group(first));
#pragma unroll
    for (int t = 0; t < kSteps; t += 2)
      multiply_silu(to_float(gate.value[place_in_group(t)]), to_float(gate.value[place_in_group(t + 1)]), y[i][t],
                    y[i][t + 1]);
  }
#else
#pragma unroll
  for (int t = 0; t < kSteps; t += 2) {
    const Element* step = z + (first + t) * kPitch + channel_of(id, id.first_owned);
    const Elements<kOwned> gate = read_elements<kOwned>(step), next = read_elements<kOwned>(step + kPitch);
#pragma unroll
    for (int i = 0; i < kOwned; ++i)
      multiply_silu(to_float(gate.value[i]), to_float(next.value[i]), y[i][t], y[i][t + 1]);
  }
#endif
}

// A lane's outputs of a few steps are a fraction of a memory sector. They replace u in the tile, whose elements of
// these steps all lanes have read, and go to memory in whole rows of the tile. PART: only steps begin to end - 1 of the
// group.
template <bool PART>
__device__ __forceinline__ void keep_outputs(Element* tile, int first, LaneId id, int begin, int end,
                                             const Outputs& y) {
#if MS_SEQ_CONTIGUOUS
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
    Element* to = tile + channel_of(id, id.first_owned + i) * kPitch + place_of_group(first);
    Elements<kSteps> out;
    if constexpr (PART) out = read_elements<kSteps>(to);
#pragma unroll
    for (int t = 0; t < kSteps; ++t)
      if (!PART || (begin <= t && t < end)) from_float(y[i][t], out.value[place_in_group(t)]);
    *reinterpret_cast<Elements<kSteps>*>(to) = out;
  }
#else
#pragma unroll
  for (int t = 0; t < kSteps; ++t) {
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
// The sums over the states of the slices so far, of the lane's owned channels from step `first` of a tile.
__device__ __forceinline__ float* partial_place(float* tile_sums, int first, LaneId id, int i) {
  return tile_sums + first * kWarpChannels + channel_of(id, id.first_owned + i) * kSteps;
}

// Read only by the lanes that will write them.
__device__ __forceinline__ void read_partial(float* tile_sums, int first, LaneId id, bool there, Outputs& y) {
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
#pragma unroll
    for (int t = 0; t < kSteps; ++t) y[i][t] = 0.0f;
    if (there) read_floats(partial_place(tile_sums, first, id, i), y[i]);
  }
}

// Steps begin to end - 1 of the group.
__device__ __forceinline__ void write_partial(float* tile_sums, int first, LaneId id, int begin, int end,
                                              const Outputs& y) {
  constexpr int kVector = kSteps % 4 == 0 ? 4 : kSteps % 2 == 0 ? 2 : 1;
#pragma unroll
  for (int i = 0; i < kOwned; ++i)
#pragma unroll
    for (int t = 0; t < kSteps; t += kVector) {
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
