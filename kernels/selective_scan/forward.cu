// Selective scan, forward. Reference: problem.h states the recurrence; runtime/cpu is the same on a CPU.
//
// Grid: one block per (batch, group, MS_CHANNEL_BLOCK channels), flattened, channels fastest. Each block walks the
// whole sequence in tiles of MS_TILE steps:
//
//   global --regs--> stage: (delta, delta*u) per (step, channel), B|C per (step, state)   shared, fp32
//                    compute: every warp MS_TILE steps, states in registers
//                    epilogue: y + D*u, gate, round, store                                 global
//
// The loads of the next tile are in flight, in registers, while this one computes.
//
// A lane owns MS_CHANNELS adjacent channels and MS_STATES states of each; MS_LANES lanes share its channels:
//
//   warp:  lane 0 1 | 2 3 | 4 5 | ...          (MS_LANES = 2, MS_CHANNELS = 2)
//   channels   0,1  | 2,3 | 4,5 | ...
//   states of lane p: n = s * MS_LANES + p, s = 0 .. MS_STATES-1
//
// Cost per state and step: mul, ex2, mul, fma, fma; the exponential unit needs 8 clocks per warp for it, the other
// four issues hide below. A shared load of B and C delivers 16 bytes per lane for two states and serves
// MS_CHANNELS channels; more channels per lane means less shared memory traffic, more registers.
//
// Everything in capitals starting with MS_ comes from runtime/ops/plan.cpp as -D options:
//   MS_DTYPE             0 fp32, 1 fp16, 2 bf16
//   MS_DSTATE            states; MS_LANES * MS_STATES >= MS_DSTATE, the rest is padding that stays zero
//   MS_LANES MS_STATES MS_CHANNELS MS_THREADS MS_TILE     see above
//   MS_SEQ_CONTIGUOUS    1: y and most inputs have adjacent steps adjacent in memory, 0: adjacent channels
//   MS_VECTOR            elements of u, delta, z, y per access along that axis
//   MS_{U,DELTA,Z,Y}_VECTORED   0: that tensor is laid out otherwise and is accessed element by element
//   MS_{B,C}_CONSTANT    (dim, dstate) in registers rather than staged
//   MS_SOFTPLUS MS_HAS_BIAS MS_HAS_D MS_HAS_Z MS_HAS_INITIAL MS_HAS_FINAL
#include "common/activation.cuh"
#include "common/device.cuh"
#include "selective_scan/forward_params.h"

namespace mamba_scan {
namespace {

using namespace device;

#if MS_DTYPE == 0
using Element = float;
#elif MS_DTYPE == 1
using Element = Float16;
#else
using Element = BFloat16;
#endif

constexpr int kDState = MS_DSTATE;
constexpr int kLanes = MS_LANES;
constexpr int kStates = MS_STATES;
constexpr int kChannels = MS_CHANNELS;
constexpr int kThreads = MS_THREADS;
constexpr int kTile = MS_TILE;
constexpr int kVector = MS_VECTOR;
constexpr int kChannelBlock = kThreads / kLanes * kChannels;
constexpr int kStatePairs = (kStates + 1) / 2;
constexpr int kGroup = kLanes < 8 ? kLanes : 8;  // steps whose partial sums are reduced over the lanes together
constexpr bool kStageBC = !MS_B_CONSTANT || !MS_C_CONSTANT;
constexpr bool kBothStaged = !MS_B_CONSTANT && !MS_C_CONSTANT;
constexpr int kPairFloats = kBothStaged ? 4 : 2;  // (B,C,B,C) or (X,X) of states 2k and 2k+1

// One tile's accesses of u, delta, z, y: `kItems` vectors per thread.
constexpr int kVectorsPerTile = kTile * kChannelBlock / kVector;
constexpr int kItems = (kVectorsPerTile + kThreads - 1) / kThreads;
// One tile's elements of B or of C per thread.
constexpr int kBCItems = (kTile * kDState + kThreads - 1) / kThreads;

static_assert(32 % kLanes == 0 && kLanes * kStates >= kDState, "states must fit the lanes");
static_assert(kTile % kGroup == 0, "a tile holds whole reduction groups");
static_assert(kTile % kVector == 0 && kChannelBlock % kVector == 0, "a vector stays inside a tile");


struct Shared {
  __align__(16) float2 step[kTile][kChannelBlock];  // (delta, delta * u)
  __align__(16) float y[kTile][kChannelBlock];
  __align__(16) float bc[kStageBC ? kTile * kStatePairs * kLanes * kPairFloats : 1];
};

struct Vector {
  __align__(sizeof(Element) * kVector) Element value[kVector];
};

// Where this thread's i-th vector of a tile lies: first step and channel relative to the tile and block.
struct Place {
  int step;
  int channel;
};

__device__ __forceinline__ Place place_of(int item) {
  const int vector = item * kThreads + static_cast<int>(threadIdx.x);
#if MS_SEQ_CONTIGUOUS
  return {vector / kChannelBlock * kVector, vector % kChannelBlock};
#else
  return {vector / (kChannelBlock / kVector), vector % (kChannelBlock / kVector) * kVector};
#endif
}

__device__ __forceinline__ bool inside(Place place, int k, int steps, int channels) {
#if MS_SEQ_CONTIGUOUS
  return place.step + k < steps && place.channel < channels;
#else
  return place.step < steps && place.channel + k < channels;
#endif
}

// base points at the block's first channel of the tile's first step.
template <bool VECTORED>
__device__ __forceinline__ void load_vector(const Element* base, Index seq_stride, Index dim_stride, Place place,
                                            int steps, int channels, Vector& out) {
  const Element* from = base + place.step * seq_stride + place.channel * dim_stride;
  if (VECTORED && inside(place, kVector - 1, steps, channels)) {
    load_global<sizeof(Vector)>(from, &out);
    return;
  }
  const Index stride = MS_SEQ_CONTIGUOUS ? seq_stride : dim_stride;
#pragma unroll
  for (int k = 0; k < kVector; ++k) {
    from_float(0.0f, out.value[k]);
    if (inside(place, k, steps, channels)) load_global<sizeof(Element)>(from + k * stride, &out.value[k]);
  }
}

template <bool VECTORED>
__device__ __forceinline__ void store_vector(Element* base, Index seq_stride, Index dim_stride, Place place, int steps,
                                             int channels, const Vector& in) {
  Element* to = base + place.step * seq_stride + place.channel * dim_stride;
  if (VECTORED && inside(place, kVector - 1, steps, channels)) {
    store_global<sizeof(Vector)>(to, &in);
    return;
  }
  const Index stride = MS_SEQ_CONTIGUOUS ? seq_stride : dim_stride;
#pragma unroll
  for (int k = 0; k < kVector; ++k)
    if (inside(place, k, steps, channels)) store_global<sizeof(Element)>(to + k * stride, &in.value[k]);
}

// The tile's step and state of this thread's i-th element of B or C; adjacent threads take what is adjacent in memory.
__device__ __forceinline__ bool bc_place(int item, bool seq_fastest, int& step, int& state) {
  const int index = item * kThreads + static_cast<int>(threadIdx.x);
  step = seq_fastest ? index % kTile : index / kDState;
  state = seq_fastest ? index / kTile : index % kDState;
  return index < kTile * kDState;
}

__device__ __forceinline__ void load_projection(const Element* base, const ProjectionTensor& tensor, int steps,
                                                Element (&out)[kBCItems]) {
  const bool seq_fastest = tensor.seq_stride == 1 && kDState > 1;
#pragma unroll
  for (int i = 0; i < kBCItems; ++i) {
    int step, state;
    from_float(0.0f, out[i]);
    if (bc_place(i, seq_fastest, step, state) && step < steps)
      load_global<sizeof(Element)>(base + step * tensor.seq_stride + state * tensor.state_stride, &out[i]);
  }
}

// offset: where inside a pair of states this tensor's first value lies; spacing: between its two values.
__device__ __forceinline__ void stage_projection(const Element (&in)[kBCItems], bool seq_fastest, int offset,
                                                 int spacing, Shared& shared) {
#pragma unroll
  for (int i = 0; i < kBCItems; ++i) {
    int step, state;
    if (!bc_place(i, seq_fastest, step, state)) continue;
    const int s = state / kLanes, lane = state % kLanes;
    const int pair = (step * kStatePairs + s / 2) * kLanes + lane;
    shared.bc[pair * kPairFloats + (s % 2) * spacing + offset] = to_float(in[i]);
  }
}

// Sums over the kLanes lanes that share a channel, for kGroup steps at once: each round halves the steps a lane is
// responsible for while it adds its neighbour's share. Afterwards value[0] of lane p belongs to step p % kGroup.
__device__ __forceinline__ void reduce_over_lanes(float (&value)[kGroup], int lane) {
#pragma unroll
  for (int half = kGroup / 2; half > 0; half /= 2) {
    const bool upper = (lane & half) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float keep = upper ? value[i + half] : value[i];
      const float give = upper ? value[i] : value[i + half];
      value[i] = keep + __shfl_xor_sync(0xffffffffu, give, half);
    }
  }
#pragma unroll
  for (int distance = kGroup; distance < kLanes; distance *= 2)
    value[0] += __shfl_xor_sync(0xffffffffu, value[0], distance);
}

// What a lane keeps for the whole sequence.
struct Lane {
  float state[kChannels][kStates];
  float decay_rate[kChannels][kStates];  // A * log2(e): exp(dt * A) = 2^(dt * decay_rate)
#if MS_B_CONSTANT
  float B[kChannels][kStates];
#endif
#if MS_C_CONSTANT
  float C[kChannels][kStates];
#endif
};

__device__ __forceinline__ float constant_projection(const ProjectionTensor& tensor, Index channel, int n) {
  return static_cast<const float*>(tensor.data)[channel * tensor.group_stride + n * tensor.state_stride];
}

__device__ __forceinline__ void load_lane(const SelectiveScanProblem& p, Index batch, Index first_channel, int channels,
                                          int own_channel, int lane, Lane& self) {
#pragma unroll
  for (int r = 0; r < kChannels; ++r) {
    const bool channel_exists = own_channel + r < channels;
    const Index channel = first_channel + own_channel + r;
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      const int n = s * kLanes + lane;
      const bool exists = channel_exists && n < kDState;
      self.state[r][s] = 0.0f;
      self.decay_rate[r][s] = exists ? p.A[channel * p.A_dim_stride + n * p.A_state_stride] * kLog2E : 0.0f;
#if MS_HAS_INITIAL
      if (exists)
        self.state[r][s] = p.initial_state.data[batch * p.initial_state.batch_stride +
                                                channel * p.initial_state.dim_stride + n * p.initial_state.state_stride];
#endif
#if MS_B_CONSTANT
      self.B[r][s] = exists ? constant_projection(p.B, channel, n) : 0.0f;
#endif
#if MS_C_CONSTANT
      self.C[r][s] = exists ? constant_projection(p.C, channel, n) : 0.0f;
#endif
    }
  }
}

#if MS_HAS_FINAL
__device__ __forceinline__ void store_state(const SelectiveScanProblem& p, Index batch, Index first_channel,
                                            int channels, int own_channel, int lane, const Lane& self) {
#pragma unroll
  for (int r = 0; r < kChannels; ++r)
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      const int n = s * kLanes + lane;
      const Index channel = first_channel + own_channel + r;
      if (own_channel + r < channels && n < kDState)
        p.final_state.data[batch * p.final_state.batch_stride + channel * p.final_state.dim_stride +
                           n * p.final_state.state_stride] = self.state[r][s];
    }
}
#endif

// B and C of states 2k and 2k+1 at one step, for this lane. Constant ones are left alone.
__device__ __forceinline__ void read_pair(const Shared& shared, int step, int k, int lane, float (&B)[2],
                                          float (&C)[2]) {
  const float* pair = &shared.bc[((step * kStatePairs + k) * kLanes + lane) * kPairFloats];
#if !MS_B_CONSTANT && !MS_C_CONSTANT
  const float4 v = *reinterpret_cast<const float4*>(pair);
  B[0] = v.x, C[0] = v.y, B[1] = v.z, C[1] = v.w;
#elif !MS_B_CONSTANT
  const float2 v = *reinterpret_cast<const float2*>(pair);
  B[0] = v.x, B[1] = v.y;
#elif !MS_C_CONSTANT
  const float2 v = *reinterpret_cast<const float2*>(pair);
  C[0] = v.x, C[1] = v.y;
#endif
}

// One step of the recurrence for the lane's channels; y_part is this lane's share of sum_n h[n] * C[n].
__device__ __forceinline__ void step_states(const Shared& shared, int step, int own_channel, int lane, Lane& self,
                                            float (&y_part)[kChannels]) {
  float delta[kChannels], delta_u[kChannels];
#pragma unroll
  for (int r = 0; r < kChannels; ++r) {
    const float2 v = shared.step[step][own_channel + r];
    delta[r] = v.x;
    delta_u[r] = v.y;
    y_part[r] = 0.0f;
  }
#pragma unroll
  for (int k = 0; k < kStatePairs; ++k) {
    float B[2], C[2];
    read_pair(shared, step, k, lane, B, C);
#pragma unroll
    for (int i = 0; i < 2 && 2 * k + i < kStates; ++i)
#pragma unroll
      for (int r = 0; r < kChannels; ++r) {
        const int s = 2 * k + i;
#if MS_B_CONSTANT
        B[i] = self.B[r][s];
#endif
#if MS_C_CONSTANT
        C[i] = self.C[r][s];
#endif
        const float decay = exp2_fast(delta[r] * self.decay_rate[r][s]);
        self.state[r][s] = decay * self.state[r][s] + delta_u[r] * B[i];
        y_part[r] += self.state[r][s] * C[i];
      }
  }
}

// The whole tile: sums over states go to shared.y.
__device__ __forceinline__ void compute_tile(Shared& shared, int own_channel, int lane, Lane& self) {
#pragma unroll 1
  for (int first = 0; first < kTile; first += kGroup) {
    float part[kChannels][kGroup];
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      float y_part[kChannels];
      step_states(shared, first + g, own_channel, lane, self, y_part);
#pragma unroll
      for (int r = 0; r < kChannels; ++r) part[r][g] = y_part[r];
    }
#pragma unroll
    for (int r = 0; r < kChannels; ++r) {
      reduce_over_lanes(part[r], lane);
      if (lane < kGroup) shared.y[first + lane][own_channel + r] = part[r][0];
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(MS_THREADS) selective_scan_forward(const SelectiveScanForwardParams params) {
  __shared__ Shared shared;
  const SelectiveScanProblem& p = params.problem;

  const Index block = blockIdx.x;
  const Index row = block / params.blocks_per_group;  // batch * ngroups + group
  const Index group = row % p.ngroups;
  const Index batch = row / p.ngroups;
  const int first_in_group = static_cast<int>(block % params.blocks_per_group) * kChannelBlock;
  const Index first_channel = group * params.channels_per_group + first_in_group;
  const int channels = min(kChannelBlock, params.channels_per_group - first_in_group);

  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int own_channel = static_cast<int>(threadIdx.x) / kLanes * kChannels;

  Lane self;
  load_lane(p, batch, first_channel, channels, own_channel, lane, self);

  // Padding states and steps past the end must be finite: their products with zero must be zero.
  if (kStageBC)
    for (int i = threadIdx.x; i < static_cast<int>(sizeof(shared.bc) / sizeof(float)); i += kThreads) shared.bc[i] = 0.0f;

  const Element* u = static_cast<const Element*>(p.u.data) + batch * p.u.batch_stride + first_channel * p.u.dim_stride;
  const Element* delta =
      static_cast<const Element*>(p.delta.data) + batch * p.delta.batch_stride + first_channel * p.delta.dim_stride;
#if MS_HAS_Z
  const Element* z = static_cast<const Element*>(p.z.data) + batch * p.z.batch_stride + first_channel * p.z.dim_stride;
#endif
  Element* y = static_cast<Element*>(p.y.data) + batch * p.y.batch_stride + first_channel * p.y.dim_stride;
#if !MS_B_CONSTANT
  const Element* B = static_cast<const Element*>(p.B.data) + batch * p.B.batch_stride + group * p.B.group_stride;
  const bool b_seq_fastest = p.B.seq_stride == 1 && kDState > 1;
#endif
#if !MS_C_CONSTANT
  const Element* C = static_cast<const Element*>(p.C.data) + batch * p.C.batch_stride + group * p.C.group_stride;
  const bool c_seq_fastest = p.C.seq_stride == 1 && kDState > 1;
#endif

  // The next tile's raw elements.
  Vector u_next[kItems], delta_next[kItems];
#if MS_HAS_Z
  Vector z_next[kItems];
#endif
#if !MS_B_CONSTANT
  Element b_next[kBCItems];
#endif
#if !MS_C_CONSTANT
  Element c_next[kBCItems];
#endif

  auto load_tile = [&](Index first_step) {
    const int steps = static_cast<int>(min(static_cast<Index>(kTile), p.seqlen - first_step));
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const Place place = place_of(i);
      load_vector<MS_U_VECTORED>(u + first_step * p.u.seq_stride, p.u.seq_stride, p.u.dim_stride, place, steps, channels,
                                 u_next[i]);
      load_vector<MS_DELTA_VECTORED>(delta + first_step * p.delta.seq_stride, p.delta.seq_stride, p.delta.dim_stride,
                                     place, steps, channels, delta_next[i]);
#if MS_HAS_Z
      load_vector<MS_Z_VECTORED>(z + first_step * p.z.seq_stride, p.z.seq_stride, p.z.dim_stride, place, steps, channels,
                                 z_next[i]);
#endif
    }
#if !MS_B_CONSTANT
    load_projection(B + first_step * p.B.seq_stride, p.B, steps, b_next);
#endif
#if !MS_C_CONSTANT
    load_projection(C + first_step * p.C.seq_stride, p.C, steps, c_next);
#endif
  };

  if (p.seqlen > 0) load_tile(0);

#pragma unroll 1
  for (Index first_step = 0; first_step < p.seqlen; first_step += kTile) {
    const int steps = static_cast<int>(min(static_cast<Index>(kTile), p.seqlen - first_step));

    __syncthreads();  // everybody is done with the last tile's shared memory
    Vector u_now[kItems];
#if MS_HAS_Z
    Vector z_now[kItems];
#endif
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const Place place = place_of(i);
      u_now[i] = u_next[i];
#if MS_HAS_Z
      z_now[i] = z_next[i];
#endif
      if (place.step >= kTile) continue;
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        const int step = place.step + (MS_SEQ_CONTIGUOUS ? k : 0);
        const int channel = place.channel + (MS_SEQ_CONTIGUOUS ? 0 : k);
        float dt = to_float(delta_next[i].value[k]);
#if MS_HAS_BIAS
        if (channel < channels) dt += p.delta_bias[first_channel + channel];
#endif
#if MS_SOFTPLUS
        dt = softplus(dt);
#endif
        if (!inside(place, k, steps, channels)) dt = 0.0f;  // past the end: the state stays as it is
        shared.step[step][channel] = {dt, dt * to_float(u_next[i].value[k])};
      }
    }
#if !MS_B_CONSTANT
    stage_projection(b_next, b_seq_fastest, 0, kBothStaged ? 2 : 1, shared);
#endif
#if !MS_C_CONSTANT
    stage_projection(c_next, c_seq_fastest, kBothStaged ? 1 : 0, kBothStaged ? 2 : 1, shared);
#endif
    __syncthreads();

    if (first_step + kTile < p.seqlen) load_tile(first_step + kTile);
    compute_tile(shared, own_channel, lane, self);
    __syncthreads();

#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const Place place = place_of(i);
      if (place.step >= kTile) continue;
      Vector out;
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        const int step = place.step + (MS_SEQ_CONTIGUOUS ? k : 0);
        const int channel = place.channel + (MS_SEQ_CONTIGUOUS ? 0 : k);
        float value = shared.y[step][channel];
#if MS_HAS_D
        if (channel < channels) value += p.D[first_channel + channel] * to_float(u_now[i].value[k]);
#endif
#if MS_HAS_Z
        value *= silu(to_float(z_now[i].value[k]));
#endif
        from_float(value, out.value[k]);
      }
      store_vector<MS_Y_VECTORED>(y + first_step * p.y.seq_stride, p.y.seq_stride, p.y.dim_stride, place, steps, channels,
                                  out);
    }
  }

#if MS_HAS_FINAL
  store_state(p, batch, first_channel, channels, own_channel, lane, self);
#endif
}

}  // namespace mamba_scan
