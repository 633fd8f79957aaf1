#include "scan_case.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace emulator {

ScanCase& ScanCase::everything() {
  softplus = bias = D = z = initial = final = true;
  return *this;
}

ScanCase& ScanCase::bare() {
  softplus = bias = D = z = initial = final = false;
  return *this;
}

ScanCase& ScanCase::pack(std::vector<Index> lengths) {
  sequences = std::move(lengths);
  seqlens = {std::accumulate(sequences.begin(), sequences.end(), Index{0})};
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
  add("ShiftedFloat16Steps", f16, steps).everything().spacing = Spacing::kShifted;
  add("ShiftedBFloat16Channels", bf16, channels).everything().spacing = Spacing::kShifted;
  for (const Layout layout : {steps, channels}) {  // rows that begin in either half of a word, of B and C too
    const bool by_steps = layout == steps;
    ScanCase& scan = add(by_steps ? "DenseOddSteps" : "DenseOddChannels", f16, layout).everything();
    scan.spacing = Spacing::kDense, scan.dim = 77, scan.dstate = 13, scan.batch = 2, scan.seqlens = {31, 33, 49};
  }
  // Rows that begin anywhere in a window of 16 bytes, of few states; channels that end before, in and after the last
  // one; whole and cut.
  for (const Layout layout : {steps, channels})
    for (const Index dim : {25, 31, 63})
      for (const bool cut : {false, true}) {
        ScanCase& scan = add(layout == steps ? "WindowsOfSteps" : "WindowsOfChannels", dim == 31 ? bf16 : f16, layout);
        scan.name += std::to_string(dim) + (cut ? "Cut" : "");
        scan.everything().spacing = Spacing::kDense;
        scan.dim = dim, scan.dstate = 5, scan.batch = dim == 63 ? 1 : 2, scan.reverse = dim == 63;
        scan.seqlens = {cut ? 257 : 35, 150};
        scan.choice.lanes = 1, scan.choice.cut = cut;
      }
  for (const Spacing spacing : {Spacing::kDense, Spacing::kPadded, Spacing::kShifted})
    for (const Layout layout : {steps, channels})
      for (const bool constant : {false, true}) {
        ScanCase& scan = add(layout == steps ? "OneStateOfSteps" : "OneStateOfChannels", bf16, layout).everything();
        scan.name += std::to_string(static_cast<int>(spacing)) + (constant ? "ConstantB" : "");
        scan.spacing = spacing, scan.constant_B = constant, scan.reverse = true;
        scan.dim = 10, scan.ngroups = 2, scan.dstate = 1, scan.batch = 3, scan.seqlens = {1, 2, 19};
      }
  {
    ScanCase& scan = add("WindowsOfFourSteps", f16, channels).everything();  // not as many as a window has elements
    scan.spacing = Spacing::kDense, scan.dim = 33, scan.dstate = 16, scan.seqlens = {45};
    scan.choice = {1, 1, false, 16, 4, 2, 8};
  }
  {
    ScanCase& scan = add("WindowsOfSixteenSteps", bf16, steps).everything();
    scan.spacing = Spacing::kDense, scan.dim = 33, scan.dstate = 4, scan.seqlens = {45, 71};
    scan.choice = {1, 1, false, 32, 16, 2, 8};
  }
  // The same of long sequences and as many states as a lane can have.
  for (const Index dstate : {16, 31})
    for (const bool cut : {false, true}) {
      ScanCase& scan = add("LongWindows", cut ? bf16 : f16, channels).everything();
      scan.name += std::to_string(dstate) + (cut ? "Cut" : "");
      scan.spacing = Spacing::kDense, scan.dim = 37, scan.dstate = dstate, scan.reverse = cut == (dstate == 31);
      scan.states_first_B = scan.states_first_C = dstate == 16;
      scan.seqlens = {cut ? 389 : 135, 161};
      scan.choice = {static_cast<std::int16_t>(dstate / 15), 1, cut, 32, 8, 2, 8};
    }
  for (const Index dstate : {1, 3, 23, 33}) {
    ScanCase& scan = add("DenseOddStates", dstate == 23 ? f32 : bf16, dstate == 3 ? channels : steps).everything();
    scan.name += std::to_string(dstate);
    scan.spacing = Spacing::kDense, scan.dim = 9, scan.ngroups = 3, scan.dstate = dstate, scan.seqlens = {37};
  }
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

  // More channels than the 65535 blocks of a grid's other axes.
  {
    ScanCase& scan = add("Dim70001", f16, steps);
    scan.dim = 70001, scan.dstate = 1, scan.seqlens = {2};
  }

  // Plans that only tuning makes.
  {
    ScanCase& scan = add("TunedLongTiles", f16, steps).everything();
    scan.seqlens = {67, 200}, scan.choice = {2, 1, false, 64, 16, 2, 8};
  }
  {
    ScanCase& scan = add("TunedManyStages", f16, channels).everything();
    scan.seqlens = {41}, scan.dstate = 4, scan.choice = {1, 1, false, 16, 16, 5, 8};
  }
  {
    ScanCase& scan = add("TunedShortTiles", f32, channels).everything();
    scan.seqlens = {41}, scan.choice = {4, 2, false, 8, 2, 3, 8};
  }
  {
    ScanCase& scan = add("TunedMoreLanesThanSteps", f16, steps).everything();
    scan.dstate = 32, scan.dim = 5, scan.seqlens = {41}, scan.choice = {32, 1, false, 16, 4, 2, 8};
  }
  {
    ScanCase& scan = add("TunedMoreLanesThanStepsChannels", f32, channels).everything();
    scan.dstate = 32, scan.dim = 5, scan.seqlens = {41}, scan.choice = {16, 2, false, 8, 4, 2, 8};
  }
  {
    ScanCase& scan = add("TunedTwoChannelsOfOneLane", f16, steps).everything();
    scan.dim = 70, scan.seqlens = {67}, scan.choice = {1, 2, false, 16, 16, 2, 8};
  }

  // Warps that take turns: every type in both layouts; fewer tiles than warps, as many, one more; the last one ragged.
  const auto add_relay = [&](const char* name, DType dtype, Layout layout, int lanes, int channels, int warps,
                             std::vector<Index> seqlens) -> ScanCase& {
    ScanCase& scan = add(name, dtype, layout).everything();
    scan.states_first_B = scan.states_first_C = scan.aligned_rows = layout == Layout::kChannelByChannel;
    scan.seqlens = std::move(seqlens);
    scan.choice = {.lanes = static_cast<std::int16_t>(lanes),
                   .channels = static_cast<std::int16_t>(channels),
                   .warps = static_cast<std::int16_t>(warps)};
    return scan;
  };
  add_relay("RelayFloat16Steps", f16, steps, 4, 1, 4, {9, 31, 32, 33, 41, 127});
  add_relay("RelayFloat32Steps", f32, steps, 4, 1, 4, {9, 33, 71});
  add_relay("RelayBFloat16Steps", bf16, steps, 4, 1, 4, {67});
  add_relay("RelayFloat16Channels", f16, channels, 4, 1, 4, {9, 32, 33, 127});
  add_relay("RelayFloat32Channels", f32, channels, 4, 1, 4, {9, 33, 71});
  add_relay("RelayBFloat16Channels", bf16, channels, 4, 1, 4, {67});
  add_relay("RelayOf16", f16, steps, 4, 1, 16, {61, 128, 137, 257});
  add_relay("RelayOf16Channels", f16, channels, 4, 1, 16, {139, 257});
  // Every number of states in a lane, whole and with states that only pad; one and two channels.
  add_relay("RelayOneState", f16, steps, 16, 1, 4, {33, 163});
  add_relay("RelayOneStateChannels", f16, channels, 16, 1, 4, {33, 163});
  add_relay("RelayOneStateFloat32", f32, channels, 16, 1, 4, {83});
  add_relay("RelayOneStateReversed", bf16, steps, 16, 1, 4, {83}).reverse = true;
  add_relay("RelayOneStateReversedChannels", f16, channels, 16, 1, 4, {83}).reverse = true;
  add_relay("RelayOneStateBFirst", f16, steps, 16, 1, 4, {83}).states_first_B = true;
  add_relay("RelayOneOf32States", f16, channels, 32, 1, 4, {83}).dstate = 32;
  {
    ScanCase& scan = add_relay("RelayOneStateBias", f16, steps, 16, 1, 4, {41}).bare();
    scan.bias = scan.final = true;
  }
  add_relay("RelayTwoStates", f16, steps, 8, 1, 8, {17, 163});
  add_relay("RelayEightStates", bf16, steps, 2, 1, 4, {5, 43});
  add_relay("RelayEightStatesChannels", f32, channels, 2, 1, 4, {43});
  add_relay("RelayTwoChannels", f16, steps, 16, 2, 4, {83});
  add_relay("RelayTwoChannelsOfTwoStates", f16, channels, 8, 2, 4, {83});
  add_relay("RelayTwoChannelsOfFourStates", f32, steps, 4, 2, 8, {43});
  add_relay("RelayOneStateInAll", f16, steps, 1, 1, 4, {83}).dstate = 1;
  add_relay("RelayThreeStates", f32, steps, 4, 1, 4, {83}).dstate = 3;
  add_relay("RelayThirteenStates", f16, steps, 4, 1, 4, {43}).dstate = 13;
  add_relay("RelayThirteenStatesChannels", f32, channels, 16, 1, 4, {83}).dstate = 13;
  add_relay("Relay64States", f16, steps, 16, 1, 4, {43}).dstate = 64;
  add_relay("Relay64StatesIn32Lanes", f16, channels, 32, 1, 4, {43}).dstate = 64;
  // Only what must be there; softplus or bias alone, which must leave the steps after the end alone.
  add_relay("RelayBare", f16, steps, 4, 1, 4, {41}).bare();
  add_relay("RelayBareChannels", f32, channels, 8, 1, 4, {41}).bare();
  {
    ScanCase& scan = add_relay("RelaySoftplusFinal", f16, steps, 8, 1, 4, {41}).bare();
    scan.softplus = scan.final = true;
  }
  {
    ScanCase& scan = add_relay("RelayBiasFinal", f16, channels, 4, 1, 4, {41}).bare();
    scan.bias = scan.final = true;
  }
  // Groups, batches, channels that fill no warp; tensors that cannot be copied in vectors.
  {
    ScanCase& scan = add_relay("RelayGroups", f16, steps, 4, 1, 4, {41});
    scan.dim = 3 * 11, scan.ngroups = 3, scan.batch = 2;
  }
  {
    ScanCase& scan = add_relay("RelayGroupsChannels", f32, channels, 8, 1, 4, {41});
    scan.dim = 5 * 7, scan.ngroups = 5, scan.batch = 2;
  }
  add_relay("RelayOneChannel", f32, steps, 4, 1, 4, {41}).dim = 1;
  add_relay("RelayDense", f16, steps, 4, 1, 4, {41}).spacing = Spacing::kDense;
  add_relay("RelayDenseChannels", f16, channels, 4, 1, 4, {41}).spacing = Spacing::kDense;
  add_relay("RelayShifted", bf16, channels, 4, 1, 4, {41}).spacing = Spacing::kShifted;
  add_relay("RelayStrided", f32, steps, 4, 1, 4, {41}).spacing = Spacing::kStrided;
  add_relay("RelayGateInOtherLayout", f32, channels, 4, 1, 4, {41}).other_layout_z = true;
  // From the last step to the first; the state in place.
  add_relay("RelayReverse", f16, steps, 4, 1, 4, {32, 41}).reverse = true;
  add_relay("RelayReverseChannels", f16, channels, 4, 1, 4, {32, 41, 80}).reverse = true;
  add_relay("RelayInPlace", f32, steps, 4, 1, 4, {9, 41}).state_in_place = true;
  // Tiles, stages and blocks that only tuning makes.
  {
    ScanCase& scan = add_relay("RelayTuned", f16, steps, 4, 1, 4, {101});
    scan.choice.tile = 16, scan.choice.stages = 3, scan.choice.min_blocks = 2;
  }
  {
    ScanCase& scan = add_relay("RelayTunedShortTiles", f32, channels, 8, 1, 8, {61});
    scan.choice.tile = 8, scan.choice.stages = 4, scan.choice.min_blocks = 2;
  }

  // The same with warps that serve the others: fewer tiles than slots, as many, more; the last one ragged.
  const auto add_relay_served = [&](const char* name, DType dtype, Layout layout, int lanes, int warps,
                                    std::vector<Index> seqlens) -> ScanCase& {
    ScanCase& scan = add_relay(name, dtype, layout, lanes, 1, warps, std::move(seqlens));
    scan.choice.served = true;
    scan.shared_kib = 200;
    return scan;
  };
  add_relay_served("RelayServedFloat16Steps", f16, steps, 4, 8, {9, 31, 32, 33, 128, 129, 300});
  add_relay_served("RelayServedFloat32Steps", f32, steps, 4, 4, {9, 71, 160}).dim = 13;
  add_relay_served("RelayServedBFloat16Steps", bf16, steps, 4, 8, {67}).dim = 50;
  add_relay_served("RelayServedFloat16Channels", f16, channels, 4, 8, {16, 33, 257});
  add_relay_served("RelayServedFloat32Channels", f32, channels, 4, 4, {41, 150});
  add_relay_served("RelayServedBFloat16Channels", bf16, channels, 4, 4, {67, 170}).dim = 21;
  add_relay_served("RelayServedEightStates", f16, steps, 2, 4, {83}).dstate = 8;
  add_relay_served("RelayServedManyStates", bf16, channels, 16, 8, {83}).dstate = 64;
  add_relay_served("RelayServedThirteenStates", f32, channels, 4, 8, {41}).dstate = 13;
  add_relay_served("RelayServedBare", f16, steps, 4, 8, {71}).bare();
  add_relay_served("RelayServedBareChannels", f32, channels, 4, 8, {41}).bare();
  {
    ScanCase& scan = add_relay_served("RelayServedBiasFinal", f16, steps, 4, 8, {41}).bare();
    scan.bias = scan.final = true;
  }
  {
    ScanCase& scan = add_relay_served("RelayServedGroups", f16, steps, 4, 8, {41});
    scan.dim = 3 * 11, scan.ngroups = 3, scan.batch = 3;
  }
  add_relay_served("RelayServedOneChannel", bf16, channels, 4, 8, {41}).dim = 1;
  add_relay_served("RelayServedDense", f16, steps, 4, 8, {41, 101}).spacing = Spacing::kDense;
  {
    ScanCase& scan = add_relay_served("RelayServedDenseChannels", f16, channels, 4, 8, {41, 101});
    scan.spacing = Spacing::kDense, scan.aligned_rows = false;
  }
  {
    ScanCase& scan = add_relay_served("RelayServedDenseReverse", bf16, channels, 4, 4, {41, 101});
    scan.spacing = Spacing::kDense, scan.aligned_rows = false, scan.reverse = true;
  }
  add_relay_served("RelayServedShifted", bf16, channels, 4, 8, {41}).spacing = Spacing::kShifted;
  add_relay_served("RelayServedStrided", f32, steps, 4, 8, {41}).spacing = Spacing::kStrided;
  add_relay_served("RelayServedGateInOtherLayout", f32, channels, 4, 8, {41}).other_layout_z = true;
  add_relay_served("RelayServedReverse", f16, steps, 4, 8, {32, 41}).reverse = true;
  add_relay_served("RelayServedReverseChannels", f16, channels, 4, 8, {32, 41, 80}).reverse = true;
  add_relay_served("RelayServedInPlace", f32, steps, 4, 8, {9, 41}).state_in_place = true;
  // Rows that four multiprocessors share out evenly: ranges of one to three pieces, of which some end inside a row.
  const auto add_wrapped = [&](const char* name, DType dtype, Layout layout, int lanes,
                               std::vector<Index> seqlens) -> ScanCase& {
    ScanCase& scan = add_relay_served(name, dtype, layout, lanes, 8, std::move(seqlens));
    scan.choice.wrapped = true;
    scan.shared_kib = 228, scan.sm_count = 4;
    scan.batch = 2, scan.dim = 37;
    return scan;
  };
  add_wrapped("RelayServedWrappedFloat32Steps", f32, steps, 4, {31, 64, 257, 300});
  add_wrapped("RelayServedWrappedFloat16Channels", f16, channels, 4, {41, 150});
  add_wrapped("RelayServedWrappedWide", bf16, steps, 2, {33, 129, 300}).dim = 48;  // whole sectors
  add_wrapped("RelayServedWrappedWideChannels", f16, channels, 2, {145, 257});
  add_wrapped("RelayServedWrappedBare", f16, channels, 2, {131}).bare();
  add_wrapped("RelayServedWrappedDense", f16, channels, 2, {133}).spacing = Spacing::kDense;
  add_wrapped("RelayServedWrappedReverseChannels", bf16, channels, 4, {133}).reverse = true;
  // Cut in time: as many slots as there are multiprocessors, or any other number.
  const auto add_relay_cut = [&](const char* name, DType dtype, Layout layout, int lanes,
                                 std::vector<Index> seqlens) -> ScanCase& {
    ScanCase& scan = add_relay_served(name, dtype, layout, lanes, 8, std::move(seqlens));
    scan.choice.cut = true;
    scan.dim = 21, scan.batch = 1, scan.sm_count = 7, scan.shared_kib = 228;
    return scan;
  };
  add_relay_cut("RelayServedCutSteps", f16, steps, 2, {331, 640});
  add_relay_cut("RelayServedCutChannels", bf16, channels, 2, {517}).dim = 48;
  add_relay_cut("RelayServedCutFewStates", f32, channels, 4, {331});
  add_relay_cut("RelayServedCutFloat32Steps", f32, steps, 2, {389});
  add_relay_cut("RelayServedCutBare", f16, channels, 2, {333}).bare();
  // Carries of several rounds, of which the last is over before the slot's begin, or not.
  add_relay_cut("RelayServedCutLongSlots", f16, steps, 2, {1700}).bare().dim = 16;
  add_relay_cut("RelayServedCutLongSlotsFloat32", f32, channels, 2, {1250}).bare().dim = 13;
  add_relay_cut("RelayServedCutDense", f16, channels, 2, {333}).spacing = Spacing::kDense;
  add_relay_cut("RelayServedCutDenseSteps", bf16, steps, 2, {333}).spacing = Spacing::kDense;
  add_relay_cut("RelayServedCutReverse", f16, steps, 2, {517}).reverse = true;
  add_relay_cut("RelayServedCutThirteenStates", f16, channels, 2, {333}).dstate = 13;
  {
    ScanCase& scan = add_relay_cut("RelayServedCutGroups", f16, channels, 2, {263});
    scan.dim = 2 * 19, scan.ngroups = 2, scan.batch = 2, scan.sm_count = 13;
  }
  add_wrapped("RelayServedWrappedInPlace", f32, steps, 4, {133}).state_in_place = true;
  // Eight states of a lane, whose 16 channels four warps serve, or whose 8 two.
  const auto add_wide = [&](const char* name, DType dtype, Layout layout, int lanes,
                            std::vector<Index> seqlens) -> ScanCase& {
    ScanCase& scan = add_relay_served(name, dtype, layout, lanes, 8, std::move(seqlens));
    scan.shared_kib = 228;
    return scan;
  };
  add_wide("RelayServedWideFloat16Steps", f16, steps, 2, {9, 15, 16, 17, 64, 65, 128, 129, 300});
  add_wide("RelayServedWideFloat32Steps", f32, steps, 2, {9, 71, 160}).dim = 13;
  add_wide("RelayServedWideBFloat16Channels", bf16, channels, 2, {33, 257}).dim = 50;
  add_wide("RelayServedWideFloat32Channels", f32, channels, 2, {41, 150});
  add_wide("RelayServedWideManyStates", bf16, channels, 4, {83, 200}).dstate = 32;
  add_wide("RelayServedWideThirteenStates", f16, channels, 2, {41, 145}).dstate = 13;
  add_wide("RelayServedWideBare", f16, steps, 2, {71}).bare();
  // Rows that begin anywhere, of which a serving lane has adjacent channels.
  {
    ScanCase& scan = add_wide("RelayServedWideDenseBFloat16", bf16, steps, 2, {67});
    scan.spacing = Spacing::kDense, scan.dim = 33;
  }
  add_wide("RelayServedWideShiftedBFloat16", bf16, steps, 2, {67}).spacing = Spacing::kShifted;
  for (const Index dim : {21, 33}) {
    ScanCase& scan = add_wide("RelayServedWideDenseWords", f32, steps, 2, {41, 150});
    scan.name += std::to_string(dim);
    scan.spacing = Spacing::kDense, scan.dim = dim;
  }
  add_wide("RelayServedWideDense", f16, steps, 2, {41, 133}).spacing = Spacing::kDense;
  {
    ScanCase& scan = add_wide("RelayServedWideDenseReverse", bf16, channels, 2, {41, 133});
    scan.spacing = Spacing::kDense, scan.reverse = true;
  }
  add_wide("RelayServedWideShifted", bf16, channels, 2, {41}).spacing = Spacing::kShifted;
  add_wide("RelayServedWideBareChannels", bf16, channels, 2, {41, 145}).bare();
  {
    ScanCase& scan = add_wide("RelayServedWideBiasChannels", f16, channels, 2, {41, 145}).bare();
    scan.bias = scan.final = true, scan.dim = 3 * 11, scan.ngroups = 3;
  }
  const auto add_tiled = [&](const char* name, Layout layout, std::vector<Index> seqlens) -> ScanCase& {
    ScanCase& scan = add_wide(name, f16, layout, 2, std::move(seqlens));
    scan.choice.tile = 16, scan.choice.stages = 4, scan.choice.min_blocks = 1;
    return scan;
  };
  add_tiled("RelayServedWideShortSteps", steps, {9, 15, 16, 17, 64, 65, 128, 129, 300});
  add_tiled("RelayServedWideShortChannels", channels, {15, 16, 17, 145}).dim = 50;
  add_wide("RelayServedWideReverse", f16, steps, 2, {32, 41, 129}).reverse = true;
  {
    ScanCase& scan = add_relay_served("RelayServedTuned", f16, steps, 4, 4, {101});
    scan.choice.tile = 16, scan.choice.stages = 5, scan.choice.min_blocks = 1;
  }

  // Warps that others move tiles for: every type in both layouts; fewer tiles than stages, as many, more; the last one
  // ragged; blocks with pairs of warps that have nothing to do.
  const auto add_served = [&](const char* name, DType dtype, Layout layout, int lanes, int channels,
                              std::vector<Index> seqlens) -> ScanCase& {
    ScanCase& scan = add(name, dtype, layout).everything();
    scan.seqlens = std::move(seqlens);
    scan.choice = {
        .lanes = static_cast<std::int16_t>(lanes), .channels = static_cast<std::int16_t>(channels), .served = true};
    scan.shared_kib = 200;  // for four pairs of warps
    return scan;
  };
  add_served("ServedFloat16Steps", f16, steps, 1, 1, {1, 15, 16, 17, 64, 101}).dim = 37;
  add_served("ServedFloat32Steps", f32, steps, 1, 1, {7, 8, 9, 33, 71}).dim = 37;
  add_served("ServedBFloat16Steps", bf16, steps, 2, 1, {67}).dim = 150;
  add_served("ServedFloat16Channels", f16, channels, 1, 1, {16, 33, 127}).dim = 37;
  add_served("ServedFloat32Channels", f32, channels, 2, 1, {9, 71});
  add_served("ServedBFloat16Channels", bf16, channels, 4, 1, {67});
  add_served("ServedTwoChannels", f16, steps, 4, 2, {83});
  add_served("ServedFourStates", f16, steps, 1, 1, {32, 83, 161}).dstate = 4;
  add_served("ServedTwoStatesOfTwoChannels", bf16, steps, 2, 2, {83}).dstate = 4;
  add_served("ServedEightStates", f16, channels, 1, 1, {83, 161}).dstate = 8;
  add_served("ServedThirteenStates", f32, channels, 1, 1, {41}).dstate = 13;
  add_served("ServedOneState", f16, steps, 1, 1, {83}).dstate = 1;
  add_served("ServedBare", f16, steps, 1, 1, {41}).bare();
  add_served("ServedBareChannels", f32, channels, 1, 1, {41}).bare();
  {
    ScanCase& scan = add_served("ServedBiasFinal", f16, steps, 1, 1, {41}).bare();
    scan.bias = scan.final = true;
  }
  {
    ScanCase& scan = add_served("ServedGroups", f16, steps, 1, 1, {41});
    scan.dim = 3 * 11, scan.ngroups = 3, scan.batch = 3;
  }
  {
    ScanCase& scan = add_served("ServedConstantB", f32, steps, 1, 1, {41});
    scan.constant_B = true;
  }
  {
    ScanCase& scan = add_served("ServedConstantC", f16, channels, 1, 1, {41});
    scan.constant_C = true;
  }
  add_served("ServedDense", f16, steps, 1, 1, {41}).spacing = Spacing::kDense;
  add_served("ServedDenseChannels", f16, channels, 1, 1, {41}).spacing = Spacing::kDense;
  {
    ScanCase& scan = add_served("ServedDenseTwoLanes", bf16, channels, 2, 1, {31, 67, 130});
    scan.spacing = Spacing::kDense, scan.states_first_B = scan.states_first_C = true;
  }
  {
    ScanCase& scan = add_served("ServedDenseFourLanesReverse", f16, channels, 4, 1, {31, 67, 130});
    scan.spacing = Spacing::kDense, scan.states_first_B = scan.states_first_C = scan.reverse = true;
  }
  add_served("ServedShifted", bf16, channels, 2, 1, {41}).spacing = Spacing::kShifted;
  add_served("ServedStrided", f32, steps, 1, 1, {41}).spacing = Spacing::kStrided;
  add_served("ServedGateInOtherLayout", f32, channels, 1, 1, {41}).other_layout_z = true;
  add_served("ServedReverse", f16, steps, 1, 1, {32, 41}).reverse = true;
  add_served("ServedReverseChannels", f16, channels, 1, 1, {32, 41, 80}).reverse = true;
  add_served("ServedInPlace", f32, steps, 1, 1, {41}).state_in_place = true;
  {
    ScanCase& scan = add_served("ServedTuned", f16, steps, 1, 1, {101});
    scan.choice.tile = 8, scan.choice.unroll = 4, scan.choice.stages = 4, scan.choice.min_blocks = 1;
  }
  // Rows that the pairs of one multiprocessor share out evenly.
  const auto add_served_shares = [&](const char* name, DType dtype, Layout layout, int lanes, Index dim,
                                     std::vector<Index> seqlens) -> ScanCase& {
    ScanCase& scan = add_served(name, dtype, layout, lanes, 1, std::move(seqlens));
    scan.choice.wrapped = true, scan.dim = dim, scan.batch = 3;
    return scan;
  };
  add_served_shares("ServedWrappedFloat16Steps", f16, steps, 1, 80, {1, 16, 33, 150});
  add_served_shares("ServedWrappedFloat32Steps", f32, steps, 2, 56, {71}).dstate = 7;
  add_served_shares("ServedWrappedBFloat16Channels", bf16, channels, 2, 45, {9, 64, 201});
  add_served_shares("ServedWrappedOneLane", f16, channels, 1, 77, {130}).bare();
  add_served_shares("ServedWrappedReverse", f32, channels, 2, 37, {83}).reverse = true;
  add_served_shares("ServedWrappedInPlace", bf16, steps, 1, 144, {83}).state_in_place = true;
  {
    ScanCase& scan = add_served_shares("ServedWrappedDense", bf16, channels, 2, 41, {31, 67, 130});
    scan.spacing = Spacing::kDense, scan.states_first_B = scan.states_first_C = true;
  }

  // Rows that begin anywhere, which lanes read and write themselves: lengths around groups and tiles,
  // warps with fewer channels than lanes, whole and cut; and a missing step that a bias alone would give a size.
  const auto add_direct = [&](const char* name, DType dtype, Index dstate, std::vector<Index> seqlens) -> ScanCase& {
    ScanCase& scan = add(name, dtype, steps).everything();
    scan.spacing = Spacing::kDense;
    scan.dim = 37, scan.dstate = dstate, scan.batch = 2;
    scan.seqlens = std::move(seqlens);
    scan.choice.lanes = 1;
    return scan;
  };
  add_direct("DirectFloat32", f32, 3, {1, 2, 15, 16, 17, 31, 32, 33, 65, 101});
  // Rows that the warps of one multiprocessor share out evenly: of several pieces each, some of which end inside a row.
  const auto add_shared_out = [&](const char* name, DType dtype, Layout layout, int lanes, Index dstate,
                                  std::vector<Index> seqlens) -> ScanCase& {
    ScanCase& scan = add(name, dtype, layout).everything();
    scan.seqlens = std::move(seqlens), scan.dstate = dstate;
    scan.batch = 3, scan.dim = 80;
    scan.choice = {.lanes = static_cast<std::int16_t>(lanes), .wrapped = true};
    return scan;
  };
  add_shared_out("WrappedFloat16Steps", f16, steps, 1, 16, {1, 16, 33, 150});
  add_shared_out("WrappedFloat32Steps", f32, steps, 2, 13, {17, 101});
  add_shared_out("WrappedBFloat16Channels", bf16, channels, 1, 5, {9, 64, 257});
  add_shared_out("WrappedDenseTwoLanes", f16, channels, 2, 16, {150}).spacing = Spacing::kDense;
  add_shared_out("WrappedWindows", f16, channels, 1, 4, {45, 199}).spacing = Spacing::kDense;
  add_shared_out("WrappedReverse", bf16, channels, 1, 16, {131}).reverse = true;
  add_shared_out("WrappedReverseSteps", f16, steps, 1, 16, {131}).reverse = true;
  add_shared_out("WrappedInPlace", f32, steps, 1, 8, {77}).state_in_place = true;
  add_shared_out("WrappedBare", f16, channels, 1, 2, {99}).bare();
  add_shared_out("WrappedConstantB", bf16, steps, 1, 3, {99}).constant_B = true;
  add_shared_out("WrappedSlices", f16, channels, 8, 80, {41, 75});
  {
    ScanCase& scan = add_shared_out("WrappedGroups", f32, steps, 1, 7, {99});
    scan.dim = 3 * 48, scan.ngroups = 3;
  }
  // Warps of a multiprocessor that are one block: whole rows, of which there are fewer than it has room for, rows
  // shared out evenly and, of few rows, shares that are cut in time.
  const auto add_together = [&](const char* name, DType dtype, Layout layout, Index dim, std::vector<Index> seqlens,
                                mamba_scan::ops::PlanChoice choice) -> ScanCase& {
    ScanCase& scan = add(name, dtype, layout).everything();
    scan.seqlens = std::move(seqlens), scan.dim = dim;
    scan.major = 9, scan.shared_kib = 228;
    scan.choice = choice;
    return scan;
  };
  using mamba_scan::ops::PlanChoice;
  const PlanChoice whole{.lanes = 1, .together = true}, shared_out{.lanes = 1, .wrapped = true, .together = true},
      cut{.lanes = 1, .cut = true, .together = true};
  add_together("TogetherFloat16Steps", f16, steps, 15 * 32, {1, 17, 70}, whole);
  add_together("TogetherFloat32Channels", f32, channels, 11 * 32 + 5, {37}, whole);
  add_together("TogetherWrapped", bf16, steps, 21 * 32, {16, 53}, shared_out);
  add_together("TogetherWrappedChannels", f16, channels, 22 * 32, {67}, shared_out).bare();
  add_together("TogetherCut", f16, steps, 48, {1203}, cut).batch = 2;
  add_together("TogetherCutChannels", bf16, channels, 70, {1501}, cut);
  add_together("TogetherReverse", f16, channels, 15 * 32, {45}, whole).reverse = true;
  add_together("TogetherReverseSteps", bf16, steps, 15 * 32, {45}, whole).reverse = true;
  // Two warps of a scheduler, which only a table is a reason for.
  add_together("TogetherTwo", f16, steps, 8 * 32, {1, 33}, whole);
  add_together("TogetherTwoChannels", bf16, channels, 8 * 32 - 3, {33}, whole);
  {
    // Rows that begin in the middle of a word, or of a vector.
    ScanCase& by_step = add_together("TogetherDense", f16, steps, 12 * 32 - 1, {35}, whole);
    by_step.spacing = Spacing::kDense;
    ScanCase& by_channel = add_together("TogetherDenseChannels", bf16, channels, 12 * 32, {35}, whole);
    by_channel.spacing = Spacing::kDense;
  }
  // The same of sequences long enough for windows; outputs of few states wait for whole sectors.
  for (const Index dstate : {5, 16}) {
    ScanCase& scan = add_together("TogetherWindows", f16, channels, 8 * 32, {135}, whole);
    scan.name += std::to_string(dstate);
    scan.spacing = Spacing::kDense, scan.dstate = dstate;
  }
  {
    ScanCase& scan = add_together("TogetherWindowsReverse", bf16, channels, 70, {389}, cut);
    scan.spacing = Spacing::kDense, scan.reverse = true;
  }
  for (const bool z : {false, true}) {
    ScanCase& scan = add_together(z ? "TogetherGate" : "TogetherSoftplus", f16, steps, 16 * 32, {17}, whole);
    scan.bare().z = z, scan.softplus = !z;
  }
  add_direct("DirectFloat16", f16, 1, {1, 16, 33, 101});
  add_direct("DirectBFloat16", bf16, 8, {1, 17, 32, 67}).dim = 331;
  add_direct("DirectSixteenStates", f16, 16, {1, 7, 9, 16, 17, 67}).dim = 331;
  add_direct("DirectElevenStates", f32, 11, {41});
  add_direct("DirectShifted", f16, 2, {35}).spacing = Spacing::kShifted;
  add_direct("DirectReverse", f16, 6, {1, 35, 64}).reverse = true;
  add_direct("DirectBare", bf16, 4, {41}).bare();
  add_direct("DirectInPlace", f16, 1, {45}).state_in_place = true;
  add_direct("DirectConstantB", f16, 2, {45}).constant_B = true;
  add_direct("DirectConstantC", f32, 2, {45}).constant_C = true;
  {
    ScanCase& scan = add_direct("DirectBiasFinal", bf16, 1, {41}).bare();
    scan.bias = scan.final = true;
  }
  {
    ScanCase& scan = add_direct("DirectGroups", f16, 2, {43});
    scan.dim = 3 * 53, scan.ngroups = 3;
  }
  const auto add_direct_cut = [&](const char* name, DType dtype, Index dstate) -> ScanCase& {
    ScanCase& scan = add_direct(name, dtype, dstate, {331, 517});
    scan.choice.cut = true, scan.sm_count = 4;
    return scan;
  };
  add_direct_cut("DirectCut", f16, 1);
  add_direct_cut("DirectCutFloat32", f32, 5);
  add_direct_cut("DirectCutSixteenStates", bf16, 16);
  add_direct_cut("DirectCutReverse", f16, 12).reverse = true;
  add_direct_cut("DirectCutConstantB", f32, 3).constant_B = true;

  // Rows that go abreast: whole ones and, on few multiprocessors, cut ones; blocks that have fewer of them, and of
  // which the last has fewer channels; steps that begin with a sector, in its middle, or anywhere.
  const auto add_abreast = [&](const char* name, DType dtype, int lanes, int channels, std::vector<Index> seqlens,
                               bool cut = false) -> ScanCase& {
    ScanCase& scan = add(name, dtype, steps).everything();
    scan.seqlens = std::move(seqlens);
    scan.choice = {.lanes = static_cast<std::int16_t>(lanes),
                   .channels = static_cast<std::int16_t>(channels),
                   .cut = cut,
                   .abreast = 4};
    scan.dim = 150;
    scan.shared_kib = 200;
    return scan;
  };
  add_abreast("AbreastFloat16", f16, 1, 1, {1, 15, 33, 101});
  add_abreast("AbreastFloat32", f32, 2, 1, {9, 71}).dim = 37;
  add_abreast("AbreastBFloat16", bf16, 4, 2, {67});
  add_abreast("AbreastFourChannels", f32, 8, 1, {67}).dim = 37;
  add_abreast("AbreastDense", f16, 2, 1, {41, 131}).spacing = Spacing::kDense;
  add_abreast("AbreastDenseFloat32", f32, 2, 1, {41}).spacing = Spacing::kDense;
  add_abreast("AbreastHalfSectors", f16, 1, 1, {35}).dim = 72;
  add_abreast("AbreastShifted", bf16, 4, 1, {41}).spacing = Spacing::kShifted;
  add_abreast("AbreastStrided", f32, 4, 1, {41}).spacing = Spacing::kStrided;
  add_abreast("AbreastReverse", bf16, 1, 1, {41}).reverse = true;
  add_abreast("AbreastFourStates", bf16, 1, 1, {41, 131}).dstate = 4;
  add_abreast("AbreastBare", f16, 1, 1, {41}).bare();
  {
    ScanCase& scan = add_abreast("AbreastGroups", f16, 2, 1, {41});
    scan.dim = 3 * 53, scan.ngroups = 3, scan.batch = 2, scan.spacing = Spacing::kDense;
  }
  {
    ScanCase& scan = add_abreast("AbreastSlices", f16, 8, 1, {41});
    scan.dim = 21, scan.dstate = 80, scan.spacing = Spacing::kDense;
  }
  for (const DType dtype : {f16, f32}) {
    ScanCase& scan = add_abreast(dtype == f16 ? "AbreastCut" : "AbreastCutFloat32", dtype, 4, 1, {331}, true);
    scan.dim = 43, scan.sm_count = 4, scan.spacing = Spacing::kDense;
  }
  {
    ScanCase& scan = add_abreast("AbreastCutGroups", bf16, 4, 1, {333}, true);
    scan.dim = 2 * 19, scan.ngroups = 2, scan.sm_count = 6;
  }

  // Rows that lie side by side and are moved whole: every type, lengths of every alignment, warps with fewer channels,
  // runs that begin anywhere, steps that are left over.
  const auto add_whole_rows = [&](const char* name, DType dtype, Index dstate,
                                  std::vector<Index> seqlens) -> ScanCase& {
    ScanCase& scan = add(name, dtype, channels).everything();
    scan.spacing = Spacing::kDense;
    scan.dstate = dstate;
    scan.seqlens = std::move(seqlens);
    scan.states_first_B = scan.states_first_C = true;
    scan.choice = {.lanes = 1, .whole_rows = true};
    scan.batch = 2;
    return scan;
  };
  add_whole_rows("WholeRowsFloat16", f16, 1, {2, 7, 49, 50, 52, 56, 131});
  add_whole_rows("WholeRowsBFloat16", bf16, 4, {3, 49, 54, 60, 64}).dim = 70;
  add_whole_rows("WholeRowsFloat32", f32, 3, {5, 49, 50, 52}).dim = 32;
  add_whole_rows("WholeRowsTwoStates", f32, 2, {33}).bare();
  add_whole_rows("WholeRowsSixteenStates", f16, 16, {21, 26, 40}).states_first_B = false;
  add_whole_rows("WholeRowsThirteenStates", bf16, 13, {29}).states_first_C = false;
  add_whole_rows("WholeRowsEightStates", f16, 8, {35}).states_first_B = false;
  add_whole_rows("WholeRowsBare", f16, 1, {49}).bare();
  add_whole_rows("WholeRowsOneChannel", f16, 5, {37}).dim = 1;
  {
    ScanCase& scan = add_whole_rows("WholeRowsGroups", f16, 1, {43});
    scan.dim = 3 * 35, scan.ngroups = 3;
  }
  {
    ScanCase& scan = add_whole_rows("WholeRowsBiasFinal", bf16, 1, {41}).bare();
    scan.bias = scan.final = true;
  }
  for (const Index shifted : {1, 2, 5}) {
    ScanCase& scan = add_whole_rows("WholeRowsShifted", shifted == 2 ? f32 : f16, 2, {23, 24});
    scan.name += std::to_string(shifted);
    scan.shifted_y = shifted, scan.reverse = shifted == 5;
  }
  add_whole_rows("WholeRowsReverse", f16, 1, {2, 49, 50, 52}).reverse = true;
  add_whole_rows("WholeRowsReverseFloat32", f32, 6, {27, 28}).reverse = true;
  add_whole_rows("WholeRowsInPlace", f16, 3, {45}).state_in_place = true;
  // Copies in bulk.
  for (const Index shifted : {0, 3}) {
    ScanCase& scan =
        add_whole_rows(shifted == 0 ? "WholeRowsBulk" : "WholeRowsBulkShifted", f16, 1, {2, 7, 49, 52, 131});
    scan.major = 9, scan.shifted_y = shifted;
  }
  {
    ScanCase& scan = add_whole_rows("WholeRowsBulkFloat32", f32, 16, {21, 26}).bare();
    scan.major = 9, scan.dim = 70, scan.reverse = true;
  }
  {
    ScanCase& scan = add_whole_rows("WholeRowsTuned", f16, 1, {67, 68});
    scan.choice.tile = 4, scan.choice.stages = 2, scan.choice.min_blocks = 8;  // usually 16 steps
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
  for (const Layout layout : {steps, channels}) {  // carries of rows that begin in either half of a word
    ScanCase& scan = add_long(layout == steps ? "LongDenseOddSteps" : "LongDenseOddChannels", f16, layout, 333);
    scan.everything().spacing = Spacing::kDense;
    scan.reverse = layout == channels;
  }
  {
    ScanCase& scan = add_long("LongTuned", bf16, channels, 333).everything();
    scan.choice = {8, 1, true, 32, 4, 4, 8};
  }
  {
    ScanCase& scan = add_long("LongTunedShortTiles", f16, steps, 333).everything();
    scan.choice = {1, 1, true, 4, 4, 8, 8};
  }
  {
    ScanCase& scan = add_long("LongTunedLongTiles", f16, steps, 333).everything();
    scan.dim = 37, scan.choice = {2, 1, true, 64, 16, 3, 8};
  }
  {
    ScanCase& scan = add_long("LongStateInPlace", f32, steps, 201);
    scan.initial = scan.final = scan.state_in_place = true;
  }
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
  // Shared memory for fewer than four full tiles, as Turing has: shorter tiles.
  {
    ScanCase& scan = add("LittleSharedMemory128", f16, channels).everything();
    scan.dstate = 128, scan.dim = 5, scan.shared_kib = 64;
  }
  {
    ScanCase& scan = add("LittleSharedMemory200", f32, steps).everything();
    scan.dstate = 200, scan.dim = 5, scan.shared_kib = 64, scan.seqlens = {2, 19};
  }
  // More states than one launch scans: slices of 64, 64 and less, of 56 and 41; whole and cut in time.
  {
    ScanCase& scan = add("ManyStates300", f16, steps).everything();
    scan.dstate = 300, scan.dim = 5, scan.seqlens = {0, 1, 19};
  }
  {
    ScanCase& scan = add("ManyStates321", f32, channels).everything();
    scan.dstate = 321, scan.dim = 6, scan.ngroups = 2, scan.batch = 2, scan.state_in_place = true;
  }
  {
    ScanCase& scan = add("ManyStates512", bf16, channels).everything();
    scan.dstate = 512, scan.dim = 5, scan.constant_C = true, scan.seqlens = {17};
  }
  {
    ScanCase& scan = add("ManyStates700", f32, steps);
    scan.dstate = 700, scan.dim = 3, scan.constant_B = true, scan.seqlens = {9};
  }
  {
    ScanCase& scan = add_long("LongManyStates300", f16, steps, 331).everything();
    scan.dstate = 300, scan.dim = 3;
  }

  // From the last step to the first.
  const auto add_reverse = [&](const char* name, DType dtype, Layout layout, std::vector<Index> seqlens) -> ScanCase& {
    ScanCase& scan = add(name, dtype, layout).everything();
    scan.reverse = true, scan.seqlens = std::move(seqlens);
    return scan;
  };
  add_reverse("ReverseFloat32Steps", f32, steps, {0, 1, 17, 33});
  add_reverse("ReverseFloat16Channels", f16, channels, {1, 7, 16, 17, 40});
  add_reverse("ReverseFloat32Channels", f32, channels, {16, 17}).spacing = Spacing::kDense;
  add_reverse("ReverseShifted", bf16, channels, {16, 31, 32}).spacing = Spacing::kShifted;
  add_reverse("ReverseStrided", f16, steps, {19}).spacing = Spacing::kStrided;
  {
    ScanCase& scan = add_reverse("ReverseStatesFirstB", f16, channels, {17, 40});
    scan.states_first_B = true, scan.batch = 2;
  }
  add_reverse("ReverseStatesFirstBBySteps", f32, steps, {40}).states_first_B = true;
  add_reverse("ReverseGateInOtherLayout", f32, channels, {24}).other_layout_z = true;
  add_reverse("ReverseConstantB", f32, steps, {19}).constant_B = true;
  add_reverse("ReverseInPlace", f16, steps, {19}).state_in_place = true;
  for (const Layout layout : {steps, channels}) {
    ScanCase& scan = add_long(layout == steps ? "LongReverseSteps" : "LongReverseChannels", f16, layout, 331);
    scan.everything().reverse = true;
  }
  {
    ScanCase& scan = add_reverse("ReverseManyStates", f16, channels, {19});
    scan.dstate = 300, scan.dim = 3;
  }
  add_long("LongReverseWholeTiles", f32, channels, 208).everything().reverse = true;
  // Complex states: both layouts, B and C varying, constant, of other strides, in groups, in slices.
  const auto add_complex = [&](const char* name, DType dtype, Layout layout) -> ScanCase& {
    ScanCase& scan = add(name, dtype, layout);
    scan.is_complex = true, scan.dim = 11, scan.seqlens = {1, 7, 16, 37};
    return scan;
  };
  add_complex("ComplexFloat32Steps", f32, steps).everything();
  add_complex("ComplexFloat16Channels", f16, channels).everything();
  add_complex("ComplexBFloat16Steps", bf16, steps).everything();
  add_complex("ComplexBare", f32, steps).seqlens = {37};
  {
    ScanCase& scan = add_complex("ComplexConstant", f32, channels);
    scan.constant_B = scan.constant_C = true, scan.initial = scan.final = true;
  }
  {
    ScanCase& scan = add_complex("ComplexConstantB", f16, steps);
    scan.constant_B = true, scan.states_first_B = true, scan.D = scan.bias = true, scan.dim = 131;
  }
  {
    ScanCase& scan = add_complex("ComplexStatesFirst", f16, channels);
    scan.states_first_B = true, scan.ngroups = 3, scan.dim = 21, scan.batch = 2, scan.final = true;
  }
  {
    ScanCase& scan = add_complex("ComplexOneState", f32, steps);
    scan.dstate = 1, scan.dim = 67, scan.initial = scan.final = scan.state_in_place = true;
  }
  {
    ScanCase& scan = add_complex("ComplexOddStates", bf16, channels);
    scan.dstate = 29, scan.z = scan.final = true, scan.spacing = Spacing::kDense, scan.seqlens = {19};
  }
  {
    ScanCase& scan = add_complex("Complex200States", f32, steps).everything();
    scan.dstate = 200, scan.dim = 5, scan.seqlens = {19};
  }
  {
    ScanCase& scan = add_complex("ComplexReverse", f16, channels).everything();
    scan.reverse = true;
  }

  // Packed sequences: empty ones at the begin, the end and in between, ends at a tile's end, one step before and after.
  const std::vector<Index> lengths = {0, 0, 1, 14, 1, 0, 0, 16, 15, 2, 31, 5, 7, 1, 0};
  for (const bool reverse : {false, true}) {
    const std::string order = reverse ? "Reverse" : "";
    const auto add_packed = [&](const char* name, DType dtype, Layout layout) -> ScanCase& {
      ScanCase& scan = add((order + name).c_str(), dtype, layout).everything().pack(lengths);
      scan.reverse = reverse, scan.dim = 11;
      return scan;
    };
    add_packed("PackedFloat32Steps", f32, steps);
    add_packed("PackedOneLane", f32, steps).choice.lanes = 1;  // which reads B and C in place
    add_packed("PackedFloat16Steps", f16, steps).spacing = Spacing::kDense;
    add_packed("PackedBFloat16Steps", bf16, steps).dim = 37;
    add_packed("PackedFloat32Channels", f32, channels);
    add_packed("PackedFloat16Channels", f16, channels).states_first_B = true;
    add_packed("PackedInPlace", f32, channels).state_in_place = true;
    add_packed("PackedBare", f16, steps).bare();
    add_packed("PackedBareChannels", f32, channels).bare();
    {
      ScanCase& scan = add_packed("PackedComplex", reverse ? f32 : f16, reverse ? channels : steps);
      scan.is_complex = true, scan.dim = 5;
    }
    add_packed("PackedIntoOne", f16, channels).pack({37});
    add_packed("PackedPart", reverse ? f32 : f16, reverse ? channels : steps).packed_begin = 5;
    add_packed("PackedNothing", f16, steps).pack({0, 0, 0});
    add_packed("PackedBroken", f32, reverse ? channels : steps).broken_sequence = 8;
    add_packed("PackedManyStates", f16, reverse ? channels : steps).dstate = 300;
    add_packed("PackedManyStatesSplit", f32, reverse ? steps : channels).dstate = 300;

    // Cut in time, sequences long and short.
    const auto add_long_packed = [&](const char* name, DType dtype, Layout layout) -> ScanCase& {
      ScanCase& scan = add_packed(name, dtype, layout).pack({90, 0, 7, 3, 48, 0, 0, 16, 1, 30, 97, 33, 6});
      scan.sm_count = 4;
      return scan;
    };
    add_long_packed("LongPackedFloat32Steps", f32, steps);
    add_long_packed("LongPackedOneLane", f32, steps).choice = {.lanes = 1, .cut = true};
    add_long_packed("LongPackedFloat16Channels", f16, channels);
    add_long_packed("LongPackedBFloat16Steps", bf16, steps).dim = 5;
    add_long_packed("LongPackedPart", f16, reverse ? steps : channels).packed_begin = 1000;
    add_long_packed("LongPackedBare", f32, channels).bare();
    add_long_packed("LongPackedFinal", f16, steps).bare().final = true;
    add_long_packed("LongPackedBroken", f16, reverse ? channels : steps).broken_sequence = 4;
  }

  // Whose result does not depend on where the caller cuts; the device is large enough for segments of 256 steps.
  for (const bool reverse : {false, true}) {
    const std::string order = reverse ? "Reverse" : "";
    const auto add_invariant = [&](const char* name, DType dtype, Layout layout) -> ScanCase& {
      ScanCase& scan = add((order + name).c_str(), dtype, layout).everything();
      scan.reverse = reverse, scan.chunk_invariant = true, scan.sm_count = 32;
      scan.dim = 11, scan.seqlens = {513, 512, 255, 1};
      return scan;
    };
    add_invariant("InvariantFloat32Steps", f32, steps);
    add_invariant("InvariantFloat16Channels", f16, channels);
    {
      ScanCase& scan = add_invariant("InvariantBare", f16, steps).bare();
      scan.final = true;
    }
    {
      ScanCase& scan = add_invariant("InvariantDense", f32, channels);
      scan.spacing = Spacing::kDense, scan.dim = 6, scan.ngroups = 2, scan.dstate = 13, scan.sm_count = 64;
    }
    {
      ScanCase& scan = add_invariant("InvariantManyRows", bf16, steps);
      scan.batch = 33, scan.dim = 3, scan.sm_count = 1, scan.dstate = 4, scan.seqlens = {257};
    }
    {
      ScanCase& scan = add_invariant("InvariantManyStates", f16, steps);
      scan.dstate = 300, scan.dim = 3, scan.seqlens = {257, 1};
    }
    {
      ScanCase& scan = add_invariant("InvariantComplex", reverse ? bf16 : f32, reverse ? channels : steps);
      scan.is_complex = true, scan.dim = 3, scan.dstate = 5, scan.seqlens = {257, 1};
    }
    add_invariant("InvariantPacked", f32, steps).pack({90, 0, 7, 48, 16, 1, 30, 97});
  }
  {
    ScanCase& scan = add("StateInPlace", f32, steps);
    scan.initial = scan.final = scan.state_in_place = true;
  }

  // The same with B and C prepared: every type, both orders, aligned or not, states that fill the lanes or do not,
  // steps that fill tiles or do not; whole and cut, in slices, reversed, packed, invariant.
  for (const char* name : {"Float32Steps",
                           "Float16Channels",
                           "BFloat16ChannelsBare",
                           "OneStep",
                           "ManyChannels",
                           "DenseOddSteps",
                           "DenseOddStates1",
                           "DenseOddStates3",
                           "DenseOddStates33",
                           "Strided",
                           "StatesFirstB",
                           "OddGroups",
                           "TunedLongTiles",
                           "States2",
                           "LongFloat16Steps",
                           "LongFloat32Channels",
                           "LongTuned",
                           "LongGroups",
                           "LongManyStates",
                           "LongOneState",
                           "ManyStates321",
                           "LongManyStates300",
                           "ReverseFloat16Channels",
                           "ReverseShifted",
                           "ReverseStatesFirstBBySteps",
                           "LongReverseChannels",
                           "PackedBFloat16Steps",
                           "PackedPart",
                           "PackedBroken",
                           "ReversePackedManyStates",
                           "LongPackedFloat32Steps",
                           "ReverseLongPackedBroken",
                           "InvariantFloat32Steps",
                           "InvariantDense",
                           "InvariantManyStates",
                           "ReverseInvariantFloat16Channels",
                           "InvariantPacked",
                           "WrappedDenseTwoLanes",
                           "WrappedFloat32Steps"}) {
    ScanCase scan = *std::find_if(cases.begin(), cases.end(), [&](const ScanCase& c) { return c.name == name; });
    scan.name = "Prepared" + scan.name;
    scan.preparation = mamba_scan::ops::Preparation::kAlways;
    cases.push_back(scan);
  }
  return cases;
}

mamba_scan::driver::DeviceReport device_for(const ScanCase& scan) {
  mamba_scan::driver::DeviceReport device;
  device.name = "emulated";
  device.major = scan.major;
  device.sm_count = scan.sm_count;
  device.max_threads_per_sm = 1536;
  device.shared_per_block = 48 * 1024;
  device.shared_per_block_optin = static_cast<std::size_t>(std::max(100, scan.shared_kib) - 1) * 1024;
  device.shared_per_sm = static_cast<std::size_t>(scan.shared_kib) * 1024;
  return device;
}

}  // namespace emulator
