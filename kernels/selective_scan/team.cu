// Selective scan, forward, for problems with few sequences and channels: a team of warps per block, the time not cut.
//
// MS_WARPS computing warps walk along the sequence with MS_STATES states per lane, so few that the states of a small
// problem fill the device. A step of such a lane is short: everything that is not the recurrence is done by
// MS_HELPERS other warps of the block, tile by tile, through shared memory:
//
//   helpers    global --async--> raw ring --convert, softplus--> (dt, dt * u) in fp32
//   computing  state = 2^(dt * rate) * state + (dt * u) * B;  partial sum of state * C --> shared
//   helpers    sum over the lanes of a channel, + D * u, gate, store
//
// One block barrier per tile. While tile i is computed, the helpers convert tile i + 2, finish tile i - 1 and have
// copies of kDepth further tiles under way.
//
// Where even this leaves the device empty, the block's computing warps are dealt out to MS_SEGMENTS equal segments of
// time: a first pass computes what each segment hands on, a second one scans.
//
// Constants: MS_DTYPE MS_DSTATE MS_SOFTPLUS MS_HAS_* MS_SEQ_CONTIGUOUS as in warp_tile.cuh, and
//   MS_LANES MS_STATES   lanes per channel and states per lane; one channel per lane
//   MS_WARPS MS_HELPERS MS_SEGMENTS   see above; MS_SEGMENTS divides MS_WARPS
//   MS_TILE MS_UNROLL    steps per tile, and computed together
//   MS_DEPTH             tiles under way
//   MS_SHARED_BYTES      dynamic shared memory, which the launch provides
// Grid: blocks_per_group blocks for every (batch, group). Block: (MS_WARPS + MS_HELPERS) warps. Requires sm_80, and
// MS_LANES * MS_STATES == MS_DSTATE.
#include "common/activation.cuh"
#include "common/device.cuh"
#include "selective_scan/team_helpers.cuh"
#include "selective_scan/team_params.h"
#include "selective_scan/team_tile.cuh"

namespace mamba_scan {
namespace {

struct Scanner {
  int segment, warp, lane, part, channel;
  float state[kStates], rate[kStates];
  float delta_sum;
};

struct Group {
  float2 dt_u[kUnroll];
#if MS_SEQ_CONTIGUOUS
  struct __align__(2 * kElementBytes * kStates > 16 ? 16 : 2 * kElementBytes * kStates) Pairs {
    Pair state[kStates];
  };
  Pairs BC[kUnroll];
  __device__ __forceinline__ float B(int t, int s) const { return to_float(BC[t].state[s].B); }
  __device__ __forceinline__ float C(int t, int s) const { return to_float(BC[t].state[s].C); }
#else
  Elements<kStates> rawB[kUnroll], rawC[kUnroll];
  __device__ __forceinline__ float B(int t, int s) const { return to_float(rawB[t].value[s]); }
  __device__ __forceinline__ float C(int t, int s) const { return to_float(rawC[t].value[s]); }
#endif
};

template <bool CARRY>
__device__ __forceinline__ void read_group(const Shared& shared, const Scanner& self, int stage, int slot, int first,
                                           Group& to) {
  const float2* dt_u = &shared.dt_u[stage][self.segment][first][self.channel];
#pragma unroll
  for (int t = 0; t < kUnroll; ++t) to.dt_u[t] = dt_u[t * kChannels];
#if MS_SEQ_CONTIGUOUS
  const Pair* BC = &shared.BC[stage][self.segment][first][self.part * kStates];
#pragma unroll
  for (int t = 0; t < kUnroll; ++t) to.BC[t] = *reinterpret_cast<const Group::Pairs*>(BC + t * kStepPairs);
#else
  const int place = projection_place(self.segment, first, self.part * kStates);
  const Element* B = shared.raw[slot].projection[0] + place;
  const Element* C = shared.raw[slot].projection[1] + place;
#pragma unroll
  for (int t = 0; t < kUnroll; ++t) {
    to.rawB[t] = *reinterpret_cast<const Elements<kStates>*>(B + t * RawProjection::kPitch);
    if (!CARRY) to.rawC[t] = *reinterpret_cast<const Elements<kStates>*>(C + t * RawProjection::kPitch);
  }
#endif
}

// CARRY: only the state is wanted, and the sum of dt.
template <bool CARRY>
__device__ __forceinline__ void scan_group(Shared& shared, Scanner& self, int buffer, int first, const Group& group) {
  float* sums = &shared.sums[buffer][self.segment][first][self.warp * 32 + self.lane];
#pragma unroll
  for (int t = 0; t < kUnroll; ++t) {
    float sum = 0.0f;
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      self.state[s] = exp2_fast(group.dt_u[t].x * self.rate[s]) * self.state[s] + group.dt_u[t].y * group.B(t, s);
      if (!CARRY) sum += self.state[s] * group.C(t, s);
    }
    if (CARRY) {
      self.delta_sum += group.dt_u[t].x;
    } else {
      sums[t * (kSegmentWarps * 32)] = sum;
    }
  }
}

template <bool CARRY>
__device__ __forceinline__ void scan(Shared& shared, int tiles, Scanner& self) {
  block_barrier();
  block_barrier();
  block_barrier();  // tiles 0 and 1 are converted
  int stage = 0, slot = 0;
  Group group;
  read_group<CARRY>(shared, self, 0, 0, 0, group);
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const int next_stage = stage == 2 ? 0 : stage + 1, next_slot = next_in_ring(slot);
#pragma unroll
    for (int first = 0; first < kTile; first += kUnroll) {
      Group ahead;
      if (first + kUnroll < kTile) {
        read_group<CARRY>(shared, self, stage, slot, first + kUnroll, ahead);
      } else {
        read_group<CARRY>(shared, self, next_stage, next_slot, 0, ahead);
      }
      scan_group<CARRY>(shared, self, tile & 1, first, group);
      group = ahead;
    }
    stage = next_stage, slot = next_slot;
    block_barrier();
  }
}

template <bool CARRY>
__device__ __forceinline__ void pass(Shared& shared, const SelectiveScanTeamParams& params, const Place& at,
                                     Scanner& self) {
  if (threadIdx.x < MS_WARPS * 32) {
    scan<CARRY>(shared, params.tiles, self);
  } else {
    help<CARRY>(shared, params, at);
  }
}

// ---- what a thread scans, and from where ----

__device__ __forceinline__ Place place_of_block(const SelectiveScanTeamParams& params) {
  const int block = static_cast<int>(blockIdx.x) % params.blocks_per_group;
  const int batch_group = static_cast<int>(blockIdx.x) / params.blocks_per_group;
  const int groups = static_cast<int>(params.problem.ngroups);
  Place at;
  at.batch = batch_group / groups;
  at.group = batch_group % groups;
  at.first_channel = at.group * params.channels_per_group + block * kChannels;
  at.channels = min(kChannels, params.channels_per_group - block * kChannels);
  return at;
}

__device__ __forceinline__ bool computes() { return threadIdx.x < MS_WARPS * 32; }

// visit(s, n, exists) for every state register s, which holds state n of the lane's channel.
template <class Visit>
__device__ __forceinline__ void for_each_state(const Scanner& self, const Place& at, const Visit& visit) {
#pragma unroll
  for (int s = 0; s < kStates; ++s) visit(s, self.part * kStates + s, computes() && self.channel < at.channels);
}

__device__ __forceinline__ Scanner scanner_of_thread(const SelectiveScanProblem& p, const Place& at) {
  const int thread = static_cast<int>(threadIdx.x);
  Scanner self;
  self.lane = thread % 32;
  self.segment = thread / 32 / kSegmentWarps;
  self.warp = thread / 32 % kSegmentWarps;
  self.part = self.lane % kLanes;
  self.channel = self.warp * (32 / kLanes) + self.lane / kLanes;
  self.delta_sum = 0.0f;
  const int channel = at.first_channel + self.channel;
  for_each_state(self, at, [&](int s, int n, bool exists) {
    self.rate[s] = exists ? p.A[channel * p.A_dim_stride + n * p.A_state_stride] * kLog2E : 0.0f;
    self.state[s] = 0.0f;
  });
  return self;
}

__device__ __forceinline__ Index state_place(const StateTensor& x, const Place& at, const Scanner& self, int n) {
  return at.batch * x.batch_stride + (at.first_channel + self.channel) * x.dim_stride + n * x.state_stride;
}

__device__ __forceinline__ void load_state(const SelectiveScanProblem& p, const Place& at, Scanner& self) {
  for_each_state(self, at, [&](int s, int n, bool exists) {
#if MS_HAS_INITIAL
    const StateTensor& x = p.initial_state;
    self.state[s] = exists ? x.data[state_place(x, at, self, n)] : 0.0f;
#else
    self.state[s] = 0.0f;
#endif
  });
}

__device__ __forceinline__ void store_state(const SelectiveScanProblem& p, const Place& at, const Scanner& self) {
  for_each_state(self, at, [&](int s, int n, bool exists) {
    const StateTensor& x = p.final_state;
    if (exists && self.segment == kSegments - 1) x.data[state_place(x, at, self, n)] = self.state[s];
  });
}

// From what the first pass has left in every segment's registers to the state that the segment begins with.
__device__ __forceinline__ void hand_on(Shared& shared, const SelectiveScanProblem& p, const Place& at, Scanner& self) {
  constexpr int kSegmentLanes = kSegmentWarps * 32;
  float* handed_on = &shared.sums[0][0][0][0];  // [segment][lane of a segment][states, then the sum of dt]
  const int lane = self.warp * 32 + self.lane;
  if (computes()) {
    float* own = handed_on + (self.segment * kSegmentLanes + lane) * (kStates + 1);
#pragma unroll
    for (int s = 0; s < kStates; ++s) own[s] = self.state[s];
    own[kStates] = self.delta_sum;
  }
  block_barrier();
  load_state(p, at, self);
  if (computes()) {
    for (int segment = 0; segment < self.segment; ++segment) {
      const float* from = handed_on + (segment * kSegmentLanes + lane) * (kStates + 1);
#pragma unroll
      for (int s = 0; s < kStates; ++s)
        self.state[s] = exp2_fast(from[kStates] * self.rate[s]) * self.state[s] + from[s];
    }
  }
  block_barrier();
}

}  // namespace

extern "C" __global__ void __launch_bounds__((MS_WARPS + MS_HELPERS) * 32, 1)
    selective_scan_team(const SelectiveScanTeamParams params) {
  MS_DYNAMIC_SHARED(uint4, memory);
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const Place at = place_of_block(params);
  Scanner self = scanner_of_thread(params.problem, at);
  if constexpr (kSegments > 1) {
    pass<true>(shared, params, at, self);
    hand_on(shared, params.problem, at, self);
  } else {
    load_state(params.problem, at, self);
  }
  pass<false>(shared, params, at, self);
#if MS_HAS_FINAL
  store_state(params.problem, at, self);
#endif
}

}  // namespace mamba_scan
