// Selective scan, forward. Reference: problem.h states the recurrence; runtime/cpu is the same on a CPU.
//
// Grid: params.slots blocks of one warp, each with a contiguous range of tiles (forward_params.h). For every
// piece of a row in its range a warp repeats, tile by tile:
//
//   async copies of the next tile -> shared      u, delta, z as they are; B, C as they are, or prepared
//   expand B, C of this tile                     to fp32, once per warp
//   compute kSteps steps at a time               states in registers, delta and u converted on reading
//   sum over the lanes of a channel, gate        into the tile, in place of u
//   store the tile                               in vectors of 16 bytes
//
// Cost per (channel, state, step): mul, ex2, mul, fma, fma. The exponential unit takes 8 clocks per warp for an ex2,
// and up to six fp32 instructions fit beside it. The five leave little, so that everything else has to be shared by
// many states: with one lane per channel and its 16 states (the usual plan) no sums over lanes are left, and the rest
// of a step is 17 instructions in the compiled loop, 40 with softplus, bias, D and gate, against 128 clocks of
// exponentials: shared loads of B, C, u and delta, conversions; and besides the loop a sixteenth of a tile's copies and
// stores. Measured on an H100: 157 clocks per step and warp when four warps share a scheduler, 1.23 of the
// exponentials' 128. A polynomial on the fma pipe in place of one or two of 16 exponentials, or of softplus' own,
// gained nothing there.
#include "selective_scan/scan_piece.cuh"
#include "selective_scan/tile_copy.cuh"

namespace mamba_scan {
namespace {

// The whole piece, from the state in `self`.
__device__ __forceinline__ void scan_piece(const SelectiveScanForwardParams& params, Shared& shared, LaneId id,
                                           Lane& self) {
  const SelectiveScanProblem& p = params.problem;
  const Piece& piece = shared.piece;
  TileCopies<true> copies(params, shared, id.lane);
  int tile = piece.begin;
  const int end = piece.end;
  // Where this lane stores its first chunk of the next whole tile.
  char* y = const_cast<char*>(sequence_source<MS_Y_ACCESS>(p.y, piece.row, tile, id.lane));
#pragma unroll 1
  for (; tile < end; ++tile) {
    Stage& stage = copies.take(params, shared, id.lane);
    expand_projections(p, piece.row, shared, stage, id.lane);
    const bool whole = copies.is_whole(tile);
    if (!whole && steps_of_tile(p, tile) < kTile)
      forget_steps(p, shared, stage, steps_of_tile(p, tile), kTile, id.lane);
    scan_tile(params, shared, stage, tile, whole, id, self);
#if MS_SLICE != 1
    static_assert(!kShifted<MS_U_ACCESS> || MS_Y_ACCESS != kVectors, "vectors of y lie where those of u were");
    __syncwarp();
    if (whole) {
      store_whole(stage.u, y, params, piece.row, tile, id.lane);
    } else {
      store_part(stage.u, p.y, piece.row, static_cast<Index>(tile) * kTile, steps_of_tile(p, tile), id.lane);
    }
#endif
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
#if MS_PACKED
    find_sequence(p, shared, id);
#endif
    enter_piece(params, shared, id, self);
    // Packed sequences end, and are stored, inside: even those that have no step.
    if (kPacked || p.seqlen > 0) scan_piece(params, shared, id, self);
    if (!kPacked && hands_out_state(params, piece)) store_state(p, shared, id, self);
    begin = piece.next;
    __syncwarp();  // the next piece is written over this one
  } while (begin < slot_range(params, this_slot()).end);
}

}  // namespace mamba_scan
