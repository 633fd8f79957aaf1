// Selective scan, forward, of about as many rows as the device has schedulers, or twice as many. A warp that has a
// scheduler to itself leaves it idle whenever it waits, and in forward.cu it waits at every tile: for copies, for what
// it has just written to shared memory, for its stores to start. Here another warp does all that for it, meanwhile.
//
// Grid: a block for every kPairs rows or, with MS_WRAPPED, slots: ranges of rows (forward_params.h). Block: kPairs
// warps that scan a row or slot each, and kPairs that serve them. Of a piece's tiles t:
//
//   server    await t, done(t - 2) | expand B, C; delta, u of t | ready(t) | store outputs of t - 2, copy t + 2
//   scanner                                                       ready(t) | steps of t | done(t)
//
// ready(t) and done(t) are named barriers of the two warps, two of each, for even and odd t. A stage holds tile t from
// its copy until its outputs, which replace u, are stored. Lanes that share a channel get delta and delta * u from the
// server, evaluated once for all of them (step_inputs.cuh); a lane that has channels to itself evaluates them: its
// server would take longer than it does.
//
// Cost per (channel, state, step) as in forward.cu, but a scheduler's only warp cannot fill it. Measured on an H200, in
// clocks a step of a warp and, in brackets, its exponentials':
//
//   lanes x states          1 x 4      1 x 8       1 x 16       2 x 8
//   one on a scheduler      66 (32)    103 (64)    207 (128)    97 (64)
//   one of forward.cu       79         122         215          141
//   two on a scheduler                 176                      164
//
// More states than 8 in a lane make the unrolled steps longer than what a scheduler keeps of a program. Evaluating each
// step while the one before it is taken, from one group of steps to the next too, gained nothing.
//
// Constants: see warp_tile.cuh. MS_SHARED_BYTES is the dynamic shared memory that the launch provides. Real states that
// one launch holds, sequences that are neither cut, packed nor empty.
#include "selective_scan/lane.cuh"
#include "selective_scan/step_inputs.cuh"
#include "selective_scan/tile_copy.cuh"
#include "selective_scan/tile_outputs.cuh"
#include "selective_scan/wrapped.cuh"

namespace mamba_scan {
namespace {

static_assert(kServed && !MS_COMPLEX && !MS_CUT && !MS_INVARIANT && !MS_PACKED && !MS_SLICE && !MS_PREPARED,
              "left to forward.cu");

// Of a block. Warp kPairs + i serves warp i: schedulers take warps by their number, so that each of a multiprocessor's
// four has one pair.
constexpr int kPairs = 4;
constexpr int kTilesAhead = 2;  // of the server, at most
static_assert(kStages > kTilesAhead && (kStages & (kStages - 1)) == 0, "a stage is found by masking a tile's number");

// What a scanner reads of a tile besides the stage. Two: one is read while the other is made.
struct __align__(16) ReadyTile {
  ExpandedTile expanded;
  StepInputs inputs[kTileInputs];
};

// What a scanner and its server share.
struct __align__(16) Pair {
  Shared shared;
  ReadyTile tile[2];

  __device__ __forceinline__ Stage& stage_of(unsigned t) { return shared.stage[t % kStages]; }
  __device__ __forceinline__ ReadyTile& tile_of(unsigned t) { return tile[t % 2]; }
};
static_assert(sizeof(Pair) * kPairs == MS_SHARED_BYTES, "the plan has counted otherwise");

// A pair's barriers. Neither can be arrived at a second time before the wait is over: of two tiles of the same parity
// the second is called ready only when the first is done, and done only when it was ready.
constexpr int kOfPair = 64;  // threads
__device__ __forceinline__ unsigned ready(unsigned pair, unsigned t) { return pair * 4 + t % 2; }
__device__ __forceinline__ unsigned done(unsigned pair, unsigned t) { return pair * 4 + 2 + t % 2; }

// Of the piece at hand.
__device__ __forceinline__ int first_tile_of(const Pair& memory) { return kWrapped ? memory.shared.piece.begin : 0; }

__device__ __forceinline__ int tiles_of_piece(const SelectiveScanForwardParams& params, const Pair& memory) {
  return kWrapped ? memory.shared.piece.end - memory.shared.piece.begin : params.tiles_per_row;
}

// existing: steps of the tile inside the sequence. Those after it leave the state as it is.
__device__ __forceinline__ void make_ready(const SelectiveScanProblem& p, const Row& row, int existing, Stage& stage,
                                           LaneId id, DeltaReader& delta, ReadyTile& ready) {
  expand_projections(p, row, stage, ready.expanded, id.lane);
  if (existing < kTile) forget_steps(p, row, ready.expanded, stage, existing, kTile, id.lane);
  if constexpr (kSharesInputs) {
    const auto u_shift = shift_of<MS_U_ACCESS>(p.u, row, id);
#pragma unroll 1
    for (int first = 0; first < kTile; first += kSteps) {
      Inputs inputs;
      evaluate_inputs(delta, u_shift, stage, first, existing, id, inputs);
      write_inputs(ready.inputs, first, id, inputs);
    }
  }
}

// What is known about the row is in registers here, of which there are enough.
__device__ __forceinline__ void serve(const SelectiveScanForwardParams& params, Pair& memory, unsigned pair,
                                      LaneId id) {
  const SelectiveScanProblem& p = params.problem;
  const Row row = memory.shared.piece.row;
  const int first_tile = first_tile_of(memory), tiles = tiles_of_piece(params, memory);
  TileCopies<true, kTilesAhead - 1> copies(params, memory.shared, id.lane);
  DeltaReader delta;
  delta.load(p, row, id);
  for (ReadyTile& tile : memory.tile) clear_padding(tile.expanded, id.lane);
  // Where this lane stores its first chunk of the next whole tile.
  char* y = const_cast<char*>(sequence_source<MS_Y_ACCESS>(p.y, row, first_tile, id.lane));
#pragma unroll 1
  for (int t = 0; t < tiles + kTilesAhead; ++t) {
    Stage* stage = nullptr;
    if (t < tiles) stage = &copies.await(memory.shared);
    if (t >= kTilesAhead) barrier_wait<kOfPair>(done(pair, t));
    if (t < tiles) {
      const int tile = first_tile + t, existing = copies.is_whole(tile) ? kTile : steps_of_tile(p, tile);
      make_ready(p, row, existing, *stage, id, delta, memory.tile_of(t));
      barrier_arrive<kOfPair>(ready(pair, t));
    }
    if (t >= kTilesAhead) {
      const Element* outputs = memory.stage_of(t - kTilesAhead).u;
      const int tile = first_tile + t - kTilesAhead;
      if (copies.is_whole(tile)) {
        store_whole(outputs, y, params, row, tile, id.lane);
      } else {
        store_part(outputs, p.y, row, static_cast<Index>(tile) * kTile, steps_of_tile(p, tile), id.lane);
      }
      __syncwarp();  // the next copy goes there
    }
    if (t < tiles) copies.copy_ahead(params, row, memory.shared, id.lane);
  }
}

// kSteps steps of a tile from step `first`; outputs replace u.
__device__ __forceinline__ void scan_group(const ReadyTile& tile, Stage& stage, int first, int existing, LaneId id,
                                           const OfRow& of_row, Lane& self) {
  Inputs inputs;
  if constexpr (kSharesInputs) {
    read_inputs(tile.inputs, first, id, inputs);
  } else {
    evaluate_inputs(self.delta, of_row.u_shift, stage, first, existing, id, inputs);
  }
  float sums[kOwned][kSteps];
#pragma unroll
  for (int t = 0; t < kSteps; ++t) {
    float B[kStates], C[kStates], sum[kChannels];
    read_projections(tile.expanded, stage, first + t, id, B, C);
#pragma unroll
    for (int r = 0; r < kChannels; ++r) sum[r] = 0.0f;
    advance_states(inputs.delta[t], inputs.delta_u[t], B, C, self, sum);
    reduce_over_lanes(sum, id);
#pragma unroll
    for (int i = 0; i < kOwned; ++i) sums[i][t] = sum[i];
  }
  reduce_over_lanes(sums, id);
  Outputs out;
  const int own = first + id.first_step;
#pragma unroll
  for (int i = 0; i < kOwned; ++i)
#pragma unroll
    for (int t = 0; t < kOwnedSteps; ++t) out[i][t] = sums[i][t];
  of_row.finish(stage, own, id, out);
  if (kLanes > 1 || kShifted<MS_U_ACCESS>) __syncwarp();
  if (stores_outputs(id)) keep_outputs<false>(stage.u, own, id, 0, kSteps, out);
}

__device__ __forceinline__ void scan(const SelectiveScanForwardParams& params, int slot, Pair& memory, unsigned pair,
                                     LaneId id) {
  const SelectiveScanProblem& p = params.problem;
  const Row row = memory.shared.piece.row;
  const int first_tile = first_tile_of(memory), tiles = tiles_of_piece(params, memory);
  Lane self;
  load_lane(p, row, id, self);
  if (kWrapped && first_tile > 0) {
    await_state(params, slot, id, self.state);
  } else {
    start_state(p, row, row.batch, id, self);
  }
  OfRow of_row;
  of_row.load(p, row, id);
  const int whole_end = static_cast<int>(p.seqlen / kTile);
#pragma unroll 1
  for (int t = 0; t < tiles; ++t) {
    const int tile = first_tile + t, existing = tile < whole_end ? kTile : steps_of_tile(p, tile);
    barrier_wait<kOfPair>(ready(pair, t));
#pragma unroll 1
    for (int first = 0; first < kTile; first += kSteps)
      scan_group(memory.tile_of(t), memory.stage_of(t), first, existing, id, of_row, self);
    barrier_arrive<kOfPair>(done(pair, t));
  }
  if (kWrapped && first_tile + tiles < params.tiles_per_row) {
    leave_state(params, slot, id, self.state);
  } else {
    store_state(p, row, row.batch, id, self);
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(64 * kPairs, MS_MIN_BLOCKS)
    selective_scan_served(const SelectiveScanForwardParams params) {
  MS_DYNAMIC_SHARED(uint4, all);
  const unsigned warp = threadIdx.x / 32, pair = warp % kPairs;
  const int slot = static_cast<int>(blockIdx.x * kPairs + pair);
  if (slot >= params.slots) return;
  Pair& memory = reinterpret_cast<Pair*>(all)[pair];
  const LaneId id = lane_id();
  const auto scan_piece = [&](const Piece& piece) {
    const bool serves = warp >= kPairs;
    if (serves && id.lane == 0) memory.shared.piece = piece;
    barrier_wait<kOfPair>(ready(pair, 0));
    if (serves) {
      serve(params, memory, pair, id);
    } else {
      scan(params, slot, memory, pair, id);
    }
  };
#if defined(MS_WRAPPED)
  int at = first_of(slot_range(params, slot));
#pragma unroll 1
  do {
    const Piece piece = next_piece(params, slot_range(params, slot), at);
    scan_piece(piece);
    at = after_piece(piece);
  } while (!is_over(slot_range(params, slot), at));
#else
  scan_piece({row_of(params, slot), 0, params.tiles_per_row, 0});
#endif
}

}  // namespace mamba_scan
