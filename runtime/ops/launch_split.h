// Keeps every launch short on a device that stops long ones: a GPU with a display has a watchdog, and Windows resets
// the driver after 2 s. A scan that would take longer becomes several, one after another on the same stream. Depends on
// the problem and the device only, so it can be tested without a GPU.
#pragma once

#include <cstddef>
#include <vector>

#include "driver/device.h"
#include "platform/export.h"
#include "selective_scan/problem.h"

namespace mamba_scan::ops {

constexpr double kLongestLaunchMs = 100;

// How long a launch for this problem may take: the roof of the device as its clocks and widths have it, times a safety
// factor of 4; for scans that cannot be cut in time no less than the dependent steps of a sequence take. Of the slices
// of more states than one launch scans, the time of one.
MAMBA_SCAN_API double estimated_launch_ms(const SelectiveScanProblem& problem, const driver::DeviceReport& device);

// Part of a scan, a problem of its own.
struct LaunchPiece {
  SelectiveScanProblem problem;
  // Where a sequence is cut in time, the state goes through scratch memory; the addresses of these states are null
  // until hand_on_states() sets them.
  bool takes_state = false;
  bool gives_state = false;
};

struct LaunchSplit {
  std::vector<LaunchPiece> pieces;  // in the order of launching
  std::size_t state_bytes = 0;      // of scratch memory, aligned to 16, for the states handed on; 0: none are
};

// False when one launch will do: always, unless the device has a watchdog.
MAMBA_SCAN_API bool needs_split(const SelectiveScanProblem& problem, const driver::DeviceReport& device);

// Divides the batch first, then groups, then the channels of a group, then time, at multiples of kInvariantSteps in the
// order of scanning. Where packed sequences end only the device knows, so the states of all of them are handed on. With
// chunk_invariant, batch and channels are divided by what kInvariantSteps steps of them take, so that the parts do not
// depend on seqlen, nor the result on where the caller cuts.
MAMBA_SCAN_API LaunchSplit split_launches(const SelectiveScanProblem& problem, const driver::DeviceReport& device);

// Lays the states that pieces hand on into `scratch`, which has split.state_bytes.
MAMBA_SCAN_API void hand_on_states(LaunchSplit& split, void* scratch);

}  // namespace mamba_scan::ops
