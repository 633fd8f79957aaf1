// How one forward scan is run on a CUDA device: which specialisation of
// kernels/selective_scan/{forward,served,relay,relay_served,whole_rows,carry,compose,prepare}.cu, and how its rows are
// dealt out to warps. Depends on the problem's class and the device's size only, so it can be tested without a GPU.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "driver/device.h"
#include "jit/variant.h"
#include "ops/forward_variant.h"
#include "ops/work.h"
#include "platform/export.h"
#include "selective_scan/forward_params.h"

namespace mamba_scan::ops {

// Many states are scanned in slices, each a launch of its own (two when cut) that adds its share to the sums over
// states in scratch memory; the last one finishes y. Slices of the usual size take the least time for each state.
constexpr Index kUsualStatesOfSlice = 64;
constexpr Index kMostStatesOfSlice = 128;  // where few and short sequences make slices too dear
MAMBA_SCAN_API Index most_states_at_once(const SelectiveScanProblem& problem);  // that one launch may scan
// How many slices a plan may have: the usual number, fewer, and so on down to the fewest.
MAMBA_SCAN_API Index usual_slices(const SelectiveScanProblem& problem);
MAMBA_SCAN_API Index fewest_slices(const SelectiveScanProblem& problem);
MAMBA_SCAN_API Index fewer_slices(Index slices);

struct ForwardPlan {
  ForwardVariant variant;  // of the largest slice, usually the only one
  // variant.scan_blocks(params) blocks of variant.scan_threads(). Pointers to scratch memory are null: the launch
  // sets them. params.problem is the problem in the order of scanning: one with `reverse` begins at its last step and
  // has negative strides over steps.
  SelectiveScanForwardParams params;
  int slices = 1;
  Index slice_states = 0;             // of every slice but the last; 0 when there is only one
  std::size_t carry_state_bytes = 0;  // of scratch memory, aligned to 16; the same for one slice after another
  std::size_t carry_delta_bytes = 0;
  std::size_t carry_ready_bytes = 0;
  std::size_t partial_sum_bytes = 0;
  std::size_t prepared_bytes = 0;  // of prepared B, and of C, aligned to 256
  double clocks = 0;               // that one of the launches is expected to take, with its carries

  double clocks_of_slices() const { return slices * clocks; }
};

// What a slice launches; the plan's own variant and params when there is only one.
struct SlicePlan {
  ForwardVariant variant;
  SelectiveScanForwardParams params;
};
MAMBA_SCAN_API SlicePlan slice_of(const ForwardPlan& plan, int slice);

// All that a plan launches, of every slice.
MAMBA_SCAN_API std::vector<jit::Variant> kernels_of(const ForwardPlan& plan);

// What carry.cu is told: its warps may share a slot otherwise than those that scan it.
MAMBA_SCAN_API SelectiveScanForwardParams carry_params(const ForwardVariant& scan, SelectiveScanForwardParams params);

// Blocks of compose.cu, which has kForwardBlockThreads.
MAMBA_SCAN_API unsigned compose_blocks(const SlicePlan& plan);

// Blocks of kPrepareThreads of prepare.cu.
MAMBA_SCAN_API unsigned prepare_blocks(const SlicePlan& plan);

// What a model of the device chooses, unless it has been measured (ops/tuning.h).
struct PlanChoice {
  std::int16_t lanes = 0;
  std::int16_t channels = 1;
  bool cut = false;
  // As in ForwardVariant. 0: as plan_forward() would have it.
  std::int16_t tile = 0;
  std::int16_t unroll = 0;
  std::int16_t stages = 0;
  std::int16_t min_blocks = 0;
  std::int16_t warps = 1;    // more: relay.cu, which is never cut, or relay_served.cu; neither has an unroll of its own
  std::int16_t slices = 0;   // of the states. 0: as plan_forward() would have it
  bool served = false;       // served.cu, relay_served.cu
  std::int16_t abreast = 1;  // as in ForwardVariant
  bool whole_rows = false;   // whole_rows.cu, whose tile is what it unrolls
  bool wrapped = false;      // as in ForwardVariant: of forward.cu, served.cu and relay_served.cu
  bool together = false;     // warps of forward.cu that a multiprocessor runs are one block

  ScanKernel kernel() const { return scan_kernel(warps, served, whole_rows); }
  auto operator<=>(const PlanChoice&) const = default;
};

// The choice with its tile, unroll, stages and blocks left to plan_forward().
MAMBA_SCAN_API PlanChoice without_details(PlanChoice choice);

// Whether B and C are prepared: where it pays, wherever it is possible, not at all. Results are the same, bit for bit.
enum class Preparation : std::int8_t { kAuto, kAlways, kNever };

// The problem must have passed check(). Throws ArgumentError for what CUDA kernels do not serve. A choice that is not
// possible for the problem is not made, and none with chunk_invariant: the plan must not depend on what was measured.
MAMBA_SCAN_API ForwardPlan plan_forward(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                                        const PlanChoice* choice = nullptr,
                                        Preparation preparation = Preparation::kAuto);

// The variants of the forward kernel that ordinary models use on a device of this compute capability (90 for sm_90):
// compiled ahead by `mamba-scan warm`, and for every architecture by the tests.
MAMBA_SCAN_API std::vector<jit::Variant> shipped_variants(int capability);

}  // namespace mamba_scan::ops
