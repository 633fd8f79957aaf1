#include "scan_launch.h"

#include <stdexcept>

#include "ops/plan.h"
#include "ops/tuning.h"

namespace emulator {

namespace {

using mamba_scan::ops::PlanChoice;
using mamba_scan::ops::ScanKernel;

// What the case chooses, or else the plan, but forward.cu even where another kernel should be faster: most of these
// short problems would get relay.cu.
mamba_scan::ops::ForwardPlan plan_of(const mamba_scan::SelectiveScanProblem& problem, const ScanCase& scan) {
  const auto device = device_for(scan);
  if (scan.choice.lanes > 0) {
    const auto plan = mamba_scan::ops::plan_forward(problem, device, &scan.choice, scan.preparation);
    PlanChoice made = choice_of(plan);
    made.slices = scan.choice.slices;
    if (without_details(made) != without_details(scan.choice) || (scan.choice.tile > 0 && made != scan.choice))
      throw std::runtime_error("the plan of " + scan.name + " is not the one chosen");
    return plan;
  }
  const auto plan = mamba_scan::ops::plan_forward(problem, device, nullptr, scan.preparation);
  if (plan.variant.kernel() == ScanKernel::kForward) return plan;
  for (const auto& expected : mamba_scan::ops::plan_choices(problem, device))
    if (expected.choice.kernel() == ScanKernel::kForward)
      return mamba_scan::ops::plan_forward(problem, device, &expected.choice, scan.preparation);
  throw std::runtime_error("there is no plan of " + scan.name + " with forward.cu");
}

}  // namespace

PlannedScan plan_scan(const mamba_scan::SelectiveScanProblem& problem, const ScanCase& scan, Device& device) {
  const mamba_scan::ops::ForwardPlan plan = plan_of(problem, scan);
  if (scan.preparation == mamba_scan::ops::Preparation::kAlways && problem.seqlen > 0 && !plan.variant.prepared)
    throw std::runtime_error("B and C of " + scan.name + " are not prepared");
  const auto slots = static_cast<std::size_t>(plan.params.slots) * sizeof(float);
  PlannedScan out;
  out.tiles = plan.params.tiles;
  out.rows = plan.params.tiles / plan.params.tiles_per_row;
  out.cut = plan.variant.cut;
  out.wrapped = plan.variant.wrapped;
  out.any_slots = plan.variant.cut && !plan.variant.chunk_invariant && plan.variant.abreast == 1;
  out.carry_state_per_slot = plan.carry_state_bytes / slots;
  out.carry_delta_per_slot = plan.carry_delta_bytes / slots;
  float* partial_sum = nullptr;
  if (plan.partial_sum_bytes != 0)
    partial_sum = device.allocate<float>("partial_sum", plan.partial_sum_bytes / sizeof(float), Access::kScratch);
  float *prepared_B = nullptr, *prepared_C = nullptr;
  if (plan.variant.prepared) {
    prepared_B = device.allocate<float>("prepared_B", plan.prepared_bytes / sizeof(float), Access::kScratch);
    prepared_C = device.allocate<float>("prepared_C", plan.prepared_bytes / sizeof(float), Access::kScratch);
  }
  for (int i = 0; i < plan.slices; ++i) {
    const mamba_scan::ops::SlicePlan slice = mamba_scan::ops::slice_of(plan, i);
    KernelLaunch launch;
    launch.params = slice.params;
    launch.params.partial_sum = partial_sum;
    if (slice.variant.prepared) {
      launch.params.prepared_B = prepared_B;
      launch.params.prepared_C = prepared_C;
      launch.variant = slice.variant.prepare();
      launch.geometry.block.x = mamba_scan::kPrepareThreads;
      launch.blocks = [slice](const auto&) { return prepare_blocks(slice); };
      out.launches.push_back(launch);
    }
    if (out.cut) {
      KernelLaunch carry = launch;
      carry.params = carry_params(slice.variant, launch.params);
      carry.variant = slice.variant.carry();
      carry.geometry.block.x = slice.variant.carry_threads();
      carry.geometry.dynamic_shared_bytes = slice.variant.carry_shared_bytes();
      carry.blocks = [](const auto& params) { return static_cast<unsigned>(params.slots); };
      out.launches.push_back(carry);
    }
    launch.geometry.block.x = mamba_scan::ops::kForwardBlockThreads;
    if (out.cut && slice.variant.chunk_invariant) {
      launch.variant = slice.variant.compose();
      launch.blocks = [slice](const auto&) { return compose_blocks(slice); };
      out.launches.push_back(launch);
    }
    launch.variant = slice.variant.scan();
    launch.geometry.block.x = slice.variant.scan_threads();
    launch.blocks = [v = slice.variant](const auto& params) { return v.scan_blocks(params); };
    launch.geometry.dynamic_shared_bytes = slice.variant.scan_shared_bytes(slice.params);
    launch.geometry.blocks_in_order = slice.variant.wrapped;
    out.launches.push_back(launch);
  }
  return with_slots(out, plan.params.slots, plan.params.slots_per_row, device);
}

PlannedScan with_slots(const PlannedScan& plan, int slots, int slots_per_row, Device& device) {
  PlannedScan out = plan;
  const auto count = static_cast<std::size_t>(slots);
  const std::string name = std::string(" for ") + std::to_string(slots) + " slots";
  float *carry_state = nullptr, *carry_delta = nullptr;
  if (out.cut) {
    // No scratch to the checker: some are read, and left out of account, that no slot hands on.
    carry_state = device.allocate<float>("carry_state" + name, count * plan.carry_state_per_slot);
    carry_delta = device.allocate<float>("carry_delta" + name, count * plan.carry_delta_per_slot);
  } else if (out.wrapped) {
    carry_state = device.allocate<float>("carry_state" + name, count * plan.carry_state_per_slot, Access::kScratch);
    out.carry_ready = {device.allocate<unsigned>("carry_ready" + name, count), count};
  }
  for (KernelLaunch& launch : out.launches) {
    launch.params.slots = slots;
    launch.params.slots_per_row = slots_per_row;
    launch.params.carry_state = carry_state;
    launch.params.carry_delta = carry_delta;
    launch.params.carry_ready = out.carry_ready.data();
    launch.geometry.grid.x = launch.blocks(launch.params);
  }
  return out;
}

}  // namespace emulator
