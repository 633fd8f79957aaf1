// The helping warps of the team kernel: copies, conversions and outputs, tile by tile; see team.cu.
#pragma once

#include "common/activation.cuh"
#include "selective_scan/team_tile.cuh"

namespace mamba_scan {
namespace {

__device__ __forceinline__ const char* address(const SequenceTensor& x, const Place& at, Index step, int channel) {
  return reinterpret_cast<const char*>(static_cast<const Element*>(x.data) + at.batch * x.batch_stride +
                                       step * x.seq_stride + (at.first_channel + channel) * x.dim_stride);
}

__device__ __forceinline__ const char* address(const ProjectionTensor& x, const Place& at, Index step, int n) {
  return reinterpret_cast<const char*>(static_cast<const Element*>(x.data) + at.batch * x.batch_stride +
                                       at.group * x.group_stride + step * x.seq_stride + n * x.state_stride);
}

// Steps from `step` of tile 0 of the segment until the segment or the sequence ends.
__device__ __forceinline__ int steps_left(const SelectiveScanTeamParams& params, int segment, int step) {
  const Index segment_steps = static_cast<Index>(params.tiles) * kTile;
  return static_cast<int>(min(params.problem.seqlen - segment * segment_steps, segment_steps)) - step;
}

// One chunk of every tile: where the next one comes from, and where it goes.
struct Copy {
  const char* from;
  Index advance;
  int to;     // byte offset in a raw tile
  int left;   // steps; none: at most 0
  int bytes;  // that exist where a row is a step
};

template <class RAW>
__device__ __forceinline__ int bytes_of(const Copy& copy, int done) {
  if (kSeqContiguous) return max(0, min(RAW::kChunkBytes, (copy.left - done) * kElementBytes));
  return done < copy.left ? copy.bytes : 0;
}

struct Copies {
  Copy sequence[kSequenceCopies], projection[kProjectionCopies];
};

__device__ __forceinline__ void start_copies(const SelectiveScanTeamParams& params, const Place& at, int helper,
                                             Copies& copies) {
  const SelectiveScanProblem& p = params.problem;
  const Index segment_steps = static_cast<Index>(params.tiles) * kTile;
#pragma unroll
  for (int k = 0; k < kSequenceCopies; ++k) {
    using R = RawSequence;
    Copy& copy = copies.sequence[k];
    const int index = k * kHelpers + helper, which = index / R::kCount, chunk = index % R::kCount;
    const int row = chunk / R::kPerRow, column = chunk % R::kPerRow * R::kElements;
    const int segment = row / (kSeqContiguous ? kChannels : kTile), inner = row % (kSeqContiguous ? kChannels : kTile);
    const int step = kSeqContiguous ? column : inner, channel = kSeqContiguous ? inner : column;
    const SequenceTensor& x = which == 0 ? p.u : which == 1 ? p.delta : p.z;
    copy.from = address(x, at, segment * segment_steps + step, channel);
    copy.advance = which == 0 ? params.u_step : which == 1 ? params.delta_step : params.z_step;
    copy.to = (which * R::kSize + sequence_place(segment, step, channel)) * kElementBytes;
    const int existing = at.channels - channel;
    copy.left = which < kSequences && existing > 0 ? steps_left(params, segment, step) : 0;
    copy.bytes = min(existing, R::kElements) * kElementBytes;
  }
#pragma unroll
  for (int k = 0; k < kProjectionCopies; ++k) {
    using R = RawProjection;
    Copy& copy = copies.projection[k];
    // From the last helper down: the first ones have sequences to copy.
    const int index = k * kHelpers + kHelpers - 1 - helper, which = index / R::kCount, chunk = index % R::kCount;
    const int row = chunk / R::kPerRow, column = chunk % R::kPerRow * R::kElements;
    const int segment = row / (kSeqContiguous ? kDState : kTile), inner = row % (kSeqContiguous ? kDState : kTile);
    const int step = kSeqContiguous ? column : inner, n = kSeqContiguous ? inner : column;
    copy.from = address(which == 0 ? p.B : p.C, at, segment * segment_steps + step, n);
    copy.advance = which == 0 ? params.B_step : params.C_step;
    copy.to = (which * R::kSize + projection_place(segment, step, n)) * kElementBytes;
    copy.left = which < 2 ? steps_left(params, segment, step) : 0;
    copy.bytes = R::kChunkBytes;
  }
}

__device__ __forceinline__ void copy_tile(RawTile& raw, int tile, int helper, Copies& copies) {
  const int done = tile * kTile;
#pragma unroll
  for (int k = 0; k < kSequenceCopies; ++k) {
    Copy& copy = copies.sequence[k];
    if (k * kHelpers + helper < kSequences * RawSequence::kCount) {
      async_copy_part<RawSequence::kChunkBytes>(reinterpret_cast<char*>(raw.sequence) + copy.to, copy.from,
                                                bytes_of<RawSequence>(copy, done));
      copy.from += copy.advance;
    }
  }
#pragma unroll
  for (int k = 0; k < kProjectionCopies; ++k) {
    Copy& copy = copies.projection[k];
    if (k * kHelpers + kHelpers - 1 - helper < 2 * RawProjection::kCount) {
      async_copy_part<RawProjection::kChunkBytes>(reinterpret_cast<char*>(raw.projection) + copy.to, copy.from,
                                                  bytes_of<RawProjection>(copy, done));
      copy.from += copy.advance;
    }
  }
  async_commit();
}

// Two elements of u and delta, neighbours in memory.
struct Input {
  int raw;     // in a sequence of a raw tile
  int target;  // of the first, in dt_u of a stage
  int left;
#if MS_HAS_BIAS
  float bias[2];
#endif
};

__device__ __forceinline__ Input input_of(const SelectiveScanTeamParams& params, const Place& at, int index) {
  // Neighbouring threads: neighbouring channels, as they lie in dt_u.
  constexpr int kAcross = kSeqContiguous ? kChannels : kChannels / 2;
  constexpr int kDown = kSeqContiguous ? kTile / 2 : kTile;
  const int segment = index / (kAcross * kDown), inner = index % (kAcross * kDown);
  const int step = inner / kAcross * (kSeqContiguous ? 2 : 1), channel = inner % kAcross * (kSeqContiguous ? 1 : 2);
  Input input{};
  input.raw = sequence_place(segment, step, channel);
  input.target = (segment * kTile + step) * kChannels + channel;
  input.left = steps_left(params, segment, step);
#if MS_HAS_BIAS
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int c = channel + (kSeqContiguous ? 0 : j);
    input.bias[j] = index < kPairsOfInputs && c < at.channels ? params.problem.delta_bias[at.first_channel + c] : 0.0f;
  }
#endif
  return input;
}

__device__ __forceinline__ void convert_tile(Shared& shared, const RawTile& raw, int stage, int tile, int helper,
                                             const Input (&inputs)[kPairsEach]) {
  using Vector = Elements<2>;
#pragma unroll
  for (int k = 0; k < kPairsEach; ++k) {
    const Input& input = inputs[k];
    if (kPairsOfInputs % kHelpers != 0 && k * kHelpers + helper >= kPairsOfInputs) break;
    const Vector u = *reinterpret_cast<const Vector*>(raw.sequence[0] + input.raw);
    const Vector delta = *reinterpret_cast<const Vector*>(raw.sequence[1] + input.raw);
    float2 out[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float dt = to_float(delta.value[j]);
#if MS_HAS_BIAS
      dt += input.bias[j];
#endif
#if MS_SOFTPLUS
      dt = softplus<MS_DTYPE == 0>(dt);
#endif
      // What does not exist is zero in memory, which bias and softplus would turn into a decay.
      if (MS_HAS_BIAS || MS_SOFTPLUS) dt = tile * kTile + (kSeqContiguous ? j : 0) < input.left ? dt : 0.0f;
      out[j] = make_float2(dt, dt * to_float(u.value[j]));
    }
    float2* to = &shared.dt_u[stage][0][0][0] + input.target;
    if constexpr (kSeqContiguous) {
      to[0] = out[0], to[kChannels] = out[1];
    } else {
      *reinterpret_cast<float4*>(to) = make_float4(out[0].x, out[0].y, out[1].x, out[1].y);
    }
  }
#if MS_SEQ_CONTIGUOUS
  constexpr int kPairs = kSegments * kTile / 2 * kDState;
#pragma unroll
  for (int k = 0; k < (kPairs + kHelpers - 1) / kHelpers; ++k) {
    const int index = k * kHelpers + helper;
    if (kPairs % kHelpers != 0 && index >= kPairs) break;
    const int n = index % kDState, step = index / kDState % (kTile / 2) * 2, segment = index / (kDState * (kTile / 2));
    const int place = projection_place(segment, step, n);
    const Vector B = *reinterpret_cast<const Vector*>(raw.projection[0] + place);
    const Vector C = *reinterpret_cast<const Vector*>(raw.projection[1] + place);
    Pair* to = &shared.BC[stage][segment][step][n];
    to[0] = Pair{B.value[0], C.value[0]};
    to[kStepPairs] = Pair{B.value[1], C.value[1]};
  }
#endif
}

// The outputs a helper finishes: kOutputsEach (segment, step, channel), neighbours in memory by neighbouring threads.
struct Output {
  char* y;
  int sums;  // index in sums of a buffer
  int raw;   // index in u and z of a raw tile
  int turn;  // where to begin with the sum, so that neighbours read from different banks
  int left;
#if MS_HAS_D
  float D;
#endif
};

__device__ __forceinline__ Output output_of(const SelectiveScanTeamParams& params, const Place& at, int index) {
  const SelectiveScanProblem& p = params.problem;
  const int asked = index;
  index = min(index, kOutputs - 1);
  const int segment = index / (kTile * kChannels), inner = index % (kTile * kChannels);
  const int step = kSeqContiguous ? inner % kTile : inner / kChannels;
  const int channel = kSeqContiguous ? inner / kTile : inner % kChannels;
  const int segment_steps = params.tiles * kTile;
  Output out{};
  out.y = const_cast<char*>(address(p.y, at, static_cast<Index>(segment) * segment_steps + step, channel));
  out.turn = channel * 4 % kLanes;
  out.sums = ((segment * kTile + step) * kChannels + channel) * kLanes;
  out.raw = sequence_place(segment, step, channel);
  const Index end = min(p.seqlen, static_cast<Index>(segment + 1) * segment_steps);
  out.left = asked < kOutputs && channel < at.channels
                 ? static_cast<int>(end - static_cast<Index>(segment) * segment_steps) - step
                 : 0;
#if MS_HAS_D
  out.D = out.left > 0 ? p.D[at.first_channel + channel] : 0.0f;
#endif
  return out;
}

__device__ __forceinline__ void finish_tile(const Shared& shared, const SelectiveScanTeamParams& params,
                                            const RawTile& raw, int tile, Output (&outputs)[kOutputsEach]) {
  // Everything is read before anything is stored, so that the waits of all outputs overlap.
  float sum[kOutputsEach];
#pragma unroll
  for (int k = 0; k < kOutputsEach; ++k) {
    const Output& out = outputs[k];
    const float* from = &shared.sums[tile & 1][0][0][0] + out.sums;
    if constexpr (kLanes % 4 == 0) {
      float part[(kLanes + 3) / 4];
#pragma unroll
      for (int j = 0; j < kLanes; j += 4) {
        const float4 v = *reinterpret_cast<const float4*>(from + (j + out.turn) % kLanes);
        part[j / 4] = (v.x + v.y) + (v.z + v.w);
      }
      sum[k] = part[0];
#pragma unroll
      for (int j = 1; j < kLanes / 4; ++j) sum[k] += part[j];
    } else {
      sum[k] = from[0];
#pragma unroll
      for (int j = 1; j < kLanes; ++j) sum[k] += from[j];
    }
#if MS_HAS_D
    sum[k] += out.D * to_float(raw.sequence[0][out.raw]);
#endif
#if MS_HAS_Z
    sum[k] *= silu(to_float(raw.sequence[2][out.raw]));
#endif
  }
#pragma unroll
  for (int k = 0; k < kOutputsEach; ++k) {
    Output& out = outputs[k];
    Element y;
    from_float(sum[k], y);
    if (tile * kTile < out.left) store_global<kElementBytes>(out.y, &y);
    out.y += params.y_step;
  }
}

template <bool CARRY>
__device__ __forceinline__ void help(Shared& shared, const SelectiveScanTeamParams& params, const Place& at) {
  const int helper = static_cast<int>(threadIdx.x) - MS_WARPS * 32;
  Copies copies;
  start_copies(params, at, helper, copies);
  int copied = 0, converted = 0, finished = 0;  // slots of the ring
#pragma unroll 1
  for (int tile = 0; tile < kDepth; ++tile) {
    copy_tile(shared.raw[copied], tile, helper, copies);
    copied = next_in_ring(copied);
  }
  Input inputs[kPairsEach];
  Output outputs[kOutputsEach];
#pragma unroll
  for (int k = 0; k < kPairsEach; ++k) inputs[k] = input_of(params, at, k * kHelpers + helper);
  if (!CARRY) {
#pragma unroll
    for (int k = 0; k < kOutputsEach; ++k) outputs[k] = output_of(params, at, k * kHelpers + helper);
  }
  int stage = 0;
  const int tiles = params.tiles;
#pragma unroll 1
  for (int tile = -3; tile < tiles; ++tile) {
    if (tile > -3) {
      convert_tile(shared, shared.raw[converted], stage, tile + 2, helper, inputs);
      converted = next_in_ring(converted);
      stage = stage == 2 ? 0 : stage + 1;
      copy_tile(shared.raw[copied], tile + 2 + kDepth, helper, copies);
      copied = next_in_ring(copied);
    }
    if (!CARRY && tile > 0) {
      finish_tile(shared, params, shared.raw[finished], tile - 1, outputs);
      finished = next_in_ring(finished);
    }
    async_wait<kDepth - 1>();  // tile + 3 is there, after the barrier for all
    block_barrier();
  }
  async_wait<0>();
  if (!CARRY && tiles > 0) finish_tile(shared, params, shared.raw[finished], tiles - 1, outputs);
}

}  // namespace
}  // namespace mamba_scan
