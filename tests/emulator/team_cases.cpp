#include "team_cases.h"

#include <stdexcept>

namespace emulator {

std::vector<TeamCase> team_cases() {
  std::vector<TeamCase> cases;
  const auto add = [&](const char* name, DType dtype, Layout layout, int states, int segments) -> ScanCase& {
    TeamCase team;
    team.shape = {states, segments};
    ScanCase& scan = team.scan;
    scan.name = name;
    scan.dtype = dtype;
    scan.layout = layout;
    scan.states_first_B = scan.states_first_C = scan.aligned_rows = layout == Layout::kChannelByChannel;
    cases.push_back(team);
    return cases.back().scan;
  };
  constexpr DType f32 = DType::kFloat32, f16 = DType::kFloat16, bf16 = DType::kBFloat16;
  constexpr Layout steps = Layout::kStepByStep, channels = Layout::kChannelByChannel;

  // Every type in both layouts, cut and whole; lengths around tiles of 16, and segments without a step.
  add("Float16Steps", f16, steps, 2, 1).everything().seqlens = {1, 15, 16, 17, 83};
  add("Float32Steps", f32, steps, 2, 1).everything().seqlens = {1, 33};
  add("BFloat16Steps", bf16, steps, 2, 1).everything().seqlens = {37};
  add("Float16Channels", f16, channels, 2, 1).everything().seqlens = {2, 16, 17, 83};
  add("Float32Channels", f32, channels, 2, 1).everything().seqlens = {33};
  add("BFloat16Channels", bf16, channels, 2, 1).everything().seqlens = {37};
  add("Float16StepsIn4", f16, steps, 1, 4).everything().seqlens = {1, 16, 33, 65, 131};
  add("Float32StepsIn4", f32, steps, 1, 4).everything().seqlens = {67};
  add("Float16ChannelsIn4", f16, channels, 1, 4).everything().seqlens = {2, 33, 131};
  add("Float32ChannelsIn4", f32, channels, 1, 4).everything().seqlens = {67};
  add("Float16StepsIn2", f16, steps, 1, 2).everything().seqlens = {1, 17, 67};
  add("BFloat16ChannelsIn2", bf16, channels, 2, 2).everything().seqlens = {67};
  add("Float16StepsIn16", f16, steps, 1, 16).everything().seqlens = {1, 65, 259};
  add("Float16ChannelsIn8", f16, channels, 1, 8).everything().seqlens = {131};
  cases.back().shape.tile = 8, cases.back().shape.helpers = 2, cases.back().shape.depth = 2;
  add("LongTiles", bf16, steps, 2, 1).everything().seqlens = {75};
  cases.back().shape.tile = 32, cases.back().shape.helpers = 8;
  add("OneStatePerLane", f16, steps, 1, 1).everything().seqlens = {37};
  add("FourStatesPerLane", f16, steps, 4, 1).everything().seqlens = {37};

  // Only what must be there; and softplus or bias alone, which must leave the steps after the end alone.
  add("Bare", f16, steps, 2, 1).seqlens = {37};
  add("BareBySequenceIn4", f16, channels, 1, 4).seqlens = {67};
  {
    ScanCase& scan = add("SoftplusFinalIn4", f16, steps, 1, 4);
    scan.softplus = scan.final = true, scan.seqlens = {37};
  }
  {
    ScanCase& scan = add("BiasFinalBySequence", f16, channels, 2, 1);
    scan.bias = scan.final = true, scan.seqlens = {37};
  }

  // Other numbers of states; odd numbers of channels, in groups and batches; no channel for the second block's end.
  add("FourStates", f16, steps, 2, 1).everything().dstate = 4;
  add("EightStates", f16, steps, 2, 4).everything().dstate = 8;
  add("ThirtyTwoStates", f16, steps, 2, 4).everything().dstate = 32;
  add("SixtyFourStates", f16, steps, 2, 1).everything().dstate = 64;
  {
    ScanCase& scan = add("EightStatesBySequence", f32, channels, 1, 1).everything();
    scan.dstate = 8, scan.seqlens = {17};
  }
  {
    ScanCase& scan = add("Groups", f16, steps, 2, 1).everything();
    scan.dim = 48, scan.ngroups = 3, scan.batch = 2, scan.seqlens = {19};
  }
  {
    ScanCase& scan = add("GroupsBySequenceIn4", f16, channels, 1, 4).everything();
    scan.dim = 15, scan.ngroups = 3, scan.batch = 2, scan.seqlens = {67};
  }
  add("OneChannel", f16, steps, 2, 1).everything().dim = 1;

  // Backwards, through negative strides; and the state in place.
  {
    ScanCase& scan = add("Reverse", f16, steps, 2, 1).everything();
    scan.reverse = true, scan.seqlens = {37};
  }
  {
    ScanCase& scan = add("ReverseIn4", f32, steps, 1, 4).everything();
    scan.reverse = true, scan.seqlens = {67};
  }
  {
    ScanCase& scan = add("StateInPlaceIn4", f16, steps, 1, 4);
    scan.initial = scan.final = scan.state_in_place = true, scan.seqlens = {67};
  }
  return cases;
}

mamba_scan::ops::TeamPlan plan_case(const mamba_scan::SelectiveScanProblem& problem, const TeamCase& team) {
  mamba_scan::driver::DeviceReport device = device_for(team.scan);
  device.shared_per_block_optin = 99 * 1024;
  const auto plan = mamba_scan::ops::plan_team_as(problem, device, team.shape);
  if (!plan) throw std::runtime_error("the team kernel does not serve " + team.scan.name);
  return *plan;
}

}  // namespace emulator
