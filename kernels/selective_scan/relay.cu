// Selective scan, forward, of few and short sequences: the warps of a block take turns on one row.
//
// Grid: a block for every row (batch, group, channels of a warp). Block: MS_WARPS warps. Warp w scans the row's tiles
// w, w + MS_WARPS, and so on, each in a turn:
//
//   tile i    warp i % MS_WARPS     take, expand | local pass | wait, hand on | output pass, store
//   tile i+1  the next warp              take, expand | local pass | wait .... hand on | output pass, store
//
//   take, expand   as in forward.cu: a warp copies its own tiles, and reads its own shared memory only. Of one or two
//                  channels B and C are not expanded, but read as they came (kReadsRaw)
//   inputs         delta and delta * u, each by the lane that owns the step, for all that share the channel
//   local pass     decay and input of every step, kept in registers; what they make of a state of zero, and how much of
//                  any other state they would leave
//   wait           for the state that the tile begins with, from the warp of the tile before
//   hand on        the state that the tile ends with, to the warp of the tile after: an fma for each state
//   output pass    the same steps again from the right state: an fma each for the state and for y
//   store          sums over lanes, gate and tile as in forward.cu
//
// Nothing but `wait` orders warps (compute-sanitizer's racecheck does not see that it does), and from one `hand on` to
// the next there are only a read from shared memory, an fma, a write and a barrier of two warps: about 110 clocks. So
// the rest of many turns overlaps, and a sequence uses all schedulers of a multiprocessor without being cut, carries,
// or a second evaluation of its exponentials.
//
// Cost per (channel, state, step): mul, ex2, mul, fma; fma, fma. The exponential unit takes 8 clocks per warp for an
// ex2; the rest of a step and of a turn is shared by MS_STATES * MS_CHANNELS states of the usual 32 / that many steps,
// so that instructions bind (cost_model.h).
//
// Constants: see warp_tile.cuh. MS_UNROLL is MS_TILE: a tile lies in registers. MS_SHARED_BYTES is the dynamic shared
// memory that the launch provides. Real states that one launch holds, B and C that vary, sequences that are neither
// packed nor empty.
#include "selective_scan/lane.cuh"
#include "selective_scan/relay_turn.cuh"
#include "selective_scan/tile_copy.cuh"
#include "selective_scan/tile_outputs.cuh"
#include "selective_scan/tile_values.cuh"

namespace mamba_scan {
namespace {

static_assert(kSteps == kTile, "a turn's steps are in registers together");
static_assert(!MS_COMPLEX && !MS_CUT && !MS_INVARIANT && !MS_PACKED && !MS_SLICE && !kBConstant && !kCConstant,
              "left to forward.cu");

// Of what a lane keeps for the whole row, all is needed once a turn, and a turn has no registers left for it: A, bias
// of the channels whose delta it evaluates, D of those that it owns.
constexpr int kBiases = !MS_HAS_BIAS ? 0 : kOwnsDelta ? kOwned : kChannels;
constexpr int kSkips = MS_HAS_D ? kOwned : 0;

struct __align__(16) RelayShared {
  Shared warp[kWarps];
  __align__(16) StepInputs inputs[kWarps][kTileInputs];
  __align__(16) float handed[kWarps][kHeld * 32];  // to warp w: the state that its next tile begins with
  __align__(16) float kept[kWarps][(kHeld + kBiases + kSkips) * 32];
};
static_assert(sizeof(RelayShared) == MS_SHARED_BYTES, "the plan has counted otherwise");

// Asynchronously, one number of a lane, or zero in its place.
__device__ __forceinline__ void keep(float* to, const float* from, bool exists) {
  if (exists) {
    async_copy<4>(to, from);
  } else {
    *to = 0.0f;
  }
}

// What the lane keeps. It is there with the warp's first tile.
__device__ __forceinline__ void keep_lane(const SelectiveScanProblem& p, const Row& row, float* kept, LaneId id) {
  const float* A = p.A + row.first_channel * p.A_dim_stride;
  for_each_state(row, id, p.A_dim_stride, p.A_state_stride, [&](int r, int s, Index index, bool exists) {
    const int k = r * kStates + s;
    keep(kept + k / kHeldVector * kHeldVector * 32 + id.lane * kHeldVector + k % kHeldVector, A + index, exists);
  });
  const auto keep_channel = [&](int place, const float* of_channels, int r) {
    const int c = channel_of(id, r);
    keep(kept + place * 32 + id.lane, of_channels + row.first_channel + c, c < row.channels);
  };
#pragma unroll
  for (int i = 0; i < kBiases; ++i) keep_channel(kHeld + i, p.delta_bias, kOwnsDelta ? id.first_owned + i : i);
#pragma unroll
  for (int i = 0; i < kSkips; ++i) keep_channel(kHeld + kBiases + i, p.D, id.first_owned + i);
}

struct Steps {
  float decay[kSteps][kChannels][kStates];
  float input[kSteps][kChannels][kStates];
};

// What a turn makes of the state it begins with: keep * state + add.
struct Effect {
  States keep, add;
};

// kept: A of the lane, as write_handed() leaves it. B(t, to): of step t, for the lane's states.
template <class Projection>
__device__ __forceinline__ void scan_locally(const float* kept, const Inputs& inputs, LaneId id, const Projection& B,
                                             Steps& steps, Effect& effect) {
  States A;
  read_handed(kept, id, A);
  float delta_sum[kChannels];
#pragma unroll
  for (int r = 0; r < kChannels; ++r) delta_sum[r] = 0.0f;
  set_zero(effect.add);
#pragma unroll
  for (int t = 0; t < kSteps; ++t) {
    float of_step[kStates];
    B(t, of_step);
#pragma unroll
    for (int r = 0; r < kChannels; ++r) {
      delta_sum[r] += inputs.delta[t][r];
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        steps.decay[t][r][s] = exp2_fast(inputs.delta[t][r] * A[r][s]);
        steps.input[t][r][s] = inputs.delta_u[t][r] * of_step[s];
        effect.add[r][s] =
            t == 0 ? steps.input[t][r][s] : steps.decay[t][r][s] * effect.add[r][s] + steps.input[t][r][s];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kChannels; ++r)
#pragma unroll
    for (int s = 0; s < kStates; ++s) effect.keep[r][s] = exp2_fast(delta_sum[r] * A[r][s]);
}

// Whether the first and the last turn are no exceptions (announce_first(), await_last()): 1 % of 1, 1024, 256. With
// more states of a lane some architectures lack the registers for it.
constexpr bool kUniformTurns = kHeld < 4;

// Waits for the state that the turn begins with, and hands on the one that it ends with. This is what all turns of a
// row wait for, one after another, so it stands in a loop of a single round: the compiler moves nothing into a loop,
// and otherwise did half of the local pass after the wait, and of the output pass before handing on.
__device__ __forceinline__ void pass_on(const SelectiveScanForwardParams& params, float (&handed)[kWarps][kHeld * 32],
                                        int warp, bool first, bool last, LaneId id, const Effect& effect,
                                        States& begin) {
  const int next = (warp + 1) % kWarps;
#pragma unroll 1
  do {
    if (kUniformTurns || !first) barrier_wait<kOfTwoWarps>(warp);
    read_handed(handed[warp], id, begin);
    if (kUniformTurns || !last) {
      States end;
#pragma unroll
      for (int r = 0; r < kChannels; ++r)
#pragma unroll
        for (int s = 0; s < kStates; ++s) end[r][s] = effect.keep[r][s] * begin[r][s] + effect.add[r][s];
      write_handed(handed[next], id, end);
      barrier_arrive<kOfTwoWarps>(next);
    }
  } while (params.segment_tiles != 0);  // never: there are no segments
}

// Step t of the output pass: from the state before it to that after it, and the lane's share of y.
template <class Projection>
__device__ __forceinline__ void take_step(const Steps& steps, int t, const Projection& C, States& state,
                                          float (&sum)[kChannels]) {
  float of_step[kStates];
  C(t, of_step);
#pragma unroll
  for (int r = 0; r < kChannels; ++r) {
    sum[r] = 0.0f;
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      state[r][s] = steps.decay[t][r][s] * state[r][s] + steps.input[t][r][s];
      sum[r] += state[r][s] * of_step[s];
    }
  }
}

// delta's bias is among what is kept. Where lanes share inputs, exchanged.
__device__ __forceinline__ void make_inputs(const SelectiveScanProblem& p, const Row& row, const float* kept,
                                            StepInputs* shared, const Stage& stage, int existing, LaneId id,
                                            Inputs& inputs) {
  DeltaReader delta;
  delta.align(p, row, id);
#if MS_HAS_BIAS
#pragma unroll
  for (int i = 0; i < kBiases; ++i) delta.bias[i] = kept[(kHeld + i) * 32 + id.lane];
#endif
  evaluate_inputs(delta, shift_of<MS_U_ACCESS>(p.u, row, id), stage, 0, existing, id, inputs);
  if constexpr (kSharesInputs) {
    write_inputs(shared, 0, id, inputs);
    __syncwarp();
    read_inputs(shared, 0, id, inputs);
  }
}

// From the state that the tile begins with to the one that it ends with.
__device__ __forceinline__ void scan_outputs(const SelectiveScanProblem& p, const Shared& shared, const float* kept,
                                             const Stage& stage, const Steps& steps, LaneId id, States& state,
                                             Outputs& y) {
  float sums[kOwned][kSteps];
  const auto C = [&](int t, float (&to)[kStates]) {
    if constexpr (kReadsRawC) {
      to[0] = read_raw<MS_C_ORDER>(stage.C, id.part, t);
    } else {
      read_states(shared.expanded.C + t * kPaddedStates, id.part, 0, to);
    }
  };
#pragma unroll
  for (int t = 0; t < kTile; ++t) {
    float sum[kChannels];
    take_step(steps, t, C, state, sum);
    reduce_over_lanes(sum, id);
#pragma unroll
    for (int i = 0; i < kOwned; ++i) sums[i][t] = sum[i];
  }
  reduce_over_lanes(sums, id);
#pragma unroll
  for (int i = 0; i < kOwned; ++i)
#pragma unroll
    for (int t = 0; t < kOwnedSteps; ++t) y[i][t] = sums[i][t];
  if constexpr (MS_HAS_D) {
    const auto D = [&](int i) { return kept[(kHeld + kBiases + i) * 32 + id.lane]; };
    add_skips(stage.u, id.first_step, id, shift_of<MS_U_ACCESS>(p.u, shared.piece.row, id), D, y);
  }
}

// A tile's steps, from the state that the tile before ends with to the one that the next begins with; outputs replace
// u.
__device__ __forceinline__ void take_turn(const SelectiveScanForwardParams& params, RelayShared& block, int warp,
                                          Stage& stage, int tile, int existing, LaneId id, States& state) {
  const Shared& shared = block.warp[warp];
  Steps steps;
  Effect effect;
  id = lane_id(lane_anew(id.lane));  // here and below anew: there is no register for what is known about the lane
  {
    Inputs inputs;
    make_inputs(params.problem, shared.piece.row, block.kept[warp], block.inputs[warp], stage, existing, id, inputs);
    const auto B = [&](int t, float (&to)[kStates]) {
      if constexpr (kReadsRawB) {
        to[0] = read_raw<MS_B_ORDER>(stage.B, id.part, t);
      } else {
        read_states(shared.expanded.B + t * kPaddedStates, id.part, 0, to);
      }
    };
    scan_locally(block.kept[warp], inputs, id, B, steps, effect);
  }

  pass_on(params, block.handed, warp, tile == 0, tile + 1 == params.tiles_per_row, id, effect, state);
  id = lane_id(lane_anew(id.lane));
  Outputs y;
  scan_outputs(params.problem, shared, block.kept[warp], stage, steps, id, state, y);
  const auto z_shift = shift_of<MS_Z_ACCESS>(params.problem.z, shared.piece.row, id);
  if constexpr (MS_HAS_Z) apply_gate(stage.z, id.first_step, id, z_shift, y);
  if (kLanes > 1 || kShifted<MS_U_ACCESS>) __syncwarp();
  if (stores_outputs(id)) keep_outputs<false>(stage.u, id.first_step, id, 0, kTile, y);
}

// What the warp keeps and its first tiles are on their way while the first one reads what it starts from.
__device__ __forceinline__ TileCopies<true> enter_row(const SelectiveScanForwardParams& params, RelayShared& block,
                                                      int warp, LaneId id) {
  Shared& shared = block.warp[warp];
  if (id.lane == 0) shared.piece = {row_of(params, this_slot(params)), warp, params.tiles_per_row, 0};
  __syncwarp();
  keep_lane(params.problem, shared.piece.row, block.kept[warp], id);
  const TileCopies<true> copies(params, shared, id.lane);
  clear_padding(shared.expanded, id.lane);
  if (warp == 0) {
    Lane self;
    start_state(params.problem, shared, id, self);
    write_handed(block.handed[0], id, self.state);
  }
  return copies;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32 * kWarps, MS_MIN_BLOCKS)
    selective_scan_relay(const SelectiveScanForwardParams params) {
  MS_DYNAMIC_SHARED(uint4, memory);
  RelayShared& block = *reinterpret_cast<RelayShared*>(memory);
  const SelectiveScanProblem& p = params.problem;
  const int thread = static_cast<int>(threadIdx.x), first = thread / 32;
  TileCopies<true> copies = enter_row(params, block, first, lane_id());
  // Where this lane stores its first chunk of the next whole tile.
  char* y = const_cast<char*>(sequence_source<MS_Y_ACCESS>(p.y, block.warp[first].piece.row, first, thread % 32));
  if constexpr (kUniformTurns) announce_first(first);
#pragma unroll 1
  for (int tile = first; tile < params.tiles_per_row; tile += kWarps) {
    const int warp = static_cast<int>(static_cast<unsigned>(opaque(thread)) / 32);
    const LaneId id = lane_id(lane_anew(thread));
    Shared& shared = block.warp[warp];
    Stage& stage = copies.take(params, shared, id.lane);
    expand_projections(p, shared.piece.row, stage, shared.expanded, id.lane);
    const int existing = steps_of_tile(params, tile);
    if (existing < kTile) forget_steps(p, shared.piece.row, shared.expanded, stage, existing, kTile, id.lane);
    Lane self;
    take_turn(params, block, warp, stage, tile, existing, id, self.state);
    __syncwarp();
    if (copies.is_whole(tile)) {
      store_whole(stage.u, y, params, shared.piece.row, tile, id.lane);
    } else {
      store_part(stage.u, p.y, shared.piece.row, static_cast<Index>(tile) * kTile, steps_of_tile(params, tile),
                 id.lane);
    }
    if (tile + 1 == params.tiles_per_row) store_state(p, shared, id, self);
  }
  if constexpr (kUniformTurns) await_last(first, static_cast<unsigned>(params.tiles_per_row));
}

}  // namespace mamba_scan
