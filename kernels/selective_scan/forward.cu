// Selective scan, forward. Reference: problem.h states the recurrence; runtime/cpu is the same on a CPU.
//
// Grid: params.slots blocks of one warp, each with a contiguous range of tiles (forward_params.h). For every
// piece of a row in its range a warp repeats, tile by tile:
//
//   async copies of the next tile -> shared      u, delta, z as they are; B, C as they are
//   expand B, C of this tile                     to fp32, once per warp
//   compute kSteps steps at a time               states in registers, delta and u converted on reading
//   sum over the lanes of a channel, gate, store
//
// Cost per (channel, state, step): mul, ex2, mul, fma, fma. The exponential unit needs 8 clocks per warp for it, so
// five issues leave three for everything else: with two lanes per channel, eight states and four channels per lane
// (the usual plan at 16 states) a step is 32 of them, 256 clocks, and the rest comes to about 50 issues: 4 shared loads
// of B and C, 2 of u and delta, 12 conversions and products, 8 for the sum over lanes, the store, and a sixteenth of a
// tile's copies. Shared memory delivers about 2.5 KB per step and warp, a third of what it can in that time.
#include "selective_scan/warp_tile.cuh"

namespace mamba_scan {
namespace {

// What a lane keeps while it walks along a row.
struct Lane {
  float state[kChannels][kStates];
  float rate[kChannels][kStates];
  DeltaReader delta;
#if MS_HAS_D
  float D[kChannels];  // in one of the lanes that share a channel, zero in the others
#endif
#if MS_B_ORDER == 3
  float B[kChannels][kStates];
#endif
#if MS_C_ORDER == 3
  float C[kChannels][kStates];
#endif
};

__device__ __forceinline__ void load_lane(const SelectiveScanProblem& p, const Row& row, LaneId id, Lane& self) {
  load_decay_rates(p, row, id, self.rate);
  self.delta.load_bias(p, row, id);
#if MS_HAS_D
#pragma unroll
  for (int r = 0; r < kChannels; ++r) {
    const int c = channel_of(id, r);
    self.D[r] = id.part == 0 && c < row.channels ? p.D[row.first_channel + c] : 0.0f;
  }
#endif
#if MS_B_ORDER == 3
  load_constant_projection(p.B, row, id, self.B);
#endif
#if MS_C_ORDER == 3
  load_constant_projection(p.C, row, id, self.C);
#endif
}

// The row's part of a (batch, dim, dstate) tensor.
__device__ __forceinline__ float* row_states(const StateTensor& tensor, const Row& row) {
  return tensor.data + row.batch * tensor.batch_stride + row.first_channel * tensor.dim_stride;
}

__device__ __forceinline__ void start_state(const SelectiveScanProblem& p, const Row& row, LaneId id, Lane& self) {
#if MS_HAS_INITIAL
  const float* initial = row_states(p.initial_state, row);
  for_each_state(row, id, p.initial_state.dim_stride, p.initial_state.state_stride,
                 [&](int r, int s, Index index, bool exists) { self.state[r][s] = exists ? initial[index] : 0.0f; });
#else
  set_zero(self.state);
#endif
}

#if MS_CUT
// The state at the start of a slot's first piece, which lies inside a row: the carries of the slots before it, each
// decayed by the sum of delta since, until the row's begin is reached or nothing older is left to see.
__device__ __forceinline__ void compose_state(const SelectiveScanForwardParams& params, const Piece& piece, LaneId id,
                                              Lane& self) {
  const Row& row = piece.row;
  const int row_begin = piece.next - piece.end;
  // Carries read at once: what one costs is the way to memory and back.
  constexpr int kTogether = kChannels * kStates >= 32 ? 1 : kChannels * kStates <= 4 ? 8 : 32 / (kChannels * kStates);
  float since[kChannels];  // sum of delta from the end of the slot looked at to the start of this one
#pragma unroll
  for (int r = 0; r < kChannels; ++r) since[r] = 0.0f;
  set_zero(self.state);
  bool alive = true, reached = false;  // the same in all lanes
  int from = this_slot();
  do {
    float state[kTogether][kChannels][kStates], delta[kTogether][kChannels];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const Index slot = max(from - 1 - i, 0);
#pragma unroll
      for (int r = 0; r < kChannels; ++r) {
        delta[i][r] = params.carry_delta[slot * (kChannels * 32) + r * 32 + id.lane];
#pragma unroll
        for (int s = 0; s < kStates; ++s)
          state[i][r][s] =
              params.carry_state[slot * (kChannels * kStates * 32) + carry_place(id, r, state_of(id.part, s))];
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (!alive || reached) break;
      --from;
      bool any = false;
#pragma unroll
      for (int r = 0; r < kChannels; ++r) {
        const float older = since[r] + delta[i][r];
#pragma unroll
        for (int s = 0; s < kStates; ++s) {
          self.state[r][s] += exp2_fast(since[r] * self.rate[r][s]) * state[i][r][s];
          const bool exists = channel_of(id, r) < row.channels && state_of(id.part, s) < kDState;
          any = any || (exists && !(older * self.rate[r][s] < kDecayed));
        }
        since[r] = older;
      }
      alive = __any_sync(kAllLanes, any);
      reached = slot_range(params, from).begin <= row_begin;
    }
  } while (alive && !reached);
#if MS_HAS_INITIAL
  if (!alive) return;
  const StateTensor& tensor = params.problem.initial_state;
  const float* initial = row_states(tensor, row);
  for_each_state(row, id, tensor.dim_stride, tensor.state_stride, [&](int r, int s, Index index, bool exists) {
    if (exists) self.state[r][s] += exp2_fast(since[r] * self.rate[r][s]) * initial[index];
  });
#endif
}
#endif

// One step for the lane's channels. Returns in y the lane's share of the output before the gate.
__device__ __forceinline__ void step_states(const Shared& shared, int step, LaneId id, const float (&dt)[kChannels],
                                            const float (&u)[kChannels], Lane& self, float (&y)[kChannels]) {
  float B[kStates], C[kStates], delta_u[kChannels];
  if constexpr (!kBConstant) read_floats(shared.B + step * kPaddedStates + id.part * kStates, B);
  if constexpr (!kCConstant) read_floats(shared.C + step * kPaddedStates + id.part * kStates, C);
#pragma unroll
  for (int r = 0; r < kChannels; ++r) {
    delta_u[r] = dt[r] * u[r];
#if MS_HAS_D
    y[r] = self.D[r] * u[r];
#else
    y[r] = 0.0f;
#endif
  }
#pragma unroll
  for (int s = 0; s < kStates; ++s)
#pragma unroll
    for (int r = 0; r < kChannels; ++r) {
#if MS_B_ORDER == 3
      B[s] = self.B[r][s];
#endif
#if MS_C_ORDER == 3
      C[s] = self.C[r][s];
#endif
      self.state[r][s] = exp2_fast(dt[r] * self.rate[r][s]) * self.state[r][s] + delta_u[r] * B[s];
      y[r] += self.state[r][s] * C[s];
    }
}

// The lane's owned channels of kSteps steps, from step `first` of the tile.
using Outputs = float[kOwned][kSteps];

__device__ __forceinline__ void apply_gate(const Element* z, int first, LaneId id, Outputs& y) {
#if MS_SEQ_CONTIGUOUS
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
    const Elements<kSteps> gate = read_elements<kSteps>(z + channel_of(id, id.first_owned + i) * kTile + first);
#pragma unroll
    for (int t = 0; t < kSteps; ++t) y[i][t] *= silu(to_float(gate.value[t]));
  }
#else
#pragma unroll
  for (int t = 0; t < kSteps; ++t) {
    const Elements<kOwned> gate =
        read_elements<kOwned>(z + (first + t) * kWarpChannels + channel_of(id, id.first_owned));
#pragma unroll
    for (int i = 0; i < kOwned; ++i) y[i][t] *= silu(to_float(gate.value[i]));
  }
#endif
}

#if MS_SEQ_CONTIGUOUS
// Where steps are adjacent, a lane's outputs of a few steps are a fraction of a memory sector. They replace u in the
// tile, whose elements of these steps all lanes have read, and go to memory in whole rows of the tile.
__device__ __forceinline__ void keep_outputs(Element* tile, int first, LaneId id, const Outputs& y) {
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
    Elements<kSteps> out;
#pragma unroll
    for (int t = 0; t < kSteps; ++t) from_float(y[i][t], out.value[t]);
    *reinterpret_cast<Elements<kSteps>*>(tile + channel_of(id, id.first_owned + i) * kTile + first) = out;
  }
}

__device__ __forceinline__ void store_tile(const Element* tile, const SequenceTensor& tensor, const Row& row,
                                           Index first_step, int steps, int lane) {
  constexpr int kVector = kTile * kElementBytes >= 16 ? 16 / kElementBytes : kTile;
  constexpr int kPerRow = kTile / kVector;
  constexpr int kVectors = kWarpChannels * kPerRow;
  Element* y = static_cast<Element*>(tensor.data) + row.batch * tensor.batch_stride + first_step * tensor.seq_stride +
               row.first_channel * tensor.dim_stride;
  __syncwarp();
  if (MS_Y_VECTORED && steps == kTile && row.channels == kWarpChannels) {
    lane = opaque(lane);
    Element* to = y + lane / kPerRow * tensor.dim_stride + lane % kPerRow * kVector;
#pragma unroll
    for (int i = 0; i < (kVectors + 31) / 32; ++i) {
      if (kVectors % 32 == 0 || i * 32 + lane < kVectors)
        store_global<sizeof(Elements<kVector>)>(to, tile + (i * 32 + lane) * kVector);
      to += 32 / kPerRow * tensor.dim_stride;
    }
    return;
  }
#pragma unroll 1
  for (int i = lane; i < kWarpChannels * kTile; i += 32) {
    const int channel = i / kTile, step = i % kTile;
    if (channel < row.channels && step < steps)
      store_global<kElementBytes>(y + channel * tensor.dim_stride + step * tensor.seq_stride, &tile[i]);
  }
}
#else
// to: this lane's first owned channel of the first of these steps. exist: how many of the steps do.
__device__ __forceinline__ void store_outputs(Element* to, const SequenceTensor& tensor, int exist, int channels,
                                              LaneId id, const Outputs& y) {
  if (MS_Y_VECTORED && exist >= kSteps && channels == kWarpChannels) {
#pragma unroll
    for (int t = 0; t < kSteps; ++t) {
      Elements<kOwned> out;
#pragma unroll
      for (int i = 0; i < kOwned; ++i) from_float(y[i][t], out.value[i]);
      store_global<sizeof(out)>(to, &out);
      to += tensor.seq_stride;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kOwned; ++i)
#pragma unroll
    for (int t = 0; t < kSteps; ++t)
      if (t < exist && channel_of(id, id.first_owned + i) < channels) {
        Element out;
        from_float(y[i][t], out);
        store_global<kElementBytes>(to + i * tensor.dim_stride + t * tensor.seq_stride, &out);
      }
}
#endif

// The tile in `stage`, B and C already expanded.
__device__ __forceinline__ void compute_tile(const SelectiveScanProblem& p, const Shared& shared, Stage& stage,
                                             const Row& row, Index first_step, LaneId id, Lane& self) {
  const int steps = static_cast<int>(min(static_cast<Index>(kTile), p.seqlen - first_step));
  // Of the lanes that own the same channel, one stores.
  const bool stores = kLanes <= kChannels || id.part < kChannels;
#if !MS_SEQ_CONTIGUOUS
  Element* y = static_cast<Element*>(p.y.data) + row.batch * p.y.batch_stride + first_step * p.y.seq_stride +
               (row.first_channel + channel_of(id, id.first_owned)) * p.y.dim_stride;
#endif
#pragma unroll 1
  for (int first = 0; first < steps; first += kSteps) {
    self.delta.read(stage.delta, first, id);
    InputReader input;
    input.read(stage.u, first, id);
    Outputs out;
#pragma unroll
    for (int t = 0; t < kSteps; ++t) {
      float dt[kChannels], u[kChannels], sum[kChannels];
      self.delta.step(t, first + t < steps, id, dt);
#pragma unroll
      for (int r = 0; r < kChannels; ++r) u[r] = input.value(t, r);
      step_states(shared, first + t, id, dt, u, self, sum);
      reduce_over_lanes(sum, id);
#pragma unroll
      for (int i = 0; i < kOwned; ++i) out[i][t] = sum[i];
    }
    if constexpr (MS_HAS_Z) apply_gate(stage.z, first, id, out);
#if MS_SEQ_CONTIGUOUS
    __syncwarp();
    if (stores) keep_outputs(stage.u, first, id, out);
  }
  store_tile(stage.u, p.y, row, first_step, steps, id.lane);
#else
    if (stores) store_outputs(y + first * p.y.seq_stride, p.y, steps - first, row.channels, id, out);
  }
#endif
}

// The whole piece, from the state in `self`.
__device__ __forceinline__ void scan_piece(const SelectiveScanProblem& p, Shared& shared, LaneId id, Lane& self) {
  const Piece& piece = shared.piece;
  int tile = piece.begin;
  copy_stage<true>(p, piece.row, tile, shared.stage[0], id.lane);
  async_commit();
  int current = 0;
#pragma unroll 1
  for (; tile < piece.end; ++tile) {
    async_wait<0>();
    __syncwarp();  // this tile is there for all lanes, and nobody reads the previous one any more
    Stage& stage = shared.stage[current];
    current ^= 1;
    if (tile + 1 < piece.end) copy_stage<true>(p, piece.row, tile + 1, shared.stage[current], id.lane);
    async_commit();
    expand_projection<MS_B_ORDER>(stage.B, shared.B, id.lane);
    expand_projection<MS_C_ORDER>(stage.C, shared.C, id.lane);
    __syncwarp();
    compute_tile(p, shared, stage, piece.row, static_cast<Index>(tile) * kTile, id, self);
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32, MS_MIN_BLOCKS)
    selective_scan_forward(const SelectiveScanForwardParams params) {
  __shared__ Shared shared;
  const SelectiveScanProblem& p = params.problem;
  const LaneId id = lane_id();
  clear_shared(shared, id.lane);

  int begin = slot_range(params, this_slot()).begin;
#pragma unroll 1
  do {
    if (id.lane == 0) shared.piece = piece_at(params, begin, slot_range(params, this_slot()).end);
    __syncwarp();
    const Piece& piece = shared.piece;
    Lane self;
    load_lane(p, piece.row, id, self);
#if MS_CUT
    if (piece.begin > 0) {
      compose_state(params, piece, id, self);
    } else {
      start_state(p, piece.row, id, self);
    }
#else
    start_state(p, piece.row, id, self);
#endif
    if (p.seqlen > 0) scan_piece(p, shared, id, self);
#if MS_HAS_FINAL
    if (piece.end == params.tiles_per_row) {
      float* final_state = row_states(p.final_state, piece.row);
      for_each_state(piece.row, id, p.final_state.dim_stride, p.final_state.state_stride,
                     [&](int r, int s, Index index, bool exists) {
                       if (exists) final_state[index] = self.state[r][s];
                     });
    }
#endif
    begin = piece.next;
    __syncwarp();  // the next piece is written over this one
  } while (begin < slot_range(params, this_slot()).end);
}

}  // namespace mamba_scan
