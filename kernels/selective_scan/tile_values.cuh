// What lanes read from a tile in shared memory: B and C in fp32, u, and delta with bias and softplus.
#pragma once

#include "common/activation.cuh"
#include "selective_scan/tile_rows.cuh"

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

// Do a tile's states lie in the order of their numbers, without padding?
constexpr bool kStayInOrder =
    kPaddedStates == kDState && (kLanes == 1 || kStates == 1 || (!kInterleavedStates && kStateVector == kStates));

// Which state lies at a place, of those that are not interleaved.
__device__ __forceinline__ constexpr int state_at_place(int place) {
  const int vector = place / kStateVector;
  return vector % kLanes * kStates + vector / kLanes * kStateVector + place % kStateVector;
}

// A vector of elements as registers. Adjacent lanes read adjacent vectors.
template <int COUNT>
struct __align__(COUNT* kElementBytes > 16 ? 16 : COUNT * kElementBytes) Elements {
  Element value[COUNT];
};

template <int COUNT>
__device__ __forceinline__ Elements<COUNT> read_elements(const Element* from) {
  return *reinterpret_cast<const Elements<COUNT>*>(from);
}

// ---- rows that begin within a word or window ----

// By how many elements the rows of a tensor's tiles are shifted: where rows are channels or states, that of the lane's.
// Tiles have whole words or windows of steps, so that it is the same for all of them.
template <int ACCESS>
struct Shift {
  int first = 0;
  int other = 0;  // in words the shift of odd steps; in windows how many elements later each step begins than the last
  __device__ __forceinline__ int of_step(int step) const {
    if constexpr (!kShifted<ACCESS>) return 0;
    if constexpr (kSeqContiguous) return first;
    if constexpr (ACCESS == kWords) return step % 2 == 0 ? first : other;
    return (first + step * other) & (kShifts<ACCESS> - 1);
  }
};

template <int ACCESS>
__device__ __forceinline__ Shift<ACCESS> shift_of(const SequenceTensor& x, const Row& row, LaneId id) {
  if constexpr (!kShifted<ACCESS>) return {};
  const Element* first = sequence_rows(x, row, 0, kTile, kWarpChannels).from;
  if constexpr (kSeqContiguous) return {shift_of_row<ACCESS>(first + channel_of(id, 0) * x.dim_stride), 0};
  if constexpr (ACCESS == kWords) return {shift_of_row<ACCESS>(first), shift_of_row<ACCESS>(first + x.seq_stride)};
  return {shift_of_row<ACCESS>(first), static_cast<int>(x.seq_stride) & (kShifts<ACCESS> - 1)};
}

// COUNT elements of a shifted row from element `first` on, which is even if COUNT is: adjacent words, from the one that
// holds the first element.
template <int COUNT>
__device__ __forceinline__ Elements<COUNT> shift_words(const unsigned* words, int shift) {
  Elements<COUNT> out;
#pragma unroll
  for (int i = 0; i < COUNT / 2; ++i)
    reinterpret_cast<unsigned*>(&out)[i] = __funnelshift_r(words[i], words[i + 1], 16 * (shift % 2));
  return out;
}

// The same of whole vectors, `first` being a multiple of 8: words at different distances in different lanes would meet
// in the same banks, so vectors are read and words chosen among.
template <int COUNT>
__device__ __forceinline__ Elements<COUNT> read_vectors(const Element* from, int shift) {
  constexpr int kWordsRead = COUNT / 2 + 4;
  unsigned words[kWordsRead];
#pragma unroll
  for (int i = 0; i < kWordsRead; i += 4) {
    const uint4 vector = *reinterpret_cast<const uint4*>(from + 2 * i);
    words[i] = vector.x, words[i + 1] = vector.y, words[i + 2] = vector.z, words[i + 3] = vector.w;
  }
#pragma unroll
  for (int i = 0; i + 2 < kWordsRead; ++i) words[i] = (shift & 4) != 0 ? words[i + 2] : words[i];
#pragma unroll
  for (int i = 0; i + 3 < kWordsRead; ++i) words[i] = (shift & 2) != 0 ? words[i + 1] : words[i];
  return shift_words<COUNT>(words, shift);
}

// COUNT elements of a row from element `first` on, which is a multiple of COUNT.
template <int ACCESS, int COUNT>
__device__ __forceinline__ Elements<COUNT> read_row(const Element* row, int first, int shift) {
  if constexpr (!kShifted<ACCESS>) {
    return read_elements<COUNT>(row + first);
  } else if constexpr (COUNT == 1) {
    return {row[first + shift]};
  } else if constexpr (ACCESS == kWindows && COUNT % 8 == 0) {
    return read_vectors<COUNT>(row + first, shift);
  } else {
    return shift_words<COUNT>(reinterpret_cast<const unsigned*>(row + first) + shift / 2, shift);
  }
}

// ---- B and C ----

// From a raw tile in words or windows to fp32: a lane takes every so manieth step of one state, or of every 32nd state.
// Warps that serve others, which have the registers, read several before they write them: that these lie elsewhere the
// compiler does not know, and would wait for each. 1, 1001, 2048 took 47 us on an H100 without that, and 37 with it.
template <int ORDER, int ACCESS>
__device__ __forceinline__ void expand_rows(const ProjectionTensor& tensor, const Row& row, const Element* from,
                                            float* to, int lane) {
  constexpr int kPitched = kProjectionPitch<ORDER, ACCESS>;
  constexpr int kAcross = kDState > 16 ? 32 : kDState > 8 ? 16 : kDState > 4 ? 8 : kDState > 2 ? 4 : kDState;
  constexpr int kDown = 32 / kAcross < kTile ? 32 / kAcross : kTile;  // steps that all lanes take at once
  constexpr int kOfLane = kTile / kDown, kMost = kServed ? 16 : 1;
  constexpr int kTogether = kOfLane < kMost ? kOfLane : kMost;
  const Element* first = projection_rows<ORDER>(tensor, row, 0, kTile).from;
  const int lane_step = lane / kAcross;
  if (lane_step >= kDown) return;
#pragma unroll
  for (int base = 0; base < kDState; base += kAcross) {
    const int n = base + lane % kAcross;
    if (kDState % kAcross != 0 && n >= kDState) break;
    int of_even = 0, of_odd = 0;  // shifts of steps lane_step and lane_step + 1
    if constexpr (kShifted<ACCESS> && ORDER == 1)
      of_even = of_odd = shift_of_row<ACCESS>(first + n * tensor.state_stride);
    if constexpr (kShifted<ACCESS> && ORDER == 0) {
      of_even = shift_of_row<ACCESS>(first + lane_step * tensor.seq_stride);
      of_odd = shift_of_row<ACCESS>(first + (lane_step + 1) * tensor.seq_stride);
    }
#pragma unroll
    for (int down = 0; down < kTile; down += kTogether * kDown) {
      Element read[kTogether];
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
        const int step = down + k * kDown + lane_step;
        const int place = ORDER == 1 ? n * kPitched + (kReverse ? kTile - 1 - step : step) : step * kPitched + n;
        read[k] = from[place + ((down + k * kDown) % 2 == 0 ? of_even : of_odd)];
      }
#pragma unroll
      for (int k = 0; k < kTogether; ++k)
        to[(down + k * kDown + lane_step) * kPaddedStates + place_of_state(n)] = to_float(read[k]);
    }
  }
}

// From the raw tile of B or C to fp32 in the order lanes read it: vectors of the raw tile, and where their elements go.
// Padding states were zeroed once and stay zero. Adjacent lanes take adjacent states where a vector runs along the
// steps (ORDER 1), so that they write to different banks.
template <int ORDER>
struct RawVectors {
  static constexpr int kRow = kDState * kParts;
  static constexpr int kElements = kTile * kRow;
  static constexpr int kOfLane = kElements / 32, kAlong = kOfLane >= 8 ? 8 : kOfLane >= 4 ? 4 : 2;  // of every lane
  static constexpr int kVector = ORDER == 1 ? (kTile < kAlong ? kTile : kAlong) : kElements % 4 == 0 ? 4 : 1;
  static constexpr int kVectors = kElements / kVector;
  static constexpr int kPerLane = (kVectors + 31) / 32;
  using Vector = Elements<kVector>;

  // Is there an i-th one of the lane?
  static __device__ __forceinline__ bool exists(int i, int lane) {
    return kVectors % 32 == 0 || i * 32 + lane < kVectors;
  }

  static __device__ __forceinline__ Vector read(const Element* from, int i, int lane) {
    const int index = i * 32 + lane;
    if constexpr (ORDER == 1) {
      const int n = index % kDState, first = index / kDState * kVector;
      return *reinterpret_cast<const Vector*>(from + n * kTile + first);
    } else {
      return *reinterpret_cast<const Vector*>(from + index * kVector);
    }
  }

  static __device__ __forceinline__ void write(const Vector& vector, float* to, int i, int lane) {
    const int index = i * 32 + lane;
    if constexpr (ORDER == 1) {
      const int n = index % kDState, first = index / kDState * kVector;
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        const int step = kReverse ? kTile - 1 - (first + k) : first + k;
        to[step * kPaddedStates + place_of_state(n)] = to_float(vector.value[k]);
      }
    } else {
      constexpr bool kStayAdjacent = !kInterleavedStates && kPaddedStates == kDState && kStateVector % 4 == 0;
      if constexpr (kVector == 4 && (kStayInOrder || (kStayAdjacent && kParts == 1))) {
        const int step = index * 4 / kRow, n = index * 4 % kRow;
        *reinterpret_cast<float4*>(kStayInOrder ? to + index * 4 : to + step * kPaddedStates + place_of_state(n)) =
            make_float4(to_float(vector.value[0]), to_float(vector.value[1]), to_float(vector.value[2]),
                        to_float(vector.value[3]));
      } else {
#pragma unroll
        for (int k = 0; k < kVector; ++k) {
          const int step = (index * kVector + k) / kRow, n = (index * kVector + k) % kRow / kParts;
          to[(step * kPaddedStates + place_of_state(n)) * kParts + k % kParts] = to_float(vector.value[k]);
        }
      }
    }
  }
};

template <int ORDER>
__device__ __forceinline__ void expand_vectors(const Element* from, float* to, int lane) {
  using Raw = RawVectors<ORDER>;
#pragma unroll
  for (int i = 0; i < Raw::kPerLane; ++i) {
    if (!Raw::exists(i, lane)) break;
    Raw::write(Raw::read(from, i, lane), to, i, lane);
  }
}

// Both B and C, several vectors at a time. Of what a warp reads from shared memory after it has written there, the
// compiler does not know that it is something else, and waits: one by one they took 4 % of the time of two warps of a
// scheduler. In served.cu others go on meanwhile, and lanes that move their rows themselves have no registers for it.
constexpr bool kExpandsTogether = kExpandsB && kExpandsC && !kPrepared && MS_B_ORDER < 2 && MS_B_ACCESS == kVectors &&
                                  MS_C_ORDER < 2 && MS_C_ACCESS == kVectors && (!kServed || kWarps > 1) &&
                                  !kReadsDirectly;
constexpr int kVectorsAtOnce = kElementBytes == 2 || kServed ? 4 : 2;  // those of fp32 are twice as large

__device__ __forceinline__ void expand_together(const Stage& stage, ExpandedTile& expanded, int lane) {
#if !MS_PREPARED
  using B = RawVectors<MS_B_ORDER>;
  using C = RawVectors<MS_C_ORDER>;
  constexpr int kMost = B::kPerLane > C::kPerLane ? B::kPerLane : C::kPerLane;
  constexpr int kTogether = kMost < kVectorsAtOnce ? kMost : kVectorsAtOnce;
#pragma unroll
  for (int first = 0; first < kMost; first += kTogether) {
    typename B::Vector of_B[kTogether];
    typename C::Vector of_C[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (first + k < B::kPerLane && B::exists(first + k, lane)) of_B[k] = B::read(stage.B, first + k, lane);
      if (first + k < C::kPerLane && C::exists(first + k, lane)) of_C[k] = C::read(stage.C, first + k, lane);
    }
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (first + k < B::kPerLane && B::exists(first + k, lane)) B::write(of_B[k], expanded.B, first + k, lane);
      if (first + k < C::kPerLane && C::exists(first + k, lane)) C::write(of_C[k], expanded.C, first + k, lane);
    }
  }
#endif
}

// Prepared B for carry.cu: a lane takes every 32nd place of all steps to where its state lies there.
__device__ __forceinline__ void reorder_prepared(const float* from, float* to, int lane) {
#pragma unroll
  for (int base = 0; base < kPaddedStates; base += 32) {
    const int place = base + lane;
    if (kPaddedStates % 32 != 0 && place >= kPaddedStates) break;
    const int other = place_of_state(state_at_place(place));
#pragma unroll
    for (int step = 0; step < kTile; ++step) to[step * kPaddedStates + other] = from[step * kPaddedStates + place];
  }
}

// B or C of a tile from where copies have brought them to where lanes read them. Those that are constant in time,
// prepared in the right order, or read raw or in place, are there already.
template <int ORDER, int ACCESS, class From>
__device__ __forceinline__ void expand_projection(const ProjectionTensor& tensor, const Row& row, const From* from,
                                                  float* to, int lane) {
  if constexpr (kReadsPrepared || ORDER == 3 || kReadsRaw<ORDER, ACCESS> || kReadsInPlace<ORDER, ACCESS>) {
    return;
  } else if constexpr (kPrepared) {
    reorder_prepared(from, to, lane);
  } else if constexpr (ORDER < 2 && ACCESS != kVectors) {
    expand_rows<ORDER, ACCESS>(tensor, row, from, to, lane);
  } else {
    expand_vectors<ORDER>(from, to, lane);
  }
}

// The states that only pad lanes, to which nothing is ever expanded.
__device__ __forceinline__ void clear_padding(ExpandedTile& expanded, int lane) {
  if constexpr (kPaddedStates > kDState) {
    for (int i = lane; i < kTile * kPaddedStates; i += 32) {
      if constexpr (kExpandsB) expanded.B[i] = 0.0f;
      if constexpr (kExpandsC) expanded.C[i] = 0.0f;
    }
    __syncwarp();
  }
}

// Both.
__device__ __forceinline__ void expand_projections(const SelectiveScanProblem& p, const Row& row, const Stage& stage,
                                                   ExpandedTile& expanded, int lane) {
  if constexpr (kExpandsTogether) {
    expand_together(stage, expanded, lane);
  } else {
    expand_projection<MS_B_ORDER, MS_B_ACCESS>(p.B, row, stage.B, expanded.B, lane);
    expand_projection<MS_C_ORDER, MS_C_ACCESS>(p.C, row, stage.C, expanded.C, lane);
  }
  if constexpr (kExpandsB || kExpandsC) __syncwarp();
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

// B or C of step t and the lane's one state, if lanes read them raw. Where steps are adjacent, several are read at
// once.
template <int ORDER>
__device__ __forceinline__ float read_raw(const Element* tile, int part, int t) {
  if constexpr (ORDER == 0) {
    return to_float(tile[t * kDState + part]);
  } else {
    constexpr int kTogether = kTile < 8 ? kTile : 8;
    const int place = kReverse ? kTile - 1 - t : t;
    const auto steps =
        read_elements<kTogether>(tile + part * kProjectionPitch<1, kVectors> + place / kTogether * kTogether);
    return to_float(steps.value[place % kTogether]);
  }
}

// ---- delta ----

// Does each of the lanes that share channels evaluate delta and u of its own steps for all of them (step_inputs.cuh)?
// In served.cu, where they are another warp's; and in relay.cu, unless they are few and read vectors of what is fp32
// already: what they share takes as much memory again as u and delta.
constexpr bool kSharesInputs =
    kLanes > 1 && (kServed || (kTakesTurns && !(kSeqContiguous && kElementBytes == 4 && kLanes <= 4)));
// Does a lane evaluate delta of the channels and steps it owns only?
constexpr bool kOwnsDelta = kSharesInputs || (MS_SOFTPLUS && kLanes > 1);

// Real states forget what delta is off by; complex ones turn by it, over all steps.
constexpr bool kPreciseDelta = MS_DTYPE == 0 || MS_COMPLEX;

// From an element of delta: with its bias, through softplus. exists: whether the step lies inside the sequence.
__device__ __forceinline__ float delta_of(float raw, float bias, bool exists) {
  float value = MS_HAS_BIAS ? raw + bias : raw;
  if constexpr (MS_SOFTPLUS && kTabulated) {
    value = softplus(activation_table(), value);
  } else if constexpr (MS_SOFTPLUS) {
    value = softplus<kPreciseDelta>(value);
  }
  // What forget_steps() leaves would become a step of its own.
  if (MS_HAS_BIAS && !MS_SOFTPLUS) value = exists ? value : 0.0f;
  return value;
}

// kSteps steps of delta for the lane's channels: bias, softplus, zero past the end. With softplus each lane evaluates
// the channels and steps it owns only, and the lanes that share channels exchange them. With kSharesInputs dt is only
// those: exchanging is left to others.
struct DeltaReader {
#if MS_HAS_BIAS
  float bias[kChannels];
#endif

  __device__ __forceinline__ void load(const SelectiveScanProblem& p, const Row& row, LaneId id) {
    align(p, row, id);
#if MS_HAS_BIAS
#pragma unroll
    for (int r = 0; r < kChannels; ++r) {
      const int c = channel_of(id, kOwnsDelta ? id.first_owned + r % kOwned : r);
      bias[r] = c < row.channels ? p.delta_bias[row.first_channel + c] : 0.0f;
    }
#endif
  }

  // To where rows begin.
  __device__ __forceinline__ void align(const SelectiveScanProblem& p, const Row& row, LaneId id) {
    shift_ = shift_of<MS_DELTA_ACCESS>(p.delta, row, id);
  }

  // The raw elements of steps first .. first + kSteps - 1.
  __device__ __forceinline__ void read(const Element* tile, int first, LaneId id) {
    const int channel = kOwnsDelta ? id.first_owned : 0;
    first += kOwnsDelta ? id.first_step : 0;
#if MS_SEQ_CONTIGUOUS
#pragma unroll
    for (int i = 0; i < kRead; ++i)
      raw_[i] = read_row<MS_DELTA_ACCESS, kReadSteps>(tile + channel_of(id, channel + i) * kPitch<MS_DELTA_ACCESS>,
                                                      place_of_steps<kReadSteps>(first), shift_.first);
#else
#pragma unroll
    for (int t = 0; t < kReadSteps; ++t)
      raw_[t] =
          read_row<MS_DELTA_ACCESS, kRead>(tile + (first + t) * kPitch<MS_DELTA_ACCESS>, channel_of(id, channel),
                                           shift_.of_step(kReadSteps % kShifts<MS_DELTA_ACCESS> == 0 ? t : first + t));
#endif
  }

  __device__ __forceinline__ Shift<MS_DELTA_ACCESS> shift() const { return shift_; }

  // From an element of the i-th channel whose delta the lane evaluates.
  __device__ __forceinline__ float value(float raw, int i, bool exists) const {
#if MS_HAS_BIAS
    return delta_of(raw, bias[i], exists);
#else
    return delta_of(raw, 0.0f, exists);
#endif
  }

  // exists(t): whether step t of the group lies inside the sequence.
  template <class Exists>
  __device__ __forceinline__ void steps(const Exists& exists, LaneId id, float (&dt)[kSteps][kChannels]) const {
#pragma unroll
    for (int t = 0; t < kReadSteps; ++t)
#pragma unroll
      for (int i = 0; i < kRead; ++i) {
        const float raw = to_float(kSeqContiguous ? raw_[i].value[place_in_steps<kReadSteps>(t)] : raw_[t].value[i]);
        dt[t][i] = value(raw, i, exists(t));
      }
    if constexpr (kOwnsDelta && !kSharesInputs) gather_over_lanes(dt, id);
  }

 private:
  enum : int { kRead = kOwnsDelta ? kOwned : kChannels, kReadSteps = kOwnsDelta ? kOwnedSteps : kSteps };
  Shift<MS_DELTA_ACCESS> shift_;
#if MS_SEQ_CONTIGUOUS
  Elements<kReadSteps> raw_[kRead];
#else
  Elements<kRead> raw_[kReadSteps];
#endif
};

// Of a step that is missing, so that it leaves the state as it is.
__device__ __forceinline__ float missing_delta() { return MS_SOFTPLUS ? __uint_as_float(0xff800000u) : 0.0f; }

// Clears steps begin to end - 1 of a tile, of B where it is read, where these lie outside of the sequence:
// whatever is there instead, not even an infinity may be left of it. u and B become zero, and delta a step that leaves
// the state as it is, unless there is a bias without softplus: softplus(-infinity + bias) is zero. z becomes zero, too:
// gates are evaluated in pairs, and by the last step's must not be seen what stood in memory after it.
__device__ __forceinline__ void forget_steps(const SelectiveScanProblem& p, const Row& row, ExpandedTile& expanded,
                                             Stage& stage, int begin, int end, int lane) {
  const Rows u = sequence_rows(p.u, row, 0, kTile, kWarpChannels);
  const Rows delta = sequence_rows(p.delta, row, 0, kTile, kWarpChannels);
#if MS_HAS_Z
  const Rows z = sequence_rows(p.z, row, 0, kTile, kWarpChannels);
#endif
#pragma unroll 1
  for (int i = lane; !kReadsDirectly && i < (end - begin) * kWarpChannels; i += 32) {
    const int step = begin + i / kWarpChannels, channel = i % kWarpChannels;
    const int r = kSeqContiguous ? channel : step;
    const int place = kSeqContiguous ? (kReverse ? kTile - 1 - step : step) : channel;
    const int u_shift = shift_of_row<MS_U_ACCESS>(u.from + r * u.row_stride);
    const int delta_shift = shift_of_row<MS_DELTA_ACCESS>(delta.from + r * delta.row_stride);
    from_float(0.0f, stage.u[r * kPitch<MS_U_ACCESS> + place + u_shift]);
    from_float(missing_delta(), stage.delta[r * kPitch<MS_DELTA_ACCESS> + place + delta_shift]);
#if MS_HAS_Z
    const int z_shift = shift_of_row<MS_Z_ACCESS>(z.from + r * z.row_stride);
    from_float(0.0f, stage.z[r * kPitch<MS_Z_ACCESS> + place + z_shift]);
#endif
  }
  if constexpr (kReadsRawB) {
    for (int i = lane; i < (end - begin) * kDState; i += 32) {
      const int step = begin + i / kDState, n = i % kDState;
      const int column = kReverse ? kTile - 1 - step : step;
      const int place = MS_B_ORDER == 0 ? step * kDState + n : n * kProjectionPitch<1, kVectors> + column;
      from_float(0.0f, stage.B[place]);
    }
  } else if constexpr (!kBConstant) {
    auto* B = const_cast<float*>(tile_B(expanded, stage));
    for (int i = begin * kPaddedStates * kParts + lane; i < end * kPaddedStates * kParts; i += 32) B[i] = 0.0f;
  }
  __syncwarp();
}

// STEPS steps of u, delta or z, which is moved as ACCESS says, for the lane's channels.
template <int ACCESS, int STEPS>
struct SequenceReader {
  // From step t of the group on that begins with step `first`.
  __device__ __forceinline__ void read(const Element* tile, int first, LaneId id, Shift<ACCESS> shift, int t = 0) {
#if MS_SEQ_CONTIGUOUS
#pragma unroll
    for (int r = 0; r < kChannels; ++r)
      raw_[r] = read_row<ACCESS, STEPS>(tile + channel_of(id, r) * kPitch<ACCESS>, place_of_steps<STEPS>(first + t),
                                        shift.first);
#else
#pragma unroll
    for (int i = 0; i < STEPS; ++i, ++t)
      raw_[i] = read_row<ACCESS, kChannels>(tile + (first + t) * kPitch<ACCESS>, channel_of(id, 0),
                                            shift.of_step(kSteps % kShifts<ACCESS> == 0 ? t : first + t));
#endif
  }

  // The i-th of these steps, of channel r.
  __device__ __forceinline__ float value(int i, int r) const {
    return to_float(kSeqContiguous ? raw_[r].value[place_in_steps<STEPS>(i)] : raw_[i].value[r]);
  }

 private:
#if MS_SEQ_CONTIGUOUS
  Elements<STEPS> raw_[kChannels];
#else
  Elements<kChannels> raw_[STEPS];
#endif
};
using InputReader = SequenceReader<MS_U_ACCESS, kSteps>;

}  // namespace
}  // namespace mamba_scan
