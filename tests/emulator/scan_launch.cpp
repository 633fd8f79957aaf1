#include "scan_launch.h"

#include "ops/plan.h"

namespace emulator {

PlannedScan plan_scan(const mamba_scan::SelectiveScanProblem& problem, const ScanCase& scan, Device& device) {
  const mamba_scan::ops::ForwardPlan plan = mamba_scan::ops::plan_forward(problem, device_for(scan));
  PlannedScan out;
  out.params = plan.params;
  out.cut = plan.variant.cut;
  KernelLaunch launch;
  launch.geometry.block.x = mamba_scan::ops::kForwardBlockThreads;
  if (out.cut) {
    const std::size_t slots = static_cast<std::size_t>(plan.params.slots) * sizeof(float);
    out.carry_state_per_slot = plan.carry_state_bytes / slots;
    out.carry_delta_per_slot = plan.carry_delta_bytes / slots;
    launch.variant = plan.variant.carry();
    out.launches.push_back(launch);
  }
  launch.variant = plan.variant.forward();
  out.launches.push_back(launch);
  return with_slots(out, plan.params.slots, device);
}

PlannedScan with_slots(const PlannedScan& plan, int slots, Device& device) {
  PlannedScan out = plan;
  const auto count = static_cast<std::size_t>(slots);
  out.params.slots = slots;
  for (KernelLaunch& launch : out.launches) launch.geometry.grid.x = static_cast<unsigned>(slots);
  if (out.cut) {
    const std::string name = std::string(" for ") + std::to_string(slots) + " slots";
    out.params.carry_state = device.allocate<float>("carry_state" + name, count * plan.carry_state_per_slot);
    out.params.carry_delta = device.allocate<float>("carry_delta" + name, count * plan.carry_delta_per_slot);
  }
  return out;
}

}  // namespace emulator
