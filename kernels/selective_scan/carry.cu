// The carries of a forward scan that is cut in time (forward_params.h): for every slot that ends inside a row, the
// state its last piece hands on had it started from zero, and the sum of delta over the piece.
//
//   carry[n] = sum_t exp(A[n] * R_t) * delta_t * u_t * B_t[n]      R_t = sum of delta over the steps after t
//
// A sum, not a recurrence, so it runs backwards from the piece's end and stops when exp(A * R_t) has become negligible
// for every state of the warp; registers s whose states have decayed in all lanes are dropped before that. This takes
// delta not to be negative, so that what has decayed stays so.
//
// A block has a slot; constants as in forward.cu. Cost per (channel, state, step): mul, ex2, mul, fma. Usually it is
// one warp. Where slots are few and long, as those of relay_served.cu, MS_WARPS of them take tiles in turns, a round of
// them at a time: each sums up delta over its own tile first, and the sums over those after it tell it R_t.
//
// What these add to a scan of 93 us on an H200, 1, 16384, 768 in fp16, in which 132 slots have 5960 steps each, of
// which the last 774 count, in us:
//
//   8 warps, three stages, all of them loading A           14.2
//   16 warps, two stages                                   13.0
//   A by one warp for all, which waits for the first tile  12.5
//
// No one thing binds them: rows are 32 bytes, of which memory moves twice as many, 5 us; a tile is 600 instructions
// even when one group of states is left; the first tile is there after 5700 clocks, and a round takes 4000. Copying all
// tiles of 1024 steps at the begin took 14.4, rounds of two tiles of a warp 15.7, and keeping delta and delta * u in
// fp32 between both passes over a tile 19.
#define MS_INTERLEAVED_STATES 1
#include "selective_scan/direct_rows.cuh"
#include "selective_scan/tile_copy.cuh"
#include "selective_scan/tile_values.cuh"

namespace mamba_scan {
namespace {

constexpr int kDropTogether = kStates % 2 == 0 ? 2 : 1;  // registers s tested with one branch

struct Lane {
  States carry;
  States rate;
  float after[kChannels];  // R_t
  DeltaReader delta;
#if MS_B_ORDER == 3
  States B;
#endif
};

// Which registers s still hold a state that counts, one bit per group of kDropTogether; the same in all lanes.
__device__ __forceinline__ unsigned alive_groups(const Row& row, LaneId id, const Lane& self) {
  unsigned alive = 0;
#pragma unroll
  for (int group = 0; group < kStates / kDropTogether; ++group) {
    bool any = false;
#pragma unroll
    for (int k = 0; k < kDropTogether; ++k)
#pragma unroll
      for (int r = 0; r < kChannels; ++r) {
        const int s = group * kDropTogether + k;
        const bool exists = channel_of(id, r) < row.channels && state_of(id.part, s) < kDState;
        any = any || (exists && !(self.after[r] * self.rate[r][s] < kDecayed));
      }
    if (__any_sync(kAllLanes, any)) alive |= 1u << group;
  }
  return alive;
}

// Adds steps first .. first + kSteps - 1 of a tile.
__device__ __forceinline__ void add_steps(const Shared& shared, const Stage& stage, int first, LaneId id,
                                          const float (&dt)[kSteps][kChannels], const float (&u)[kSteps][kChannels],
                                          unsigned alive, Lane& self) {
  float after[kSteps][kChannels], delta_u[kSteps][kChannels];
#pragma unroll
  for (int t = kSteps - 1; t >= 0; --t) {
#pragma unroll
    for (int r = 0; r < kChannels; ++r) {
      after[t][r] = self.after[r];
      delta_u[t][r] = dt[t][r] * u[t][r];
      self.after[r] += dt[t][r];
    }
  }
#pragma unroll
  for (int group = 0; group < kStates / kDropTogether; ++group) {
    if (!(alive >> group & 1u)) continue;
#pragma unroll
    for (int t = 0; t < kSteps; ++t) {
      float B[kDropTogether];
      if constexpr (!kBConstant)
        read_states(tile_B(shared.expanded, stage) + (first + t) * kPaddedStates, id.part, group * kDropTogether, B);
#pragma unroll
      for (int k = 0; k < kDropTogether; ++k)
#pragma unroll
        for (int r = 0; r < kChannels; ++r) {
          const int s = group * kDropTogether + k;
#if MS_B_ORDER == 3
          B[k] = self.B[r][s];
#endif
          self.carry[r][s] += exp2_fast(after[t][r] * self.rate[r][s]) * (delta_u[t][r] * B[k]);
        }
    }
  }
}

// A whole tile, as all are that hand on a state.
#if MS_U_ACCESS == 4
__device__ __forceinline__ void compute_tile(const SelectiveScanProblem& p, const Shared& shared, const Stage& stage,
                                             LaneId id, unsigned alive, DirectInputs<false>& inputs, Lane& self) {
#pragma unroll
  for (int first = kTile - kSteps; first >= 0; first -= kSteps) {
    const RawSteps raw = inputs.take(p);
    float dt[kSteps][1], u[kSteps][1];
#pragma unroll
    for (int t = 0; t < kSteps; ++t) {
      dt[t][0] = self.delta.value(to_float(raw.delta[t]), 0, true);
      u[t][0] = to_float(raw.u[t]);
    }
    add_steps(shared, stage, first, id, dt, u, alive, self);
  }
}
#else
// begin: packed, the first step of the sequence at hand.
__device__ __forceinline__ void compute_tile(const SelectiveScanProblem& p, const Shared& shared, const Stage& stage,
                                             int begin, LaneId id, unsigned alive, Lane& self) {
  const auto u_shift = shift_of<MS_U_ACCESS>(p.u, shared.piece.row, id);
#pragma unroll 1
  for (int first = kTile - kSteps; first >= 0; first -= kSteps) {
    self.delta.read(stage.delta, first, id);
    InputReader input;
    input.read(stage.u, first, id, u_shift);
    float dt[kSteps][kChannels], u[kSteps][kChannels];
    self.delta.steps([&](int t) { return !kPacked || first + t >= begin; }, id, dt);
#pragma unroll
    for (int t = 0; t < kSteps; ++t)
#pragma unroll
      for (int r = 0; r < kChannels; ++r) u[t][r] = input.value(t, r);
    add_steps(shared, stage, first, id, dt, u, alive, self);
  }
}
#endif

// The slot's last piece, or of packed sequences, the part of it that belongs to the one that runs at its end. False if
// nothing is handed on there.
__device__ __forceinline__ bool last_piece(const SelectiveScanForwardParams& params, Piece& piece) {
  const Range range = slot_range(params, this_slot(params));
#if MS_INVARIANT
  piece = piece_at(params, range.begin, range.end);
  return is_whole_segment(params, piece);
#else
  if (range.begin == range.end || range.end % params.tiles_per_row == 0) return false;
  piece = piece_until(params, range.begin, range.end);
#if MS_PACKED
  const SelectiveScanProblem& p = params.problem;
  const Index end = static_cast<Index>(piece.end) * kTile;
  const Index first_step = sequence_begin(p, sequence_at(p, end));
  if (first_step >= end) return false;
  piece.begin = max(piece.begin, static_cast<int>(first_step / kTile));
#endif
  return true;
#endif
}

#if MS_PACKED
// Clears the steps before the begin of the sequence that runs at the end of the tile. Returns how many these are.
__device__ __forceinline__ int forget_others(const SelectiveScanForwardParams& params, Shared& shared, Stage& stage,
                                             int tile, int lane) {
  const SelectiveScanProblem& p = params.problem;
  const Index first_step = static_cast<Index>(tile) * kTile;
  const Index sequence = sequence_begin(p, sequence_at(p, static_cast<Index>(shared.piece.end) * kTile));
  const int others = static_cast<int>(max(sequence - first_step, Index{0}));
  forget_steps(p, shared.piece.row, shared.expanded, stage, 0, others, lane);
  return others;
}
#endif

#if MS_WARPS > 1
// ---- warps that share a slot ----

static_assert(kChannels == 1 && !kReadsDirectly && !kPacked && !kPrepared && !MS_INVARIANT, "left to one warp");

// Sums of delta over the tiles of a round, of a channel after one another; so far apart that what lanes read together
// lies in different banks.
struct __align__(16) TileSums {
  float of_warp[kWarps + 4];
};

struct __align__(16) Block {
  Shared shared[kWarps];
  TileSums sums[2][kQuads];  // of this round, and of the one before
  float rate[kStates][32];
  float carry[kWarps][kStates * 32];
};
static_assert(sizeof(Block) == MS_SHARED_BYTES, "the plan has counted otherwise");

__device__ __forceinline__ float sum_of_delta(const Stage& stage, LaneId id, DeltaReader& delta) {
  float sum = 0.0f;
#pragma unroll 1
  for (int first = 0; first < kTile; first += kSteps) {
    delta.read(stage.delta, first, id);
    float dt[kSteps][kChannels];
    delta.steps([](int) { return true; }, id, dt);
#pragma unroll
    for (int t = 0; t < kSteps; ++t) sum += dt[t][0];
  }
  return sum;
}

// A register's decay rates of all lanes, by one warp: all load the same, later than the first tile would have come.
__device__ __forceinline__ void load_rates_of(const SelectiveScanProblem& p, const Row& row, int s, LaneId id,
                                              Block& block) {
  static_assert(kStates <= kWarps, "a warp loads no more than one register's");
  const int n = state_of(id.part, s);
  const bool exists = id.quad < row.channels && n < kDState;
  const float* A = p.A + (row.first_channel + id.quad) * p.A_dim_stride + n * p.A_state_stride;
  block.rate[s][id.lane] = exists ? *A * kLog2E : 0.0f;
}

// Adds the warp's tiles of the slot's last piece, of which shared.piece is what ends with the first of them.
__device__ __forceinline__ void add_tiles(const SelectiveScanForwardParams& params, Block& block, int warp, LaneId id,
                                          TileCopies<false>& copies, Lane& self) {
  const SelectiveScanProblem& p = params.problem;
  Shared& shared = block.shared[warp];
  const Row& row = shared.piece.row;
  const int begin = shared.piece.begin;
  int parity = 0;  // of the round
  bool is_first = true;
#pragma unroll 1
  for (int tile = shared.piece.end - 1; tile + warp >= begin; tile -= kWarps, parity ^= 1) {
    const Stage* stage = nullptr;
    float sum = 0.0f;
    if (tile >= begin) {
      stage = &copies.take(params, shared, id.lane);
      expand_projection<MS_B_ORDER, MS_B_ACCESS>(p.B, row, stage->B, shared.expanded.B, id.lane);
      __syncwarp();
      sum = sum_of_delta(*stage, id, self.delta);
    }
    TileSums& sums = block.sums[parity][id.quad];
    if (id.part == 0) sums.of_warp[warp] = sum;
    __syncthreads();
    if (is_first) {
#pragma unroll
      for (int s = 0; s < kStates; ++s) self.rate[0][s] = block.rate[s][id.lane];
    }
    is_first = false;
    float after_round = self.after[0];
#pragma unroll
    for (int w = 0; w < kWarps; w += 4) {
      float some[4];
      read_floats(sums.of_warp + w, some);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        after_round += some[k];
        if (w + k < warp) self.after[0] += some[k];
      }
    }
    const unsigned alive = alive_groups(row, id, self);
    if (tile >= begin && alive != 0) compute_tile(p, shared, *stage, 0, id, alive, self);
    self.after[0] = after_round;
    if (alive_groups(row, id, self) == 0) break;  // the same in all warps
  }
  async_wait<0>();  // for copies of tiles that no longer count
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32 * kWarps, MS_MIN_BLOCKS)
    selective_scan_carry(const SelectiveScanForwardParams params) {
  MS_DYNAMIC_SHARED(uint4, memory);
  Block& block = *reinterpret_cast<Block*>(memory);
  const LaneId id = lane_id();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  Shared& shared = block.shared[warp];
  {
    Piece piece;
    if (!last_piece(params, piece)) return;
    if (piece.row.channels < kWarpChannels) clear_shared(shared, id.lane);
    clear_padding(shared.expanded, id.lane);
    piece.end -= warp;
    if (id.lane == 0) shared.piece = piece;
    __syncwarp();
  }
  TileCopies<false> copies(params, shared, id.lane);
  if (warp < kStates) load_rates_of(params.problem, shared.piece.row, warp, id, block);
  Lane self;
  self.delta.load(params.problem, shared.piece.row, id);
  set_zero(self.carry);
  self.after[0] = 0.0f;
  add_tiles(params, block, warp, id, copies, self);
#pragma unroll
  for (int s = 0; s < kStates; ++s) block.carry[warp][carry_place(id, 0, state_of(id.part, s))] = self.carry[0][s];
  __syncthreads();

  constexpr int kOfSlot = kStates * 32;
  const Index slot = this_slot(params);
  for (int i = thread; i < kOfSlot; i += 32 * kWarps) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += block.carry[w][i];
    params.carry_state[slot * kOfSlot + i] = sum;
  }
  if (warp == 0) params.carry_delta[slot * 32 + id.lane] = self.after[0];
}
#else
}  // namespace

extern "C" __global__ void __launch_bounds__(32, MS_MIN_BLOCKS)
    selective_scan_carry(const SelectiveScanForwardParams params) {
  __shared__ Shared shared;
  const SelectiveScanProblem& p = params.problem;
  const LaneId id = lane_id();
  {
    Piece piece;
    if (!last_piece(params, piece)) return;
    clear_shared(shared, id.lane);
    if (id.lane == 0) shared.piece = piece;
    __syncwarp();
  }
  const Piece& piece = shared.piece;
  const Row& row = piece.row;
  Lane self;
  load_decay_rates(p, row, id, self.rate);
  self.delta.load(p, row, id);
#if MS_B_ORDER == 3
  load_constant_projection(p.B, row, id, self.B);
#endif
  set_zero(self.carry);
#pragma unroll
  for (int r = 0; r < kChannels; ++r) self.after[r] = 0.0f;

  TileCopies<false> copies(params, shared, id.lane);
#if MS_U_ACCESS == 4
  DirectInputs<false> inputs;
  inputs.enter(p, piece, id);
#endif
  const int first_tile = piece.begin;
  unsigned alive = alive_groups(row, id, self);
  int until_test = 1;
#pragma unroll 1
  for (int tile = piece.end - 1; tile >= first_tile; --tile) {
    Stage& stage = copies.take(params, shared, id.lane);
    expand_projection<MS_B_ORDER, MS_B_ACCESS>(p.B, row, stage.B, shared.expanded.B, id.lane);
    if constexpr (!kReadsPrepared) __syncwarp();
    int begin = 0;  // of the sequence in the tile
#if MS_PACKED
    begin = forget_others(params, shared, stage, tile, id.lane);
#endif
#if MS_U_ACCESS == 4
    compute_tile(p, shared, stage, id, alive, inputs, self);
#else
    compute_tile(p, shared, stage, begin, id, alive, self);
#endif
    if (--until_test > 0) continue;
    // Fast states are dropped as soon as they no longer count, slow ones seldom looked at.
    until_test = 1 + (piece.end - tile) / 4;
    alive = alive_groups(row, id, self);
    if (alive == 0) break;
  }
  async_wait<0>();  // for copies of tiles that no longer count

  float* state = params.carry_state + static_cast<Index>(this_slot(params)) * (kChannels * kStates * 32);
  float* delta = params.carry_delta + static_cast<Index>(this_slot(params)) * (kChannels * 32) + id.lane;
#pragma unroll
  for (int r = 0; r < kChannels; ++r) {
    delta[r * 32] = self.after[r];
#pragma unroll
    for (int s = 0; s < kStates; ++s) state[carry_place(id, r, state_of(id.part, s))] = self.carry[r][s];
  }
}
#endif

}  // namespace mamba_scan
