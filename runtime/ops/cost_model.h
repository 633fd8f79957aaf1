// How long a forward scan takes by a model of the kernels, fitted to measurements on an H100 and an H200, which compute
// alike: what choose.cpp and the files beside it choose by.
// In clocks of one scheduler, a quarter of a multiprocessor, which is what other GPUs share with it.
#pragma once

#include "ops/plan.h"
#include "platform/export.h"

namespace mamba_scan::ops {

// One step of all of a scheduler's `warps`: the longest of one warp's own way through its instructions, of all their
// exponentials and of all their instructions. Fitted together with the functions below to 1453 plans for 139 scans of
// any size, dtype, layout and alignment, half of which it met within 8 % and nine tenths within 30 %, and corrected by
// hand where the order of a scan's plans was not that of their times.
MAMBA_SCAN_API double clocks_per_step(const ForwardVariant& variant, int warps);

// One step of the carry pass of `warps` warps, averaged over a piece of `steps` steps.
MAMBA_SCAN_API double carry_clocks_per_step(const ForwardVariant& variant, int warps, double steps);

// The whole scan: `rows` rows run whole on `sms` multiprocessors, at most `resident` warps of each at a time. Of blocks
// whose rows go abreast those that they have room for count.
double clocks_uncut(const ForwardVariant& variant, Index rows, int resident, Index seqlen, Index sms);

// The same where whole rows and parts of them are shared out evenly among `slots` warps, which run all at once, `warps`
// of a scheduler.
double clocks_wrapped(const ForwardVariant& variant, Index rows, Index slots, int warps, Index seqlen);

// The same cut into `slots` equal shares that run all at once, `warps` of a scheduler.
double clocks_cut(const ForwardVariant& variant, Index rows, Index slots, int warps, Index seqlen);

// `rows` rows by served.cu, of which each of `sms` multiprocessors runs as many blocks at a time as the variant says,
// one or two; or, wrapped, in so many slots. Fitted to 40 scans on an H200.
double clocks_served(const ForwardVariant& variant, Index rows, Index slots, Index seqlen, Index sms);

// `rows` rows by relay.cu, whose blocks have a row each and run `resident` at a time on each of `sms` multiprocessors.
double clocks_of_relay(const ForwardVariant& variant, Index rows, int resident, Index seqlen, Index sms);

// The same by relay_served.cu; or, wrapped, in so many slots, as many as run at a time or less.
double clocks_of_relay_served(const ForwardVariant& variant, Index rows, Index slots, int resident, Index seqlen,
                              Index sms);
double clocks_of_relay_served_cut(const ForwardVariant& v, Index rows, Index slots, int resident, Index seqlen,
                                  Index sms);

// `rows` rows by whole_rows.cu, of which each of `sms` multiprocessors runs `resident` at a time.
double clocks_of_whole_rows(const ForwardVariant& variant, Index rows, int resident, Index seqlen, Index sms);

// The same cut into `slots` segments of `steps` steps, of which `resident` of each multiprocessor run at a time.
double clocks_in_segments(const ForwardVariant& variant, Index slots, int resident, Index steps, Index sms);

struct DeviceMemory {
  Index sms = 1;               // that share it
  double bytes_per_clock = 0;  // of theirs; 0: not known, and no bound
};

// What memory takes for u, delta, z and y of `slots` warps, and both together. fills_sectors: rows of y's tiles are
// whole sectors. Fitted to 30 scans on an H100.
double clocks_of_memory(const ForwardVariant& variant, bool fills_sectors, Index rows, Index slots, Index seqlen,
                        const DeviceMemory& memory);
double bounded_by_memory(double clocks, double memory);

// What it takes to prepare B and C, of `floats` numbers each.
double clocks_to_prepare(const ForwardVariant& variant, double floats, int sm_count);

}  // namespace mamba_scan::ops
