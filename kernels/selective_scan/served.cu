// Selective scan, forward, of about as many rows, or shares of rows, as the device has schedulers. A warp that has a
// scheduler to itself leaves it idle whenever it waits, and in forward.cu it waits at every tile: for copies, for what
// it has just written to shared memory, for its stores to start. Here another warp does all that for it, meanwhile.
//
// Grid: a block for every kPairs slots (forward_params.h). Block: kPairs warps that scan a slot each and kPairs that
// serve them. Of a piece's tiles, t counted from its begin:
//
//   server    await t, done(t - 2) | B, C, delta of t | ready(t) | store outputs of t - 2, copy t + 2
//   scanner                                             ready(t) | steps of t | done(t)
//
// ready(t) and done(t) are named barriers of the two warps, two of each, for even and odd t. A stage holds tile t from
// its copy until its outputs, which replace u, are stored.
//
// Cost per (channel, state, step) as in forward.cu, but a scheduler's only warp cannot fill it: with one lane per
// channel a scanner takes 66 clocks a step for 4 states and 103 for 8 (8 x 2048 x 2048 on an H200), of which the
// exponentials are 32 and 64; two on a scheduler take 176 for 8. A warp of forward.cu by itself takes 80 and 120. More
// states make the unrolled steps longer than what is kept of a program near the scheduler: 207 for 16, where two lanes
// of 8 do better. Evaluating each step while the one before it is taken, from one group of steps to the next too,
// gained nothing: 117 us in place of 112 for 8 states.
//
// Constants: see warp_tile.cuh. MS_SHARED_BYTES is the dynamic shared memory that the launch provides. Real states that
// one launch holds, sequences that are neither packed nor empty.
#include "selective_scan/piece_state.cuh"
#include "selective_scan/step_inputs.cuh"
#include "selective_scan/tile_copy.cuh"

namespace mamba_scan {
namespace {

static_assert(kServed && !MS_COMPLEX && !MS_INVARIANT && !MS_PACKED && !MS_SLICE && !MS_PREPARED, "left to forward.cu");

constexpr unsigned kTilesAhead = 2;  // of the server, at most
static_assert(kStages > kTilesAhead && (kStages & (kStages - 1)) == 0, "a stage is found by masking a tile's number");

// What a scanner reads of a tile, but for u where there is D, and z. Two: one is read while the other is made.
struct __align__(16) ReadyTile {
  __align__(16) float B[kExpandsB ? kTileFloats : 1];
  __align__(16) float C[kExpandsC ? kTileFloats : 1];
  StepInputs inputs[kTileInputs];
};

struct __align__(16) Pair {
  Shared shared;
  ReadyTile tile[2];

  __device__ __forceinline__ Stage& stage_of(unsigned t) { return shared.stage[t % kStages]; }
  __device__ __forceinline__ ReadyTile& tile_of(unsigned t) { return tile[t % 2]; }
};
static_assert(sizeof(Pair) * kPairs == MS_SHARED_BYTES, "the plan has counted otherwise");

constexpr int kOfPair = 64;  // threads

// A pair's barriers. Neither can be arrived at a second time before the wait is over: of two tiles of the same parity
// the second is called ready only when the first is done, and done only when it was ready.
__device__ __forceinline__ unsigned ready(unsigned pair, unsigned t) { return pair * 4 + t % 2; }
__device__ __forceinline__ unsigned done(unsigned pair, unsigned t) { return pair * 4 + 2 + t % 2; }

__device__ __forceinline__ void make_ready(const SelectiveScanProblem& p, const Row& row, int existing, Stage& stage,
                                           LaneId id, DeltaReader& delta, ReadyTile& ready) {
  expand_projections(p, row, stage, ready, id.lane);
  if (existing < kTile) forget_steps(p, row, ready, stage, existing, kTile, id.lane);
  const auto u_shift = shift_of<MS_U_ACCESS>(p.u, row, id);
#pragma unroll 1
  for (int first = 0; first < kTile; first += kSteps) {
    Inputs inputs;
    evaluate_inputs(delta, u_shift, stage, first, existing, id, inputs);
    write_inputs(ready.inputs, first, id, inputs);
  }
}

// What is known about the piece is in registers here, of which there are enough.
__device__ __forceinline__ void serve_piece(const SelectiveScanForwardParams& params, Pair& self, unsigned pair,
                                            LaneId id) {
  const SelectiveScanProblem& p = params.problem;
  const Piece piece = self.shared.piece;
  TileCopies<true, kTilesAhead - 1> copies(params, self.shared, id.lane);
  DeltaReader delta;
  delta.load(p, piece.row, id);
  // Where this lane stores its first chunk of the next whole tile.
  char* y = const_cast<char*>(sequence_source<MS_Y_ACCESS>(p.y, piece.row, piece.begin, id.lane));
  const unsigned tiles = static_cast<unsigned>(piece.end - piece.begin);
#pragma unroll 1
  for (unsigned t = 0; t < tiles + kTilesAhead; ++t) {
    const int tile = piece.begin + static_cast<int>(t), before = tile - static_cast<int>(kTilesAhead);
    Stage* stage = nullptr;
    if (t < tiles) stage = &copies.await(self.shared);
    if (t >= kTilesAhead) barrier_wait<kOfPair>(done(pair, t));
    if (t < tiles) {
      const int existing = copies.is_whole(tile) ? kTile : steps_of_tile(p, tile);
      make_ready(p, piece.row, existing, *stage, id, delta, self.tile_of(t));
      barrier_arrive<kOfPair>(ready(pair, t));
    }
    if (t >= kTilesAhead) {
      const Element* outputs = self.stage_of(t - kTilesAhead).u;
      if (copies.is_whole(before)) {
        store_whole(outputs, y, params, piece.row, before, id.lane);
      } else {
        store_part(outputs, p.y, piece.row, static_cast<Index>(before) * kTile, steps_of_tile(p, before), id.lane);
      }
      __syncwarp();
    }
    if (t < tiles) copies.copy_ahead(params, piece.row, self.shared, id.lane);
  }
}

// What a scanner keeps besides.
struct Outlet {
  float D[kOwned];
  Shift<MS_U_ACCESS> u_shift;
  Shift<MS_Z_ACCESS> z_shift;
  bool stores;
};

// kSteps steps from step `first` of a tile; outputs replace u.
__device__ __forceinline__ void scan_group(const ReadyTile& tile, Stage& stage, int first, LaneId id,
                                           const Outlet& outlet, Lane& self) {
  Inputs inputs;
  read_inputs(tile.inputs, first, id, inputs);
  float sums[kOwned][kSteps];
#pragma unroll
  for (int t = 0; t < kSteps; ++t) {
    float sum[kChannels];
#pragma unroll
    for (int r = 0; r < kChannels; ++r) sum[r] = 0.0f;
    advance_states(tile, stage, first + t, id, inputs.delta[t], inputs.delta_u[t], self, sum);
    reduce_over_lanes(sum, id);
#pragma unroll
    for (int i = 0; i < kOwned; ++i) sums[i][t] = sum[i];
  }
  reduce_over_lanes(sums, id);
  Outputs out;
  const int own = first + id.first_step;
  if constexpr (MS_HAS_D) read_owned<MS_U_ACCESS>(stage.u, own, id, outlet.u_shift, out);
#pragma unroll
  for (int i = 0; i < kOwned; ++i)
#pragma unroll
    for (int t = 0; t < kOwnedSteps; ++t) out[i][t] = MS_HAS_D ? outlet.D[i] * out[i][t] + sums[i][t] : sums[i][t];
  if constexpr (MS_HAS_Z) apply_gate(stage.z, own, id, outlet.z_shift, out);
  if (kLanes > 1 || kShifted<MS_U_ACCESS>) __syncwarp();
  if (outlet.stores) keep_outputs<false>(stage.u, own, id, 0, kSteps, out);
}

__device__ __forceinline__ void scan_piece(const SelectiveScanForwardParams& params, Pair& pair_memory, unsigned pair,
                                           LaneId id) {
  const SelectiveScanProblem& p = params.problem;
  const Piece piece = pair_memory.shared.piece;
  Lane self;
  load_lane(p, piece.row, id, self);
  enter_piece(params, pair_memory.shared, id, self);
  Outlet outlet{
      {}, shift_of<MS_U_ACCESS>(p.u, piece.row, id), shift_of<MS_Z_ACCESS>(p.z, piece.row, id), stores_outputs(id)};
#if MS_HAS_D
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
    const int c = channel_of(id, id.first_owned + i);
    outlet.D[i] = c < piece.row.channels ? p.D[piece.row.first_channel + c] : 0.0f;
  }
#endif
  const unsigned tiles = static_cast<unsigned>(piece.end - piece.begin);
#pragma unroll 1
  for (unsigned t = 0; t < tiles; ++t) {
    barrier_wait<kOfPair>(ready(pair, t));
#pragma unroll 1
    for (int first = 0; first < kTile; first += kSteps)  // past the sequence's end states stay as they are
      scan_group(pair_memory.tile_of(t), pair_memory.stage_of(t), first, id, outlet, self);
    barrier_arrive<kOfPair>(done(pair, t));
  }
  if (hands_out_state(params, piece)) store_state(p, pair_memory.shared, id, self);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(64 * kPairs, MS_MIN_BLOCKS)
    selective_scan_served(const SelectiveScanForwardParams params) {
  MS_DYNAMIC_SHARED(uint4, memory);
  const unsigned warp = threadIdx.x / 32, pair = warp % kPairs;
  const bool serves = warp >= kPairs;
  Pair& self = reinterpret_cast<Pair*>(memory)[pair];
  const LaneId id = lane_id();
  if (this_slot() >= params.slots) return;
  if (serves)
    for (ReadyTile& tile : self.tile) clear_padding(tile, id.lane);

  int begin = slot_range(params, this_slot()).begin;
#pragma unroll 1
  do {
    barrier_wait<kOfPair>(ready(pair, 0));  // neither reads the piece before any more
    if (serves && id.lane == 0) self.shared.piece = piece_at(params, begin, slot_range(params, this_slot()).end);
    barrier_wait<kOfPair>(ready(pair, 0));
    if (serves) {
      serve_piece(params, self, pair, id);
    } else {
      scan_piece(params, self, pair, id);
    }
    begin = self.shared.piece.next;
  } while (begin < slot_range(params, this_slot()).end);
}

}  // namespace mamba_scan
