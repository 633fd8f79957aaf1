// The carries of a forward scan that is cut in time (forward_params.h): for every slot that ends inside a row, the
// state its last piece hands on had it started from zero, and the sum of delta over the piece.
//
//   carry[n] = sum_t exp(A[n] * R_t) * delta_t * u_t * B_t[n]      R_t = sum of delta over the steps after t
//
// A sum, not a recurrence, so it runs backwards from the piece's end and stops when exp(A * R_t) has become negligible
// for every state of the warp; registers s whose states have decayed in all lanes are dropped before that. This takes
// delta not to be negative, so that what has decayed stays so.
//
// A block is one warp and has a slot; constants as in forward.cu. Cost per (channel, state, step): mul, ex2, mul, fma.
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

}  // namespace mamba_scan
