// A case's problem as the runtime would launch it, with scratch memory on the emulated device. The one place that knows
// what a plan consists of.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "jit/variant.h"
#include "scan_case.h"
#include "selective_scan/forward_params.h"

namespace emulator {

struct KernelLaunch {
  mamba_scan::jit::Variant variant;
  Launch geometry;
  std::function<unsigned(const mamba_scan::SelectiveScanForwardParams&)> blocks;
  mamba_scan::SelectiveScanForwardParams params;
};

struct PlannedScan {
  std::vector<KernelLaunch> launches;                              // in order
  int tiles = 0, rows = 0;                                         // tiles of all rows
  bool cut = false;                                                // sequences are cut in time
  bool wrapped = false;                                            // rows are shared out evenly
  bool any_slots = false;                                          // with_slots() may change their number
  std::size_t carry_state_per_slot = 0, carry_delta_per_slot = 0;  // floats
  std::span<unsigned> carry_ready;                                 // to be cleared before the launches
};

PlannedScan plan_scan(const mamba_scan::SelectiveScanProblem& problem, const ScanCase& scan, Device& device);

// The same kernels with the tiles dealt out to another number of slots; for a plan that cuts sequences any number from
// one to the number of tiles must do, for one that shares out rows to the number of rows. slots_per_row: as in
// SelectiveScanForwardParams.
PlannedScan with_slots(const PlannedScan& plan, int slots, int slots_per_row, Device& device);

}  // namespace emulator
