// The argument of every kernel in this folder: the problem and how it is cut into pieces.
#pragma once

#include "selective_scan/problem.h"

namespace mamba_scan {

constexpr int kPrepareThreads = 128;  // of a block of prepare.cu

// A state handed on is forgotten once it has decayed below 2^-32 of its value; with 16-bit inputs, below 2^-24. Neither
// type resolves as much, but what a state stems from may be a single input thousands of times as large as those after
// it: models have such activations.
constexpr int kRememberedBits = 24, kRememberedBitsOfFp32 = 32;

// How a lane walks along a tensor that is copied in chunks (tile_copy.cuh), in bytes.
struct TileSteps {
  Index between;  // from one chunk of the lane to its next
  Index advance;  // from a tile to the warp's next
};

// Every (batch, group, channel block) is a row of `tiles_per_row` tiles of time. All rows laid end to end make
// `tiles` tiles, which are dealt out to `slots` warps in equal contiguous ranges. A range may begin in the middle of a
// row; the state it starts from comes from the carries of the slots before it:
//
//   row 0               row 1               row 2
//   |-------------------|-------------------|-------------------|
//   slot 0        slot 1        slot 2        slot 3
//   |-------------|----:--------|---------:---|-----------------|
//
// A slot's last piece is the only one that can end in the middle of a row, so one carry per slot is enough. Where rows
// share sectors of memory each is dealt out for itself, all alike: slots that run at once then read the same steps, and
// what one has read of the next one's channels is still in the L2 cache. The same shares of a few adjacent rows may be
// a block then, as may whole rows (MS_ABREAST in warp_tile.cuh). A slot is a block in relay.cu and relay_served.cu, and
// but where the latter is cut in time a whole row; in served.cu it is a whole row too, four to a block.
//
// Where there are more rows than run at a time, but not a multiple of that, the last ones would leave most
// multiprocessors idle. Slots of forward.cu, served.cu and relay_served.cu can be ranges then that need no carries
// (MS_WRAPPED): at least as long as a row, and each begins with its last piece. A row that it shares with the slot
// after it is scanned from its begin there and then, and its end by the slot after it last of all, when what is handed
// on, in carry_state, has long been there. (R. McNaughton, Scheduling with deadlines and loss functions, 1959, section
// 3.) A slot waits for the one before it only, whose block is its own or has started before it.
struct SelectiveScanForwardParams {
  SelectiveScanProblem problem;
  TileSteps u_steps, delta_steps, z_steps, y_steps, B_steps, C_steps;  // zero where no pointers are used
  int channels_per_group;                                              // dim / ngroups
  int blocks_per_group;                                                // ceil(channels_per_group / channels per warp)
  int tiles_per_row;                                                   // ceil(seqlen / steps per tile), at least 1
  int tiles;  // of all rows; the plan refuses what does not fit
  int slots;
  int slots_per_row;  // where every row is dealt out for itself; 0: all rows together
  // With chunk_invariant slots are not equal shares but segments of this many tiles, counted from every row's begin, so
  // that where they lie does not depend on seqlen; the last of a row may be shorter. 0: shares.
  int segment_tiles;
  // One per slot, written by carry.cu: the state at the slot's end had its last piece started from zero,
  // [slot][r][state][quad], and the sum of delta over that piece, [slot][r][lane] (warp_tile.cuh: r, quad, lane).
  // Null when no slot begins inside a row. With chunk_invariant compose.cu then turns each state into the one at the
  // slot's begin.
  float* carry_state;
  float* carry_delta;
  // With MS_WRAPPED the kernel that scans itself leaves in carry_state, in the same order, the state after a slot's
  // last piece, if the row goes on in another slot; there is no carry_delta. And here, zero before the launch, it says
  // when that state is there.
  unsigned* carry_ready;
  // More states than one launch holds are scanned in slices, one launch after another (MS_SLICE in warp_tile.cuh).
  // `problem` is then a slice's, and this the sums over the states of the slices before it, fp32, for all steps:
  // [tile][group of steps][channel of the warp][step of the group], tiles counted over all rows.
  float* partial_sum;
  bool first_slice;  // nothing has been summed yet
  // Written by prepare.cu, fp32, for every batch and group the tiles of a row one after another, each
  // [step][padded state] in the order in which lanes of forward.cu read them. Null unless prepared.
  float* prepared_B;
  float* prepared_C;
};

}  // namespace mamba_scan
