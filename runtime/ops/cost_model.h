// How long a forward scan takes by a model of the kernels, fitted to measurements on an H100 and an H200, which compute
// alike: what plan.cpp chooses by.
// In clocks of one scheduler, a quarter of a multiprocessor, which is what other GPUs share with it.
#pragma once

#include "ops/plan.h"
#include "platform/export.h"

namespace mamba_scan::ops {

// One step of all of a scheduler's `warps`. At 16 states within 10 % of what was measured:
//
//   lanes x states x channels     1 warp   2 warps   3 warps   4 warps   5 warps
//   1 x 16 x 1                     235       330       475       625
//   1 x 16 x 2                     420       610       895
//   2 x 8 x 1                      144       187                           416
//   2 x 4 x 1                                122
//   1 x 8 x 1                      125
//   1 x 4 x 1                       90
MAMBA_SCAN_API double clocks_per_step(const ForwardVariant& variant, int warps);

// One step of the carry pass of `warps` warps, averaged over a piece of `steps` steps.
MAMBA_SCAN_API double carry_clocks_per_step(const ForwardVariant& variant, int warps, double steps);

// The whole scan: `rows` rows run whole on `schedulers`, at most `resident` warps of each at a time.
double clocks_uncut(const ForwardVariant& variant, Index rows, int resident, Index seqlen, Index schedulers);

// The same cut into `slots` equal shares that run all at once, `warps` of a scheduler.
double clocks_cut(const ForwardVariant& variant, Index rows, Index slots, int warps, Index seqlen);

// `rows` rows by relay.cu, whose blocks have a row each and run `resident` at a time on each of `sms` multiprocessors.
// Of 34 measurements, 9 us to 0.3 ms long, three quarters are within 10 %, the shortest up to 20 % off.
double clocks_of_relay(const ForwardVariant& variant, Index rows, int resident, Index seqlen, Index sms);

// The same cut into `slots` segments of `steps` steps, of which `resident` of each scheduler run at a time.
double clocks_in_segments(const ForwardVariant& variant, Index slots, int resident, Index steps, Index schedulers);

// What prepared B and C save a scan of `warps` warps per scheduler, each of `steps` steps, that would move them as
// `variant` does.
double clocks_saved_by_preparing(const ForwardVariant& variant, double warps, double steps);

// What it takes to prepare B and C, of `floats` numbers each.
double clocks_to_prepare(const ForwardVariant& variant, double floats, int sm_count);

}  // namespace mamba_scan::ops
