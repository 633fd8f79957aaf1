// Where the outputs of a group of steps go: through the gate and into the tile, in place of u; or, of a slice of the
// states, into scratch memory.
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

// The same channels and steps of a tile of u or z, which is moved as ACCESS says.
template <int ACCESS>
__device__ __forceinline__ void read_owned(const Element* tile, int first, LaneId id, Shift<ACCESS> shift,
                                           Outputs& to) {
#if MS_SEQ_CONTIGUOUS
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
    const auto steps = read_row<ACCESS, kOwnedSteps>(tile + channel_of(id, id.first_owned + i) * kPitch<ACCESS>,
                                                     place_of_steps<kOwnedSteps>(first), shift.first);
#pragma unroll
    for (int t = 0; t < kOwnedSteps; ++t) to[i][t] = to_float(steps.value[place_in_steps<kOwnedSteps>(t)]);
  }
#else
#pragma unroll
  for (int t = 0; t < kOwnedSteps; ++t) {
    const auto channels = read_row<ACCESS, kOwned>(tile + (first + t) * kPitch<ACCESS>, channel_of(id, id.first_owned),
                                                   shift.of_step(kOwnedSteps % kShifts<ACCESS> == 0 ? t : first + t));
#pragma unroll
    for (int i = 0; i < kOwned; ++i) to[i][t] = to_float(channels.value[i]);
  }
#endif
}

// Adds D * u of the group from step `first` on to the lane's outputs. D(i): of its i-th owned channel.
template <class Skip>
__device__ __forceinline__ void add_skips(const Element* u, int first, LaneId id, Shift<MS_U_ACCESS> shift,
                                          const Skip& D, Outputs& y) {
  Outputs input;
  read_owned<MS_U_ACCESS>(u, first, id, shift, input);
#pragma unroll
  for (int i = 0; i < kOwned; ++i)
#pragma unroll
    for (int t = 0; t < kOwnedSteps; ++t) y[i][t] += D(i) * input[i][t];
}

__device__ __forceinline__ void apply_gate(const Element* z, int first, LaneId id, Shift<MS_Z_ACCESS> shift,
                                           Outputs& y) {
  Outputs gate;
  read_owned<MS_Z_ACCESS>(z, first, id, shift, gate);
#pragma unroll
  for (int i = 0; i < kOwned; ++i) multiply_silu(gate[i], y[i]);
}

// What finishing outputs takes of a row, where there are registers to keep it: how rows of u and z are shifted, and D
// of the channels that the lane owns.
struct OfRow {
  float D[kOwned];
  Shift<MS_U_ACCESS> u_shift;
  Shift<MS_Z_ACCESS> z_shift;

  __device__ __forceinline__ void load(const SelectiveScanProblem& p, const Row& row, LaneId id) {
    u_shift = shift_of<MS_U_ACCESS>(p.u, row, id);
    z_shift = shift_of<MS_Z_ACCESS>(p.z, row, id);
#pragma unroll
    for (int i = 0; i < kOwned; ++i) {
      const int c = channel_of(id, id.first_owned + i);
      D[i] = MS_HAS_D && c < row.channels ? p.D[row.first_channel + c] : 0.0f;
    }
  }

  // Of the lane's owned steps from step `first` of the tile on: adds D * u, and passes the gate.
  __device__ __forceinline__ void finish(const Stage& stage, int first, LaneId id, Outputs& y) const {
    if constexpr (MS_HAS_D) add_skips(stage.u, first, id, u_shift, [&](int i) { return D[i]; }, y);
    if constexpr (MS_HAS_Z) apply_gate(stage.z, first, id, z_shift, y);
  }
};

// Rows of outputs whose u is moved in words are aligned to words only.
constexpr bool kWordRows = kShifted<MS_U_ACCESS> && MS_U_ACCESS == kWords;

// A lane's outputs of a few steps are a fraction of a memory sector. They replace u in the tile, whose elements of
// these steps all lanes have read, and go to memory in whole rows of the tile. PART: only steps begin to end - 1,
// counted from `first`.
template <bool PART>
__device__ __forceinline__ void keep_outputs(Element* tile, int first, LaneId id, int begin, int end,
                                             const Outputs& y) {
#if MS_SEQ_CONTIGUOUS
  constexpr int kTogether = kWordRows && kOwnedSteps > 2 ? 2 : kOwnedSteps;
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
    Element* row =
        tile + channel_of(id, id.first_owned + i) * kOutputPitch + kOutputPlace + place_of_steps<kOwnedSteps>(first);
    Elements<kOwnedSteps> steps;
#pragma unroll
    for (int t = 0; t < kOwnedSteps; ++t) from_float(y[i][t], steps.value[place_in_steps<kOwnedSteps>(t)]);
#pragma unroll
    for (int place = 0; place < kOwnedSteps; place += kTogether) {
      Elements<kTogether> out;
      if constexpr (PART) out = read_elements<kTogether>(row + place);
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
        const int t = place_in_steps<kOwnedSteps>(place + k);
        if (!PART || (begin <= t && t < end)) out.value[k] = steps.value[place + k];
      }
      *reinterpret_cast<Elements<kTogether>*>(row + place) = out;
    }
  }
#else
#pragma unroll
  for (int t = 0; t < kOwnedSteps; ++t) {
    if (PART && (t < begin || t >= end)) continue;
    Elements<kOwned> out;
#pragma unroll
    for (int i = 0; i < kOwned; ++i) from_float(y[i][t], out.value[i]);
    *reinterpret_cast<Elements<kOwned>*>(tile + (first + t) * kOutputPitch + channel_of(id, id.first_owned)) = out;
  }
#endif
}

// The same of a lane that has its channels to itself, step by step. Where steps are adjacent, kAtOnce make a vector:
// stored one by one, those of lanes would meet in the same banks.
struct StepOutputs {
  enum : int { kAtOnce = !kSeqContiguous ? 1 : kSteps < 4 || kWordRows ? 2 : 4 };

  // Of step t of the group that begins with step `first`.
  __device__ __forceinline__ void put(Element* tile, int first, int t, LaneId id, const float (&y)[kChannels]) {
#if MS_SEQ_CONTIGUOUS
#pragma unroll
    for (int r = 0; r < kChannels; ++r) {
      from_float(y[r], rows_[r].value[place_in_steps<kAtOnce>(t % kAtOnce)]);
      if (t % kAtOnce == kAtOnce - 1)
        *reinterpret_cast<Elements<kAtOnce>*>(tile + channel_of(id, r) * kOutputPitch + kOutputPlace +
                                              place_of_steps<kAtOnce>(first + t + 1 - kAtOnce)) = rows_[r];
    }
#else
    Elements<kChannels> step;
#pragma unroll
    for (int r = 0; r < kChannels; ++r) from_float(y[r], step.value[r]);
    *reinterpret_cast<Elements<kChannels>*>(tile + (first + t) * kOutputPitch + channel_of(id, 0)) = step;
#endif
  }

#if MS_SEQ_CONTIGUOUS
 private:
  Elements<kAtOnce> rows_[kChannels];
#endif
};

#if MS_SLICE
// The sums over the states of the slices so far, of the lane's owned channels and steps of the group from step `first`
// of a tile.
__device__ __forceinline__ float* partial_place(float* tile_sums, int first, LaneId id, int i) {
  return tile_sums + first * kWarpChannels + channel_of(id, id.first_owned + i) * kSteps + id.first_step;
}

constexpr int kPartialVector = kOwnedSteps < 4 ? kOwnedSteps : 4;

// Of steps begin to end - 1, counted from the lane's first, calls vector(place, i, t) for kPartialVector adjacent ones
// from step t on, and single(place, i, t) for those that are no whole vector.
template <class Vector, class Single>
__device__ __forceinline__ void for_each_partial(float* tile_sums, int first, LaneId id, int begin, int end,
                                                 const Vector& vector, const Single& single) {
#pragma unroll
  for (int i = 0; i < kOwned; ++i)
#pragma unroll
    for (int t = 0; t < kOwnedSteps; t += kPartialVector) {
      float* place = partial_place(tile_sums, first, id, i) + t;
      if (!kPacked || (begin <= t && t + kPartialVector <= end)) {
        vector(place, i, t);
      } else {
#pragma unroll
        for (int k = 0; k < kPartialVector; ++k)
          if (begin <= t + k && t + k < end) single(place + k, i, t + k);
      }
    }
}

// Read only by the lanes that will write them: what the slices before this one have not written is not there.
__device__ __forceinline__ void read_partial(float* tile_sums, int first, LaneId id, bool there, int begin, int end,
                                             Outputs& y) {
#pragma unroll
  for (int i = 0; i < kOwned; ++i)
#pragma unroll
    for (int t = 0; t < kOwnedSteps; ++t) y[i][t] = 0.0f;
  if (!there) return;
  const auto vector = [&](const float* place, int i, int t) {
    float read[kPartialVector];
    read_floats(place, read);
#pragma unroll
    for (int k = 0; k < kPartialVector; ++k) y[i][t + k] = read[k];
  };
  for_each_partial(tile_sums, first, id, begin, end, vector,
                   [&](const float* place, int i, int t) { y[i][t] = *place; });
}

__device__ __forceinline__ void write_partial(float* tile_sums, int first, LaneId id, int begin, int end,
                                              const Outputs& y) {
  for_each_partial(
      tile_sums, first, id, begin, end,
      [&](float* place, int i, int t) { store_global<kPartialVector * 4>(place, &y[i][t]); },
      [&](float* place, int i, int t) { *place = y[i][t]; });
}
#endif

}  // namespace
}  // namespace mamba_scan
