// The states between the segments of a chunk-invariant scan (forward_params.h): in order along every row, from the
// states that segments hand on had they started from zero (carry.cu) to the states they begin with, in the same place:
//
//   begin[0] = initial_state      begin[k + 1] = exp(A * R_k) * begin[k] + carry[k]      R_k = sum of delta over
//   segment k
//
// A call that ends with a whole segment returns the last of these as its final state, so that one that continues from
// it goes on with the same bits.
//
// Grid: for every row MS_CHANNELS * MS_STATES blocks of one warp, a lane for each (channel, state). A segment costs a
// lane one exponential and one fma; what takes time is the way to memory, so several segments are read ahead.
#define MS_INTERLEAVED_STATES 1
#include "selective_scan/warp_tile.cuh"

namespace mamba_scan {
namespace {

constexpr int kAhead = 8;  // segments

struct Segment {
  float state, delta;
};

// What a lane composes: one state of one channel of a row.
struct Target {
  int row;
  int place;  // among the floats of a slot's carry, see carry_place()
  int lane;   // among the lanes that carry_delta was written by, one of those with this channel
  int r;
  int channel;  // of the warp
  int state;
};

__device__ __forceinline__ Target this_element() {
  constexpr int kBlocksPerRow = kChannels * kStates;
  const int block = static_cast<int>(blockIdx.x);
  Target out;
  out.row = block / kBlocksPerRow;
  out.place = block % kBlocksPerRow * 32 + static_cast<int>(threadIdx.x);
  const int quad = out.place % kQuads;
  out.lane = quad * kLanes;
  out.state = out.place / kQuads % kPaddedStates;
  out.r = out.place / kQuads / kPaddedStates;
  out.channel = channel_of({out.lane, 0, quad, 0, 0}, out.r);
  return out;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32) selective_scan_compose(const SelectiveScanForwardParams params) {
  const SelectiveScanProblem& p = params.problem;
  const Target self = this_element();
  const Row row = row_of(params, self.row);
  const bool exists = self.channel < row.channels && self.state < kDState;
  const Index channel = row.first_channel + self.channel;
  const auto place = [&](const StateTensor& tensor) {
    return tensor.data + row.batch * tensor.batch_stride + channel * tensor.dim_stride +
           self.state * tensor.state_stride;
  };
  const float rate = exists ? p.A[channel * p.A_dim_stride + self.state * p.A_state_stride] * kLog2E : 0.0f;
  float state = exists && p.initial_state.data != nullptr ? *place(p.initial_state) : 0.0f;

  const Index first_slot = static_cast<Index>(self.row) * params.slots_per_row;
  float* carry = params.carry_state + first_slot * (kChannels * kStates * 32) + self.place;
  const float* sums = params.carry_delta + first_slot * (kChannels * 32) + self.r * 32 + self.lane;
  const int whole = static_cast<int>(p.seqlen / (static_cast<Index>(params.segment_tiles) * kTile));
  const auto read = [&](int segment) -> Segment {
    if (segment >= whole) return {0.0f, 0.0f};
    return {carry[segment * static_cast<Index>(kChannels * kStates * 32)],
            sums[segment * static_cast<Index>(kChannels * 32)]};
  };
  Segment next[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) next[i] = read(i);
#pragma unroll 1
  for (int first = 0; first < whole; first += kAhead) {
    Segment now[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) now[i] = next[i];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) next[i] = read(first + kAhead + i);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i >= whole) break;
      carry[(first + i) * static_cast<Index>(kChannels * kStates * 32)] = state;
      state = __fmaf_rn(exp2_fast(now[i].delta * rate), state, now[i].state);
    }
  }
  if (whole < params.slots_per_row) {
    carry[whole * static_cast<Index>(kChannels * kStates * 32)] = state;
  } else if (exists && p.final_state.data != nullptr) {
    *place(p.final_state) = state;
  }
}

}  // namespace mamba_scan
