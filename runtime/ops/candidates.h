// The candidates that choose() compares: how those of each kernel are made. Each kernel's are in a file of their own.
#pragma once

#include "driver/device.h"
#include "ops/choose.h"
#include "ops/cost_model.h"
#include "ops/forward_variant.h"
#include "ops/plan.h"
#include "selective_scan/problem.h"

namespace mamba_scan::ops {

// The one wanted where it is among those considered, otherwise the fastest by the model.
class Best {
 public:
  explicit Best(const PlanChoice* wanted) : wanted_(wanted) {}

  void consider(const Candidate& c);
  bool wants(const ForwardVariant& v) const { return wanted_ != nullptr && is_simply(*wanted_, v); }
  // Details wanted of this kernel's candidates; 0 where nothing is.
  PlanChoice details(ScanKernel kernel) const {
    return wanted_ != nullptr && wanted_->kernel() == kernel ? *wanted_ : PlanChoice{};
  }
  const Candidate& get() const { return best_; }

 private:
  const PlanChoice* wanted_;
  Candidate best_;
  bool found_ = false;
};

// What memory takes for u, delta, z and y.
double memory_clocks(const ForwardVariant& v, Index rows, Index slots, const SelectiveScanProblem& problem,
                     const driver::DeviceReport& device);

// Can it be scanned by a kernel that has a block for every row? Real states of a problem that is neither packed nor
// chunk_invariant, and B and C that vary.
bool can_have_blocks_of_rows(const SelectiveScanProblem& p);

// Can rows be shared out evenly among slots? Not where rows beside each other share sectors, or what memory reads of
// two sectors at once: they no longer are at the same step then. In us on an H100, whole and shared out: 47, 3244, 990
// with 5 states 510 and 998; 8, 2048, 5120 by served.cu, whose two lanes of a channel make rows of a sector each, 438
// and 551. relay_served.cu has so few rows at a time that memory holds none of them up: a sector is enough for it.
bool can_share_out(const SelectiveScanProblem& problem, const ForwardVariant& v);

// By a kernel that has a block for every slot, and takes so many clocks if memory keeps up.
void consider_blocks(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                     const ForwardVariant& variant, Index slots, double clocks, Best& best);

// ---- forward.cu ----

// Complex states: see complex_lane.cuh. Where the final state replaces the initial one, a slot that still needs the
// initial one may run after the slot that writes the final one; of invariant scans compose.cu has read it by then.
// Invariant packed ones: see choose_invariant().
bool may_be_cut(const SelectiveScanProblem& problem);

// Rows of this shape: of lanes, channels and states.
void consider_forward(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                      const ForwardVariant& shape, bool may_cut, Best& best);

// ---- served.cu ----

// Before Ampere copies go through registers, and what a scheduler has besides its one warp is no faster then. B and C
// of many states keep the serving warp busy for longer than the other one.
bool can_be_served(const SelectiveScanProblem& problem, const driver::DeviceReport& device);

// Rows of this shape, a scheduler having one warp that scans, or two. Of few states two are no faster than forward.cu.
// Fewer than these in lanes that share a channel, or two channels of a lane, gain nothing either: for tuning only.
void consider_served(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                     const ForwardVariant& shape, Best& best);

// ---- relay.cu, relay_served.cu ----

// Before Ampere copies go through registers, of which a turn leaves none.
bool can_take_turns(const SelectiveScanProblem& p, const driver::DeviceReport& device);

void consider_relay(const SelectiveScanProblem& problem, const driver::DeviceReport& device, const ForwardVariant& base,
                    Best& best);
void consider_relay_served(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                           const ForwardVariant& base, Best& best);

// ---- whole_rows.cu ----

bool can_have_whole_rows(const SelectiveScanProblem& p);
void consider_whole_rows(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                         const ForwardVariant& base, Best& best);

}  // namespace mamba_scan::ops
