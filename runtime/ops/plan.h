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
#include "ops/memory_layout.h"
#include "ops/work.h"
#include "platform/export.h"
#include "selective_scan/forward_params.h"

namespace mamba_scan::ops {

// Which of the states a launch scans: MS_SLICE.
enum class StateSlice : std::int8_t { kAll = 0, kPartial = 1, kLast = 2 };

// Which kernel scans.
enum class ScanKernel : std::int8_t { kForward, kServed, kRelay, kRelayServed, kWholeRows };
constexpr ScanKernel scan_kernel(int warps, bool served, bool whole_rows) {
  if (whole_rows) return ScanKernel::kWholeRows;
  if (warps > 1) return served ? ScanKernel::kRelayServed : ScanKernel::kRelay;
  return served ? ScanKernel::kServed : ScanKernel::kForward;
}

// The constants the kernels are specialised with; the head of warp_tile.cuh explains each. Small and comparable: it is
// the key of the table that a call looks its kernel up in.
struct ForwardVariant {
  DType dtype = DType::kFloat32;
  std::int16_t dstate = 16;
  std::int16_t lanes = 2;
  std::int16_t states = 8;
  std::int16_t channels = 4;
  std::int16_t warps = 1;       // that scan in a block: of relay.cu and relay_served.cu more than one
  bool served = false;          // served.cu, relay_served.cu: others move tiles for the warps that scan
  std::int16_t abreast = 1;     // adjacent rows of a block of forward.cu, which go through their tiles in step
  std::int16_t row_vector = 0;  // of whole_rows.cu: elements that rows begin with a multiple of; 0: another kernel
  bool bulk = false;            // whole_rows.cu copies in bulk
  std::int16_t min_blocks = 12;
  std::int16_t tile = 16;
  std::int16_t stages = 2;
  std::int16_t carry_stages = 2;  // of carry.cu
  std::int16_t unroll = 2;
  bool seq_contiguous = false;
  bool reverse = false;
  Access u_access = Access::kVectors;
  Access delta_access = Access::kVectors;
  Access z_access = Access::kVectors;
  Access y_access = Access::kVectors;
  ProjectionOrder b_order = ProjectionOrder::kStates;
  ProjectionOrder c_order = ProjectionOrder::kStates;
  Access b_access = Access::kVectors;
  Access c_access = Access::kVectors;
  bool softplus = false;
  bool has_bias = false;
  bool has_d = false;
  bool has_z = false;
  bool has_initial = false;
  bool has_final = false;
  bool cut = false;  // or, with chunk_invariant, whether a state is handed from one segment to the next
  bool chunk_invariant = false;
  bool packed = false;
  bool is_complex = false;
  bool prepared = false;  // b_order to c_access then stand for nothing, and do not differ
  StateSlice slice = StateSlice::kAll;

  auto operator<=>(const ForwardVariant&) const = default;

  ScanKernel kernel() const { return scan_kernel(warps, served, row_vector > 0); }
  int tiles_apart() const { return !served ? warps : warps > 1 ? 2 : 1; }  // kTilesApart in warp_tile.cuh
  bool is_relay() const { return warps > 1; }                              // relay.cu, relay_served.cu
  int warp_channels() const { return 32 / lanes * channels; }
  // Of a tile of u, delta, z or y as it lies in memory, a row being adjacent elements.
  int tile_rows() const { return seq_contiguous ? warp_channels() : tile; }
  int tile_columns() const { return seq_contiguous ? tile : warp_channels(); }
  bool shares_inputs() const;  // kSharesInputs in tile_values.cuh
  // Of a block of scan(); kPairs in served.cu.
  unsigned scan_slots() const { return is_relay() ? 1 : served ? 4 : static_cast<unsigned>(abreast); }
  unsigned scan_threads() const {
    const int serving = served ? tiles_apart() : 0;  // in turns
    return 32 * scan_slots() * static_cast<unsigned>(warps + serving);
  }
  unsigned scan_blocks(const SelectiveScanForwardParams& params) const;
  std::size_t shared_bytes() const;          // of a warp, or a pair, or in relay_served.cu a block
  std::size_t dynamic_shared_bytes() const;  // of a block of several warps; 0: all is static
  // The same of what whole_rows.cu has, which depends on the number of steps.
  std::size_t whole_rows_bytes(Index seqlen) const;
  std::size_t scan_shared_bytes(const SelectiveScanForwardParams& params) const;  // dynamic, of whichever kernel

  jit::Variant scan() const;     // the kernel()
  jit::Variant carry() const;    // only when cut
  jit::Variant compose() const;  // only when cut and chunk_invariant
  jit::Variant prepare() const;  // only when prepared
};

constexpr unsigned kForwardBlockThreads = 32;

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

// Blocks of compose.cu, which has kForwardBlockThreads, as carry.cu.
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
  std::int16_t warps = 1;    // more: relay.cu or relay_served.cu, which are never cut and have no unroll of their own
  std::int16_t slices = 0;   // of the states. 0: as plan_forward() would have it
  bool served = false;       // served.cu, relay_served.cu
  std::int16_t abreast = 1;  // as in ForwardVariant
  bool whole_rows = false;   // whole_rows.cu, whose tile is what it unrolls

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
