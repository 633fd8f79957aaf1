#include "scan_case.h"

namespace emulator {

ScanCase& ScanCase::everything() {
  softplus = bias = D = z = initial = final = true;
  return *this;
}

std::vector<ScanCase> scan_cases() {
  std::vector<ScanCase> cases;
  const auto add = [&](const char* name, DType dtype, Layout layout) -> ScanCase& {
    ScanCase scan;
    scan.name = name;
    scan.dtype = dtype;
    scan.layout = layout;
    cases.push_back(scan);
    return cases.back();
  };
  constexpr DType f32 = DType::kFloat32, f16 = DType::kFloat16, bf16 = DType::kBFloat16;
  constexpr Layout steps = Layout::kStepByStep, channels = Layout::kChannelByChannel;

  // Every type in both layouts, with everything and with nothing; lengths around one and two tiles of 16.
  add("Float32Steps", f32, steps).everything().seqlens = {2, 3, 15, 16, 17, 31, 33};
  add("Float16Steps", f16, steps).everything().seqlens = {5, 16, 17, 37};
  add("BFloat16Steps", bf16, steps).everything().seqlens = {5, 16, 17, 37};
  add("Float32Channels", f32, channels).everything().seqlens = {2, 3, 15, 16, 17, 31, 33};
  add("Float16Channels", f16, channels).everything().seqlens = {7, 16, 17, 37};
  add("BFloat16Channels", bf16, channels).everything().seqlens = {7, 16, 17, 37};
  add("Float32StepsBare", f32, steps).seqlens = {2, 17};
  add("Float16StepsBare", f16, steps).seqlens = {2, 17};
  add("BFloat16ChannelsBare", bf16, channels).seqlens = {9, 17};
  add("OneStep", f16, channels).everything().seqlens = {1};
  add("NoStep", f32, steps).everything().seqlens = {0};

  // A full device: two channels per lane, several blocks, odd numbers of channels.
  {
    ScanCase& scan = add("ManyChannels", f16, steps).everything();
    scan.dim = 263, scan.batch = 2, scan.seqlens = {19};
  }
  {
    ScanCase& scan = add("ManyChannelsBySequence", f32, channels).everything();
    scan.dim = 263, scan.batch = 2, scan.seqlens = {19};
  }

  // Tensors that cannot be moved in vectors.
  add("Dense", f16, steps).everything().spacing = Spacing::kDense;
  {
    ScanCase& scan = add("DenseBySequence", f16, channels).everything();
    scan.spacing = Spacing::kDense, scan.seqlens = {19};
  }
  add("Shifted", f32, steps).spacing = Spacing::kShifted;
  add("Strided", bf16, steps).everything().spacing = Spacing::kStrided;
  {
    ScanCase& scan = add("GateInOtherLayout", f32, steps).everything();
    scan.other_layout_z = true, scan.seqlens = {19};
  }
  {
    ScanCase& scan = add("StatesFirstB", f16, channels);
    scan.states_first_B = true, scan.seqlens = {17, 40};  // 40: rows of states can be moved in vectors
  }

  // Groups, and channels that do not fill them evenly.
  {
    ScanCase& scan = add("Groups", f16, steps);
    scan.dim = 3 * 22, scan.ngroups = 3, scan.batch = 2, scan.D = true;
  }
  {
    ScanCase& scan = add("OddGroups", f32, channels).everything();
    scan.dim = 5 * 7, scan.ngroups = 5, scan.batch = 2, scan.seqlens = {19};
  }
  {
    ScanCase& scan = add("OneChannel", f32, steps).everything();
    scan.dim = 1, scan.batch = 3;
  }

  // B and C that do not change with time.
  add("ConstantB", f32, steps).constant_B = true;
  add("ConstantC", f16, steps).constant_C = true;
  {
    ScanCase& scan = add("ConstantBoth", bf16, channels).everything();
    scan.constant_B = scan.constant_C = true, scan.seqlens = {19};
  }

  // Sequences long enough, on few channels, to be cut in time. A is small enough for distant pieces to matter.
  const auto add_long = [&](const char* name, DType dtype, Layout layout, Index seqlen) -> ScanCase& {
    ScanCase& scan = add(name, dtype, layout);
    scan.dim = 11, scan.seqlens = {seqlen}, scan.sm_count = 4;
    return scan;
  };
  add_long("LongFloat32Steps", f32, steps, 201).everything();
  add_long("LongFloat16Steps", f16, steps, 331).everything();
  add_long("LongBFloat16Channels", bf16, channels, 331).everything();
  add_long("LongFloat32Channels", f32, channels, 201).final = true;
  {
    ScanCase& scan = add_long("LongGroups", f16, steps, 331);
    scan.dim = 3 * 5, scan.ngroups = 3, scan.batch = 2, scan.initial = scan.final = true;
  }
  {
    ScanCase& scan = add_long("LongConstantB", f32, steps, 201).everything();
    scan.constant_B = true;
  }
  {
    ScanCase& scan = add_long("LongManyStates", f16, channels, 331);
    scan.dim = 5, scan.dstate = 61, scan.initial = scan.final = true;
  }
  {
    ScanCase& scan = add_long("LongOneState", f32, steps, 201);
    scan.dstate = 1, scan.dim = 35, scan.initial = scan.final = scan.softplus = true;
  }

  // Numbers of states: one lane, lanes not filled, the whole warp.
  for (const Index dstate : {1, 2, 3, 8, 13, 29, 64, 100, 256}) {
    ScanCase& scan = add("States", dstate % 2 == 0 ? f16 : f32, steps);
    scan.name += std::to_string(dstate);
    scan.dstate = dstate, scan.dim = dstate > 64 ? 5 : 11, scan.initial = scan.final = true;
  }
  {
    ScanCase& scan = add("StateInPlace", f32, steps);
    scan.initial = scan.final = scan.state_in_place = true;
  }
  return cases;
}

mamba_scan::driver::DeviceReport device_for(const ScanCase& scan) {
  mamba_scan::driver::DeviceReport device;
  device.name = "emulated";
  device.major = 8;
  device.sm_count = scan.sm_count;
  device.max_threads_per_sm = 1536;
  device.shared_per_block = 48 * 1024;
  device.shared_per_sm = 100 * 1024;
  return device;
}

}  // namespace emulator
