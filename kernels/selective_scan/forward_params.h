// The argument of selective_scan/forward.cu and carry.cu: the problem and how it is cut into pieces.
#pragma once

#include "selective_scan/problem.h"

namespace mamba_scan {

// Every (batch, group, channel block) is a row of `tiles_per_row` tiles of time. All rows laid end to end make
// `tiles` tiles, which are dealt out to `slots` warps in equal contiguous ranges. A range may begin in the middle of a
// row; the state it starts from comes from the carries of the slots before it:
//
//   row 0               row 1               row 2
//   |-------------------|-------------------|-------------------|
//   slot 0        slot 1        slot 2        slot 3
//   |-------------|----:--------|---------:---|-----------------|
//
// A slot's last piece is the only one that can end in the middle of a row, so one carry per slot is enough.
struct SelectiveScanForwardParams {
  SelectiveScanProblem problem;
  int channels_per_group;  // dim / ngroups
  int blocks_per_group;    // ceil(channels_per_group / channels per warp)
  int tiles_per_row;       // ceil(seqlen / steps per tile), at least 1
  int tiles;               // of all rows; the plan refuses what does not fit
  int slots;
  // One per slot, written by carry.cu: the state at the slot's end had its last piece started from zero,
  // [slot][r][state][quad], and the sum of delta over that piece, [slot][r][lane] (warp_tile.cuh: r, quad, lane).
  // Null when no slot begins inside a row.
  float* carry_state;
  float* carry_delta;
};

}  // namespace mamba_scan
