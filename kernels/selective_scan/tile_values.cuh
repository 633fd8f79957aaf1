// What lanes read from a tile in shared memory: B and C in fp32, u, and delta with bias and softplus.
#pragma once

#include "common/activation.cuh"
#include "selective_scan/warp_tile.cuh"

namespace mamba_scan {
namespace {

// Where in a channel's row of a tile COUNT steps from step `first` on lie, and which of these elements is the t-th
// step.
template <int COUNT>
__device__ __forceinline__ constexpr int place_of_steps(int first) {
  return kReverse ? kTile - COUNT - first : first;
}
template <int COUNT>
__device__ __forceinline__ constexpr int place_in_steps(int t) {
  return kReverse ? COUNT - 1 - t : t;
}

// A lane reads its states of a step in vectors of this many, and the lanes that share channels read vectors side by
// side: with all states of a lane adjacent, eight lanes would meet in the same banks.
constexpr int kStateVector = kParts > 1 ? kStates : kStates % 4 == 0 ? 4 : kStates % 2 == 0 ? 2 : 1;

// Where in a step's fp32 states state s of lane `part` lies, and where state n does.
__device__ __forceinline__ constexpr int place_of_state(int part, int s) {
  return (s / kStateVector * kLanes + part) * kStateVector + s % kStateVector;
}
__device__ __forceinline__ constexpr int place_of_state(int n) {
  return kInterleavedStates ? place_of_state(n % kLanes, n / kLanes) : place_of_state(n / kStates, n % kStates);
}

// A vector of elements as registers. Adjacent lanes read adjacent vectors.
template <int COUNT>
struct __align__(COUNT* kElementBytes > 16 ? 16 : COUNT * kElementBytes) Elements {
  Element value[COUNT];
};

// From the raw tile of B or C to fp32 in the order lanes read it. Padding states were zeroed once and stay zero.
// Adjacent lanes take adjacent states where a vector runs along the steps (ORDER 1), so that they write to different
// banks.
template <int ORDER>
__device__ __forceinline__ void expand_projection(const Element* from, float* to, int lane) {
  if constexpr (ORDER == 3) return;
  constexpr int kRow = kDState * kParts;
  constexpr int kElements = kTile * kRow;
  constexpr int kVector = ORDER == 1 ? (kTile < 8 ? kTile : 8) : kElements % 4 == 0 ? 4 : 1;
  constexpr int kVectors = kElements / kVector;
  using Vector = Elements<kVector>;
#pragma unroll
  for (int i = 0; i < (kVectors + 31) / 32; ++i) {
    const int index = i * 32 + lane;
    if (kVectors % 32 != 0 && index >= kVectors) break;
    if constexpr (ORDER == 1) {
      const int n = index % kDState, first = index / kDState * kVector;
      const Vector vector = *reinterpret_cast<const Vector*>(from + n * kTile + first);
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        const int step = kReverse ? kTile - 1 - (first + k) : first + k;
        to[step * kPaddedStates + place_of_state(n)] = to_float(vector.value[k]);
      }
    } else {
      const Vector vector = *reinterpret_cast<const Vector*>(from + index * kVector);
      constexpr bool kStayAdjacent = !kInterleavedStates && kPaddedStates == kDState && kStateVector % 4 == 0;
      if constexpr (kStayAdjacent && kVector == 4 && kParts == 1) {
        const int step = index * 4 / kRow, n = index * 4 % kRow;
        *reinterpret_cast<float4*>(to + step * kPaddedStates + place_of_state(n)) = make_float4(
            to_float(vector.value[0]), to_float(vector.value[1]), to_float(vector.value[2]), to_float(vector.value[3]));
      } else {
#pragma unroll
        for (int k = 0; k < kVector; ++k) {
          const int step = (index * kVector + k) / kRow, n = (index * kVector + k) % kRow / kParts;
          to[(step * kPaddedStates + place_of_state(n)) * kParts + k % kParts] = to_float(vector.value[k]);
        }
      }
    }
  }
}

template <int COUNT>
__device__ __forceinline__ void read_floats(const float* from, float (&to)[COUNT]) {
  if constexpr (COUNT % 4 == 0) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
      const float4 v = *reinterpret_cast<const float4*>(from + i);
      to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
  } else if constexpr (COUNT % 2 == 0) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 2) {
      const float2 v = *reinterpret_cast<const float2*>(from + i);
      to[i] = v.x, to[i + 1] = v.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) to[i] = from[i];
  }
}

// B or C of states first .. first + COUNT - 1 of a lane.
template <int COUNT>
__device__ __forceinline__ void read_states(const float* step, int part, int first, float (&to)[COUNT]) {
  constexpr int kAtOnce = COUNT < kStateVector ? COUNT : kStateVector;
  static_assert(COUNT % kAtOnce == 0, "whole vectors");
#pragma unroll
  for (int i = 0; i < COUNT; i += kAtOnce) {
    float vector[kAtOnce];
    read_floats(step + place_of_state(part, first + i), vector);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) to[i + k] = vector[k];
  }
}

template <int COUNT>
__device__ __forceinline__ Elements<COUNT> read_elements(const Element* from) {
  return *reinterpret_cast<const Elements<COUNT>*>(from);
}

// ---- delta ----

// kSteps steps of delta for the lane's channels: bias, softplus, zero past the end. With softplus each lane evaluates
// the channels and steps it owns only, and the lanes that share channels exchange them.
struct DeltaReader {
#if MS_HAS_BIAS
  float bias[kChannels];
#endif

  __device__ __forceinline__ void load_bias(const SelectiveScanProblem& p, const Row& row, LaneId id) {
#if MS_HAS_BIAS
#pragma unroll
    for (int r = 0; r < kChannels; ++r) {
      const int c = channel_of(id, kExchange ? id.first_owned + r % kOwned : r);
      bias[r] = c < row.channels ? p.delta_bias[row.first_channel + c] : 0.0f;
    }
#endif
  }

  // The raw elements of steps first .. first + kSteps - 1.
  __device__ __forceinline__ void read(const Element* tile, int first, LaneId id) {
    const int channel = kExchange ? id.first_owned : 0;
    first += kExchange ? id.first_step : 0;
#if MS_SEQ_CONTIGUOUS
#pragma unroll
    for (int i = 0; i < kRead; ++i)
      raw_[i] =
          read_elements<kReadSteps>(tile + channel_of(id, channel + i) * kPitch + place_of_steps<kReadSteps>(first));
#else
#pragma unroll
    for (int t = 0; t < kReadSteps; ++t)
      raw_[t] = read_elements<kRead>(tile + (first + t) * kPitch + channel_of(id, channel));
#endif
  }

  // exists(t): whether step t of the group lies inside the sequence.
  template <class Exists>
  __device__ __forceinline__ void steps(const Exists& exists, LaneId id, float (&dt)[kSteps][kChannels]) const {
#pragma unroll
    for (int t = 0; t < kReadSteps; ++t)
#pragma unroll
      for (int i = 0; i < kRead; ++i) {
        float value = to_float(kSeqContiguous ? raw_[i].value[place_in_steps<kReadSteps>(t)] : raw_[t].value[i]);
#if MS_HAS_BIAS
        value += bias[i];
#endif
#if MS_SOFTPLUS
        value = softplus<MS_DTYPE == 0>(value);
#endif
        // A missing_delta() would become a step of its own.
        if (MS_HAS_BIAS && !MS_SOFTPLUS) value = exists(t) ? value : 0.0f;
        dt[t][i] = value;
      }
    if (kExchange) gather_over_lanes(dt, id);
  }

 private:
  enum : bool { kExchange = MS_SOFTPLUS && kLanes > 1 };
  enum : int { kRead = kExchange ? kOwned : kChannels, kReadSteps = kExchange ? kOwnedSteps : kSteps };
#if MS_SEQ_CONTIGUOUS
  Elements<kReadSteps> raw_[kRead];
#else
  Elements<kRead> raw_[kReadSteps];
#endif
};

// kSteps steps of u for the lane's channels.
struct InputReader {
  __device__ __forceinline__ void read(const Element* tile, int first, LaneId id) {
#if MS_SEQ_CONTIGUOUS
#pragma unroll
    for (int r = 0; r < kChannels; ++r)
      raw_[r] = read_elements<kSteps>(tile + channel_of(id, r) * kPitch + place_of_steps<kSteps>(first));
#else
#pragma unroll
    for (int t = 0; t < kSteps; ++t)
      raw_[t] = read_elements<kChannels>(tile + (first + t) * kPitch + channel_of(id, 0));
#endif
  }

  __device__ __forceinline__ float value(int t, int r) const {
    return to_float(kSeqContiguous ? raw_[r].value[place_in_steps<kSteps>(t)] : raw_[t].value[r]);
  }

 private:
#if MS_SEQ_CONTIGUOUS
  Elements<kSteps> raw_[kChannels];
#else
  Elements<kChannels> raw_[kSteps];
#endif
};

}  // namespace
}  // namespace mamba_scan
