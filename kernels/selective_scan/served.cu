// Selective scan, forward, of about as many rows, or shares of rows, as the device has schedulers. A warp that has a
// scheduler to itself leaves it idle whenever it waits, and in forward.cu it waits at every tile: for copies, for what
// it has just written to shared memory, for its stores to start. Here another warp does all that for it, meanwhile.
//
// Grid: a block for every kPairs slots (forward_params.h). Block: kPairs warps that scan a slot each and kPairs that
// serve them. Of a piece's tiles, t counted from its begin:
//
//   server    await t, expand its B, C | done(t - 2), ready(t) | store outputs of t - 2, copy t + 2
//   scanner                                         ready(t)   | steps of t | done(t)
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
#include "selective_scan/scan_piece.cuh"
#include "selective_scan/tile_copy.cuh"

namespace mamba_scan {
namespace {

static_assert(kServed && !MS_COMPLEX && !MS_INVARIANT && !MS_PACKED && !MS_SLICE, "left to forward.cu");
static_assert(sizeof(Shared) * kPairs == MS_SHARED_BYTES, "the plan has counted otherwise");

constexpr unsigned kTilesAhead = 2;  // of the server, at most
static_assert(kStages > kTilesAhead && (kStages & (kStages - 1)) == 0, "a stage is found by masking a tile's number");

constexpr int kOfPair = 64;  // threads

// A pair's barriers. Neither can be arrived at a second time before the wait is over: of two tiles of the same parity
// the second is called ready only when the first is done, and done only when it was ready.
__device__ __forceinline__ unsigned ready(unsigned pair, unsigned t) { return pair * 4 + t % 2; }
__device__ __forceinline__ unsigned done(unsigned pair, unsigned t) { return pair * 4 + 2 + t % 2; }

__device__ __forceinline__ Stage& stage_of(Shared& shared, unsigned t) { return shared.stage[t % kStages]; }

// What is known about the piece is in registers here, of which there are enough.
__device__ __forceinline__ void serve_piece(const SelectiveScanForwardParams& params, Shared& shared, unsigned pair,
                                            int lane) {
  const SelectiveScanProblem& p = params.problem;
  const Piece piece = shared.piece;
  TileCopies<true, kTilesAhead - 1> copies(params, shared, lane);
  // Where this lane stores its first chunk of the next whole tile.
  char* y = const_cast<char*>(sequence_source<MS_Y_ACCESS>(p.y, piece.row, piece.begin, lane));
  const unsigned tiles = static_cast<unsigned>(piece.end - piece.begin);
#pragma unroll 1
  for (unsigned t = 0; t < tiles + kTilesAhead; ++t) {
    const int tile = piece.begin + static_cast<int>(t);
    if (t < tiles) {
      Stage& stage = copies.await(shared);
      expand_projections(p, piece.row, shared, stage, lane);
      if (!copies.is_whole(tile) && steps_of_tile(p, tile) < kTile)
        forget_steps(p, shared, stage, steps_of_tile(p, tile), kTile, lane);
    }
    if (t >= kTilesAhead) barrier_wait<kOfPair>(done(pair, t));
    if (t < tiles) barrier_arrive<kOfPair>(ready(pair, t));
    if (t >= kTilesAhead) {
      const int before = tile - static_cast<int>(kTilesAhead);
      const Element* outputs = stage_of(shared, t - kTilesAhead).u;
      if (copies.is_whole(before)) {
        store_whole(outputs, y, params, piece.row, before, lane);
      } else {
        store_part(outputs, p.y, piece.row, static_cast<Index>(before) * kTile, steps_of_tile(p, before), lane);
      }
      __syncwarp();
    }
    if (t < tiles) copies.copy_ahead(params, piece.row, shared, lane);
  }
}

__device__ __forceinline__ void scan_served_piece(const SelectiveScanForwardParams& params, Shared& shared,
                                                  unsigned pair, LaneId id) {
  const SelectiveScanProblem& p = params.problem;
  const Piece piece = shared.piece;
  Lane self;
  load_lane(p, piece.row, id, self);
  enter_piece(params, shared, id, self);
  const unsigned tiles = static_cast<unsigned>(piece.end - piece.begin);
  const int whole_end = static_cast<int>(p.seqlen / kTile);
#pragma unroll 1
  for (unsigned t = 0; t < tiles; ++t) {
    const int tile = piece.begin + static_cast<int>(t);
    barrier_wait<kOfPair>(ready(pair, t));
    scan_tile(params, shared, stage_of(shared, t), tile, tile < whole_end, id, self);
    barrier_arrive<kOfPair>(done(pair, t));
  }
  if (hands_out_state(params, piece)) store_state(p, shared, id, self);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(64 * kPairs, MS_MIN_BLOCKS)
    selective_scan_served(const SelectiveScanForwardParams params) {
  MS_DYNAMIC_SHARED(uint4, memory);
  const int thread = static_cast<int>(threadIdx.x);
  const unsigned warp = threadIdx.x / 32, pair = warp % kPairs;
  const bool serves = warp >= kPairs;
  Shared& shared = reinterpret_cast<Shared*>(memory)[pair];
  if (this_slot() >= params.slots) return;
  if (serves)
    for (Stage& stage : shared.stage) clear_padding(shared, stage, thread % 32);

  int begin = slot_range(params, this_slot()).begin;
#pragma unroll 1
  do {
    barrier_wait<kOfPair>(ready(pair, 0));  // neither reads the piece before any more
    if (serves && thread % 32 == 0) shared.piece = piece_at(params, begin, slot_range(params, this_slot()).end);
    barrier_wait<kOfPair>(ready(pair, 0));
    if (serves) {
      serve_piece(params, shared, pair, lane_id().lane);
    } else {
      scan_served_piece(params, shared, pair, lane_id());
    }
    begin = shared.piece.next;
  } while (begin < slot_range(params, this_slot()).end);
}

}  // namespace mamba_scan
