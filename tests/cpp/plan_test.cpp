// How a scan is dealt out to a device, without a device.
#include "ops/plan.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "gpu_limits.h"
#include "ops/cost_model.h"
#include "ops/selective_scan.h"
#include "ops/tuning.h"
#include "platform/error.h"
#include "problem_without_data.h"

namespace mamba_scan::ops {
namespace {

using test::device_with;
using test::memory;
using test::problem_of;

SelectiveScanProblem with_everything(SelectiveScanProblem p) {
  p = test::full(p);
  p.initial_state = {memory, p.dim * p.dstate, p.dstate, 1};
  p.final_state = {memory + 4, p.dim * p.dstate, p.dstate, 1};
  return p;
}

// (re, im) side by side.
SelectiveScanProblem with_complex_states(SelectiveScanProblem p) {
  p.is_complex = true;
  p.A_dim_stride *= 2, p.A_state_stride *= 2, p.A_imag_stride = 1;
  for (ProjectionTensor* tensor : {&p.B, &p.C}) {
    tensor->batch_stride *= 2, tensor->seq_stride *= 2, tensor->state_stride *= 2;
    tensor->imag_stride = 1;
  }
  for (StateTensor* tensor : {&p.initial_state, &p.final_state}) {
    tensor->batch_stride *= 2, tensor->dim_stride *= 2, tensor->state_stride *= 2;
    tensor->imag_stride = 1;
  }
  return p;
}

Index rows_of(const ForwardPlan& plan) { return plan.params.tiles / plan.params.tiles_per_row; }

// The slices hold every state once, all dealt out to warps alike, and only the last one makes outputs.
void expect_consistent_slices(const SelectiveScanProblem& p, const ForwardPlan& plan) {
  Index next = 0;
  for (int i = 0; i < plan.slices; ++i) {
    const SlicePlan slice = slice_of(plan, i);
    const ForwardVariant& v = slice.variant;
    const bool last = i + 1 == plan.slices;
    EXPECT_EQ(v.slice, plan.slices == 1 ? StateSlice::kAll : last ? StateSlice::kLast : StateSlice::kPartial);
    EXPECT_EQ(slice.params.first_slice, plan.slices > 1 && i == 0);
    EXPECT_EQ(v.dstate, slice.params.problem.dstate);
    EXPECT_GE(v.lanes * v.states, v.dstate);
    if (v.kernel() == ScanKernel::kRelay || v.kernel() == ScanKernel::kRelayServed) {  // a power of two for each lane
      EXPECT_LE(v.lanes * v.states, 2 * v.dstate) << "half of the state registers for nothing";
    } else {
      const bool is_padded = v.states > 9 && v.states % 2 == 0;  // from an odd number
      EXPECT_LT(v.lanes * (v.states - 1 - is_padded), v.dstate) << "a state register that no lane needs";
    }
    EXPECT_LE(v.dynamic_shared_bytes() > 0 ? 0 : v.shared_bytes(), std::size_t{48} << 10);
    EXPECT_EQ(v.lanes, plan.variant.lanes);
    EXPECT_EQ(v.channels, plan.variant.channels);
    EXPECT_LE(v.states, plan.variant.states) << "the carries' scratch memory is too small";
    EXPECT_EQ(v.has_d, last && p.D != nullptr);
    EXPECT_EQ(v.has_z, last && p.z.data != nullptr);
    EXPECT_EQ(slice.params.problem.A - p.A, next * p.A_state_stride);
    const auto* B = static_cast<const char*>(plan.params.problem.B.data);
    EXPECT_EQ(static_cast<const char*>(slice.params.problem.B.data) - B,
              next * p.B.state_stride * (p.dtype == DType::kFloat32 ? 4 : 2));
    next += v.dstate;
  }
  EXPECT_EQ(next, p.dstate);
  const Index elements = Index{plan.params.tiles} * plan.variant.tile * plan.variant.warp_channels();
  EXPECT_EQ(plan.partial_sum_bytes, plan.slices > 1 ? static_cast<std::size_t>(elements) * 4 : 0);
}

void expect_consistent(const SelectiveScanProblem& p, const ForwardPlan& plan) {
  const ForwardVariant& v = plan.variant;
  const auto& params = plan.params;
  EXPECT_EQ(32 % v.lanes, 0);
  expect_consistent_slices(p, plan);
  EXPECT_EQ(v.tile % v.unroll, 0);
  EXPECT_EQ(params.channels_per_group, p.dim / p.ngroups);
  EXPECT_GE(Index{params.blocks_per_group} * v.warp_channels(), params.channels_per_group);
  EXPECT_GE(Index{params.tiles_per_row} * v.tile, p.seqlen);
  EXPECT_EQ(rows_of(plan), p.batch * p.ngroups * params.blocks_per_group);
  EXPECT_GE(params.slots, 1);
  EXPECT_LE(params.slots, params.tiles);
  EXPECT_EQ(v.cut || v.wrapped, params.slots != rows_of(plan));
  EXPECT_EQ(plan.carry_state_bytes != 0, v.cut || v.wrapped);
  EXPECT_EQ(plan.carry_delta_bytes * static_cast<std::size_t>(v.states), v.cut ? plan.carry_state_bytes : 0);
  EXPECT_EQ(plan.carry_ready_bytes != 0, v.wrapped);
}

// On an H100 8, 2048, 5120 took 500 us by a warp for every row, and 422 in even shares.
TEST(Plan, SharesOutRowsThatFillNoWholeRounds) {
  const auto plan_of = [](const SelectiveScanProblem& p) { return plan_forward(p, test::h100_report()); };
  for (const bool seq_last : {false, true})
    for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
      const ForwardPlan plan = plan_of(problem_of(8, 2048, 5120, 16, dtype, seq_last));
      EXPECT_EQ(plan.variant.kernel(), ScanKernel::kForward);
      EXPECT_TRUE(plan.variant.wrapped) << "1280 rows of 32 channels";
      EXPECT_EQ(plan.params.slots, 8 * 132) << "two for each scheduler";
      if (dtype != DType::kFloat32) {
        EXPECT_EQ(plan.variant.tile, 32);
      }
    }
  EXPECT_TRUE(plan_of(problem_of(8, 2047, 5120, 16, DType::kFloat16, true)).variant.wrapped);
  EXPECT_FALSE(plan_of(problem_of(8, 2047, 5118)).variant.wrapped) << "rows that share sectors of memory";
}

// On an H200 64, 2048, 1536 took 950 us by a block for every warp, and 884 by one for all 16 of a multiprocessor; 1,
// 131072, 2048 took 1390, and 1292.
TEST(Plan, PutsTheWarpsOfAMultiprocessorIntoOneBlock) {
  const auto plan_of = [](const SelectiveScanProblem& p) { return plan_forward(p, test::h200_report()); };
  for (const bool everything : {false, true}) {
    const auto problem_with = [&](Index batch, Index seqlen, Index dim) {
      const SelectiveScanProblem p = problem_of(batch, seqlen, dim);
      return everything ? with_everything(p) : p;
    };
    for (const auto& p : {problem_with(64, 2048, 1536), problem_with(1, 131072, 2048), problem_with(44, 2048, 1536)}) {
      const ForwardPlan plan = plan_of(p);
      EXPECT_EQ(plan.variant.together, 16) << p.batch;
      EXPECT_EQ(plan.variant.min_blocks, 16) << "one block has all registers";
      EXPECT_EQ(plan.params.slots, 16 * 132);
      EXPECT_EQ(plan.variant.scan_threads(), 512U);
      EXPECT_EQ(plan.variant.scan_blocks(plan.params), 132U);
      EXPECT_EQ(plan.variant.tabulated, everything);
      EXPECT_EQ(plan.variant.dynamic_shared_bytes(), plan.variant.table_bytes() + 16 * plan.variant.shared_bytes());
    }
  }
  const ForwardPlan three = plan_of(problem_of(12, 2048, 4096));
  EXPECT_EQ(three.variant.together, 12) << "1536 rows";
  EXPECT_EQ(three.variant.scan_blocks(three.params), 128U);
  EXPECT_EQ(plan_of(problem_of(8, 2048, 5120)).variant.together, 1) << "two warps of a scheduler";
  EXPECT_EQ(plan_of(problem_of(1, 16384, 768)).variant.together, 1)
      << "carries that gain nothing take half of the time";
  EXPECT_EQ(plan_of(with_complex_states(problem_of(44, 2048, 1536))).variant.together, 1);
  SelectiveScanProblem invariant = problem_of(1, 131072, 2048);
  invariant.chunk_invariant = true;
  EXPECT_EQ(plan_of(invariant).variant.together, 1) << "the plan must not depend on seqlen";
}

// 64, 2048, 1536 with gate, softplus and bias took 1048 us on an H200, and 1010 where they come from a table; 8, 2048,
// 5120, with a table for every eight warps, 490 and 480.
TEST(Plan, TabulatesWhat16BitsRound) {
  const auto variant_of = [](const SelectiveScanProblem& p) { return plan_forward(p, test::h200_report()).variant; };
  const SelectiveScanProblem gated = with_everything(problem_of(64, 2048, 1536));
  EXPECT_TRUE(variant_of(gated).tabulated);
  EXPECT_EQ(variant_of(gated).table_bytes(), 16416U);
  EXPECT_EQ(variant_of(problem_of(64, 2048, 1536)).table_bytes(), 0U);
  const ForwardVariant two = variant_of(with_everything(problem_of(8, 2048, 5120)));
  EXPECT_TRUE(two.tabulated);
  EXPECT_EQ(two.together, 8);
  EXPECT_FALSE(variant_of(with_everything(problem_of(64, 2048, 1536, 16, DType::kFloat32))).tabulated);
  EXPECT_FALSE(plan_forward(gated, test::h100_report(82, 86)).variant.tabulated);
  const ForwardPlan cut = plan_forward(with_everything(problem_of(1, 131072, 2048)), test::h200_report());
  EXPECT_TRUE(cut.variant.tabulated);
  for (const jit::Variant& kernel : kernels_of(cut))
    EXPECT_EQ(kernel.name().find("MS_TABULATED") != std::string::npos, kernel.entry == "selective_scan_forward");
}

TEST(Plan, PutsNoWarpsTogetherThatMemoryHoldsUp) {
  const SelectiveScanProblem steps = with_everything(problem_of(16, 2048, 5120, 16, DType::kBFloat16, true));
  const SelectiveScanProblem wide = problem_of(64, 2048, 1536, 16, DType::kFloat32);
  for (const auto& p : {steps, wide}) {
    EXPECT_GT(plan_forward(p, test::h200_report()).variant.together, 1);
    EXPECT_EQ(plan_forward(p, test::h100_report()).variant.together, 1);
  }
  EXPECT_EQ(plan_forward(problem_of(64, 2048, 1536), test::h100_report()).variant.together, 16);
}

// For tuning: where the model would have it otherwise.
TEST(Plan, PutsWarpsTogetherOrNotWhereItIsAskedFor) {
  const SelectiveScanProblem p = problem_of(64, 2048, 1536, 16, DType::kFloat32);
  for (const bool together : {false, true})
    for (const bool wrapped : {false, true}) {
      const PlanChoice choice{.lanes = 1, .wrapped = wrapped, .together = together};
      const ForwardVariant v = plan_forward(p, test::h100_report(), &choice).variant;
      EXPECT_EQ(v.together > 1, together && wrapped) << "3072 whole rows do not run all at once";
    }
  int together = 0, apart = 0;
  for (const ExpectedChoice& expected : plan_choices(p, test::h100_report()))
    (expected.choice.together ? together : apart) += 1;
  EXPECT_GE(together, 2);
  EXPECT_GE(apart, 20);
}

TEST(Plan, PutsWarpsTogetherOnHopperOnly) {
  for (const int capability : {75, 86, 87, 89, 120})
    for (const auto& p : {problem_of(64, 2048, 1536), problem_of(1, 131072, 2048), problem_of(44, 2048, 1536)})
      EXPECT_EQ(plan_forward(p, test::h100_report(132, capability)).variant.together, 1) << capability;
}

// Where it is asked for, too.
TEST(Plan, SharesOutOnlyWhatIsHandedOnAsOneState) {
  const PlanChoice choice{.lanes = 1, .wrapped = true};
  const auto is_wrapped = [&](auto change, int major = 9) {
    SelectiveScanProblem p = problem_of(8, 2048, 5120);
    change(p);
    driver::DeviceReport device = test::h100_report();
    device.major = major;
    const ForwardVariant v = plan_forward(p, device, &choice).variant;
    return v.kernel() == ScanKernel::kForward && v.wrapped;
  };
  EXPECT_TRUE(is_wrapped([](auto&) {}));
  EXPECT_TRUE(is_wrapped([](auto& p) { p.reverse = true; }));
  EXPECT_TRUE(is_wrapped([](auto&) {}, 7));
  EXPECT_FALSE(is_wrapped([](auto&) {}, 6)) << "whose memory has no order that a flag could stand for";
  EXPECT_FALSE(is_wrapped([](auto& p) { p.chunk_invariant = true; }));
  EXPECT_FALSE(is_wrapped([](auto& p) { p.cu_seqlens = reinterpret_cast<const int*>(memory), p.sequences = 1; }));
  EXPECT_FALSE(is_wrapped([](auto& p) { p.is_complex = true, p.B.imag_stride = p.C.imag_stride = 1; }));
  EXPECT_FALSE(is_wrapped([](auto& p) { p.batch = 1; })) << "160 rows";
}

TEST(Plan, IsConsistentForRandomProblemsOnEveryDeviceSize) {
  std::mt19937 random(20261122);
  const auto pick = [&](Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); };
  for (int sm_count : {8, 16, 36, 82, 128, 132}) {
    for (int i = 0; i < 200; ++i) {
      // One by one: compilers evaluate the arguments of a call in different orders.
      const Index groups = pick(1, 3), batch = pick(1, 9), seqlen = pick(1, 5000), dim = groups * pick(1, 700);
      const Index dstate = pick(0, 3) ? pick(1, 256) : pick(257, 1500);
      const auto dtype = static_cast<DType>(pick(0, 2));
      SelectiveScanProblem p = problem_of(batch, seqlen, dim, dstate, dtype, pick(0, 1) == 1);
      p.ngroups = groups;
      if (pick(0, 1)) p = with_everything(p);
      p.reverse = pick(0, 1) == 1;
      if (pick(0, 3) == 0) p = with_complex_states(p);
      SCOPED_TRACE(std::to_string(sm_count) + " SMs: " + std::to_string(p.batch) + " x " + std::to_string(p.seqlen) +
                   " x " + std::to_string(p.dim) + " x " + std::to_string(p.dstate));
      expect_consistent(p, plan_forward(p, device_with(sm_count, pick(0, 1) ? 90 : 86)));
    }
  }
}

TEST(Plan, FillsEveryDeviceWithOneLongSequence) {
  for (int sm_count : {8, 16, 36, 82, 128, 132}) {
    const ForwardPlan plan = plan_forward(problem_of(1, 131072, 2048), device_with(sm_count));
    EXPECT_GE(plan.params.slots, sm_count * 8) << "fewer than two warps per scheduler";
  }
}

TEST(Plan, RunsManySequencesWhole) {
  const ForwardPlan plan = plan_forward(problem_of(64, 2048, 1536), device_with(132));
  EXPECT_FALSE(plan.variant.cut);
  EXPECT_EQ(plan.variant.lanes, 1);
  EXPECT_EQ(plan.variant.states, 16);
  EXPECT_EQ(plan.variant.channels, 1);
}

// Rows beside each other share sectors of memory where they are not aligned.
TEST(Plan, DealsOutRowsAlikeWhereTheyAreNotAligned) {
  const auto device = device_with(132);
  const auto& shifted = plan_forward(problem_of(2, 99886, 479, 14), device).params;
  EXPECT_GE(shifted.slots_per_row, 2);
  EXPECT_EQ(shifted.slots, shifted.slots_per_row * shifted.tiles / shifted.tiles_per_row);
  const auto& aligned = plan_forward(problem_of(1, 32768, 2048), device).params;  // 64 rows, 1056 slots
  EXPECT_EQ(aligned.slots_per_row, 0) << "a slot more for every second row";
  EXPECT_EQ(plan_forward(problem_of(1, 32768, 2112), device).params.slots_per_row, 16);
}

// What was measured to be fastest on an H200.
TEST(Plan, CutsOneSequenceIntoTwoWarpsPerScheduler) {
  const ForwardPlan plan = plan_forward(problem_of(1, 65536, 512), device_with(132));
  EXPECT_TRUE(plan.variant.cut);
  EXPECT_EQ(plan.variant.lanes, 1);
  EXPECT_EQ(plan.variant.channels, 1);
  EXPECT_EQ(plan.params.slots, 132 * 8);
}

TEST(Plan, FillsAllSchedulersAlikeWhenItCuts) {
  for (int sm_count : {8, 16, 36, 82, 128, 132})
    for (Index seqlen : {16384, 131072})
      for (Index dim : {768, 2048}) {
        const ForwardPlan plan = plan_forward(problem_of(1, seqlen, dim), device_with(sm_count));
        if (sm_count < 36 && !plan.variant.cut) continue;  // whose schedulers whole rows fill
        if (plan.variant.kernel() == ScanKernel::kRelayServed) {
          EXPECT_EQ(seqlen, 16384) << "measured to be faster there only";
          if (plan.variant.cut) {
            EXPECT_EQ(plan.params.slots, sm_count);
          }
          continue;
        }
        EXPECT_FALSE(seqlen == 16384 && sm_count >= 128) << "measured to be faster by relay_served.cu";
        ASSERT_TRUE(plan.variant.cut);
        const int warps = plan.params.slots_per_row == 0 ? plan.params.slots % (4 * sm_count) : 0;
        EXPECT_EQ(warps, 0) << "over: " << sm_count << " SMs, " << seqlen << " x " << dim;
      }
}

TEST(Plan, LetsCarriesRunInAsManyWarpsAsTheScan) {
  for (int capability : {75, 86, 90})
    for (DType dtype : {DType::kFloat32, DType::kFloat16})
      for (bool seq_last : {false, true}) {
        const auto device = device_with(82, capability);
        const ForwardPlan plan =
            plan_forward(with_everything(problem_of(1, 131072, 2048, 16, dtype, seq_last)), device);
        ASSERT_TRUE(plan.variant.cut);
        EXPECT_GE(plan.variant.carry_stages, 2);
        EXPECT_LE(plan.variant.carry_stages, 6);
        EXPECT_NE(plan.variant.carry().name().find("MS_STAGES=" + std::to_string(plan.variant.carry_stages)),
                  std::string::npos);
      }
  EXPECT_EQ(plan_forward(problem_of(1, 65536, 512), device_with(132)).variant.carry_stages, 6);
}

TEST(CostModel, IsWithinATenthOfTheMeasuredClocksPerStep) {
  struct Measured {
    std::int16_t lanes, states, channels;
    std::map<int, double> clocks;  // by warps per scheduler
    double tolerance = 0.105;
  };
  for (const Measured& measured :
       std::vector<Measured>{{1, 16, 1, {{1, 235}, {2, 330}, {3, 475}, {4, 625}}},
                             {1, 16, 2, {{1, 420}, {2, 610}, {3, 895}}, 0.2},  // corrected by hand
                             {2, 8, 1, {{1, 144}, {2, 187}, {5, 416}}},
                             {2, 4, 1, {{2, 122}}},
                             {1, 8, 1, {{1, 125}}},
                             {1, 4, 1, {{1, 90}}}}) {
    ForwardVariant v;
    v.dtype = DType::kFloat16;
    v.lanes = measured.lanes, v.states = measured.states, v.channels = measured.channels;
    v.dstate = static_cast<std::int16_t>(v.lanes * v.states);
    v.tile = v.dstate <= 8 ? 32 : 16;
    for (const auto& [warps, clocks] : measured.clocks)
      EXPECT_NEAR(clocks_per_step(v, warps) / clocks, 1, measured.tolerance)
          << v.states << " states, " << v.channels << " channels, " << warps << " warps";
  }
}

TEST(CostModel, CarriesGetCheaperAsStatesAreForgotten) {
  ForwardVariant v;
  v.dtype = DType::kFloat16;
  v.lanes = 1, v.states = 16, v.channels = 1;
  EXPECT_NEAR(carry_clocks_per_step(v, 2, 993) / 2, 84, 16);              // measured, when states were dropped later
  EXPECT_LE(carry_clocks_per_step(v, 2, 64) / 2, clocks_per_step(v, 1));  // none forgotten
  EXPECT_LT(carry_clocks_per_step(v, 2, 8192), carry_clocks_per_step(v, 2, 993) / 4);
}

TEST(Plan, GivesEverySlotTwoTilesAtLeast) {
  for (Index seqlen : {1, 7, 16, 17, 32, 33, 100, 1000}) {
    const ForwardPlan plan = plan_forward(problem_of(1, seqlen, 64), device_with(132));
    if (plan.variant.cut) {
      EXPECT_GE(plan.params.tiles, 2 * plan.params.slots) << seqlen;
    }
  }
}

TEST(Plan, CountsBeyondTwoToThe31Elements) {
  const SelectiveScanProblem p = problem_of(1, 1638400, 2048);
  ASSERT_GT(p.seqlen * p.dim, Index{1} << 31);
  expect_consistent(p, plan_forward(p, device_with(132)));
}

TEST(Plan, SharedMemoryStaysBelow48KiBForEveryStateCount) {
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16})
    for (bool seq_last : {false, true})
      for (Index dstate = 1; dstate <= 256; ++dstate) {
        const auto p = with_everything(problem_of(8, 4096, 2048, dstate, dtype, seq_last));
        EXPECT_LE(plan_forward(p, device_with(64, 86)).variant.shared_bytes(), std::size_t{48} << 10) << dstate;
      }
}

TEST(Plan, ScansMoreThan64StatesInSlices) {
  const auto sizes = [](Index dstate) {
    const ForwardPlan plan = plan_forward(problem_of(64, 2048, 1536, dstate), device_with(132));
    std::vector<int> out;
    for (int i = 0; i < plan.slices; ++i) out.push_back(slice_of(plan, i).variant.dstate);
    return out;
  };
  EXPECT_EQ(sizes(64), std::vector<int>{64});
  EXPECT_EQ(sizes(65), (std::vector<int>{40, 25}));
  EXPECT_EQ(sizes(256), std::vector<int>(4, 64));
  EXPECT_EQ(sizes(257), (std::vector<int>{56, 56, 56, 56, 33}));
  EXPECT_EQ(sizes(300), (std::vector<int>{64, 64, 64, 64, 44}));
  EXPECT_EQ(sizes(512), std::vector<int>(8, 64));
  EXPECT_EQ(sizes(100000).size(), 1563u);
}

TEST(Plan, ScansFewAndShortSequencesInFewerSlices) {
  const auto slices_of = [](SelectiveScanProblem p) { return plan_forward(p, device_with(132)).slices; };
  EXPECT_EQ(slices_of(problem_of(1, 1024, 256, 128)), 1);
  EXPECT_EQ(slices_of(problem_of(8, 2048, 2048, 128)), 2);
  EXPECT_EQ(slices_of(problem_of(1, 1024, 256, 200)), 2);
  EXPECT_EQ(slices_of(problem_of(1, 256, 256, 500)), 4);
  SelectiveScanProblem invariant = problem_of(1, 1024, 256, 128);
  invariant.chunk_invariant = true;
  EXPECT_EQ(slices_of(invariant), 2) << "what is added up first must not depend on the sequence's length";
  PlanChoice choice;
  for (const std::int16_t slices : {1, 2}) {
    choice.slices = slices;
    EXPECT_EQ(plan_forward(problem_of(1, 1024, 256, 128), device_with(132), &choice).slices, slices);
  }
  choice.slices = 99;
  EXPECT_EQ(plan_forward(problem_of(1, 1024, 256, 128), device_with(132), &choice).slices, 2);
}

// From nine on; fewer are not worth the padding.
TEST(Plan, PadsAnOddNumberOfStatesInALane) {
  for (const auto& [dstate, held] : {std::pair{5, 5}, {7, 7}, {13, 14}, {15, 16}, {26, 14}, {14, 14}}) {
    const ForwardVariant v = plan_forward(problem_of(16, 1003, 3588, dstate), device_with(132)).variant;
    EXPECT_EQ(v.states, held) << dstate;
  }
}

TEST(Plan, SlicesReadBAndCInVectorsWhereTheWholeCould) {
  const auto p = problem_of(2, 100, 64, 512);
  const ForwardPlan plan = plan_forward(p, device_with(132));
  for (int i = 0; i < plan.slices; ++i) EXPECT_EQ(slice_of(plan, i).variant.b_order, ProjectionOrder::kStates) << i;
}

TEST(Plan, ScansComplexStatesWhole) {
  for (int sm_count : {8, 16, 36, 82, 128, 132}) {
    const ForwardPlan plan = plan_forward(with_complex_states(problem_of(1, 131072, 64)), device_with(sm_count));
    EXPECT_TRUE(plan.variant.is_complex);
    EXPECT_FALSE(plan.variant.cut) << sm_count;
    EXPECT_LE(plan.variant.states * plan.variant.channels, 8) << "more do not fit the registers";
  }
  EXPECT_EQ(plan_forward(with_complex_states(problem_of(2, 100, 64, 64)), device_with(132)).slices, 1);
  EXPECT_EQ(plan_forward(with_complex_states(problem_of(2, 100, 64, 65)), device_with(132)).slices, 2);
}

TEST(Plan, ReadsComplexBAndCInVectorsWherePairsAreSideBySide) {
  auto p = with_complex_states(problem_of(2, 64, 64));
  const auto order = [&] { return plan_forward(p, device_with(132)).variant.b_order; };
  EXPECT_EQ(order(), ProjectionOrder::kStates);
  p.B.imag_stride = 16, p.B.state_stride = 1;  // all real parts first
  EXPECT_EQ(order(), ProjectionOrder::kStrided);
  p = with_complex_states(problem_of(2, 64, 64, 16, DType::kFloat16, true));  // pairs of steps are adjacent
  EXPECT_EQ(order(), ProjectionOrder::kStrided);
}

// Another part of the sequence may be read after the last one has been written.
TEST(Plan, DoesNotCutASequenceWhoseFinalStateReplacesTheInitialOne) {
  auto p = problem_of(1, 131072, 64);
  static float states[1];
  p.initial_state = p.final_state = {states, 64 * 16, 16, 1};
  EXPECT_FALSE(plan_forward(p, device_with(132)).variant.cut);
  p.final_state.data = memory;
  EXPECT_TRUE(plan_forward(p, device_with(132)).variant.cut);
}

TEST(Plan, CountsBeyondThe65535BlocksOfAGridsOtherAxes) {
  for (const auto& p : {problem_of(70001, 3, 5), problem_of(1, 3, 70001), problem_of(66000, 2, 66000)})
    expect_consistent(p, plan_forward(p, device_with(132)));
}

TEST(Plan, ReadsTheLayoutFromTheStrides) {
  EXPECT_FALSE(plan_forward(problem_of(2, 64, 64), device_with(132)).variant.seq_contiguous);
  EXPECT_TRUE(plan_forward(problem_of(2, 64, 64, 16, DType::kFloat16, true), device_with(132)).variant.seq_contiguous);
  // One step is adjacent to anything.
  EXPECT_FALSE(plan_forward(problem_of(2, 1, 64, 16, DType::kFloat16, true), device_with(132)).variant.seq_contiguous);
}

TEST(Plan, MovesInWindowsOrWordsWhatIsNotAlignedAndByElementWhatIsNotAdjacent) {
  const auto device = device_with(132);
  const SelectiveScanProblem p = problem_of(64, 2048, 1536, 32);  // lanes share channels: none moves them itself
  EXPECT_EQ(plan_forward(p, device).variant.u_access, Access::kVectors);

  SelectiveScanProblem shifted = p;
  shifted.u.data = reinterpret_cast<char*>(memory) + 2;
  const ForwardVariant v = plan_forward(shifted, device).variant;
  EXPECT_EQ(v.u_access, Access::kWindows);
  EXPECT_EQ(v.y_access, Access::kWords) << "y is stored from where u lies some elements further on";
  EXPECT_EQ(v.delta_access, Access::kVectors) << "the others keep their speed";
  EXPECT_EQ(v.channels, 1) << "a lane's channels would not begin with a word";

  SelectiveScanProblem odd_pitch = p;
  odd_pitch.delta.seq_stride = 1537;
  EXPECT_EQ(plan_forward(odd_pitch, device).variant.delta_access, Access::kWindows);

  SelectiveScanProblem fused = p;  // a view of a projection twice as wide
  fused.u.seq_stride = 2 * 1536;
  EXPECT_EQ(plan_forward(fused, device).variant.u_access, Access::kVectors);

  SelectiveScanProblem odd_batch = p;
  odd_batch.y.batch_stride += 1;
  EXPECT_EQ(plan_forward(odd_batch, device).variant.y_access, Access::kWords);

  SelectiveScanProblem across = p;  // a gate laid out along the sequence beside inputs along the channels
  across.z = {memory, 2048 * 1536, 1, 2048};
  EXPECT_EQ(plan_forward(across, device).variant.z_access, Access::kElementwise);

  SelectiveScanProblem groups = problem_of(8, 2048, 3 * 37);
  groups.ngroups = 3;  // groups begin 37 elements apart, and rows 111
  EXPECT_NE(plan_forward(groups, device).variant.u_access, Access::kVectors);

  SelectiveScanProblem odd_states = problem_of(8, 2048, 64, 13);
  const auto unprepared = [&](const SelectiveScanProblem& scan) {
    return plan_forward(scan, device, nullptr, Preparation::kNever).variant;
  };
  EXPECT_EQ(unprepared(odd_states).b_order, ProjectionOrder::kStates);
  EXPECT_EQ(unprepared(odd_states).b_access, Access::kWords);

  const SelectiveScanProblem odd_length = problem_of(64, 2047, 640, 16, DType::kFloat16, true);
  EXPECT_NE(unprepared(odd_length).u_access, Access::kVectors);
  EXPECT_EQ(unprepared(odd_length).b_order, ProjectionOrder::kSteps);
  EXPECT_EQ(unprepared(odd_length).b_access, Access::kWords);
  EXPECT_EQ(unprepared(problem_of(8, 2047, 5120, 4, DType::kFloat16, true)).u_access, Access::kWindows);
  EXPECT_EQ(unprepared(problem_of(8, 2047, 5120, 64, DType::kFloat16, true)).u_access, Access::kWords) << "long tiles";
  EXPECT_EQ(unprepared(problem_of(8, 2047, 5120, 4, DType::kFloat32, true)).u_access, Access::kWords);
}

TEST(Plan, LongRowsOfStepsThatBeginAnywhereAreMovedInLongWindows) {
  const auto device = device_with(132);
  const auto variant_of = [&](Index seqlen, Index dstate) {
    const PlanChoice choice{.lanes = static_cast<std::int16_t>(dstate / 16)};  // other kernels have short rows
    return plan_forward(problem_of(128, seqlen, 1024, dstate, DType::kBFloat16, true), device, &choice).variant;
  };
  for (const Index dstate : {16, 32}) {
    const ForwardVariant v = variant_of(1025, dstate);
    EXPECT_EQ(v.states, 16);
    EXPECT_EQ(v.u_access, Access::kWindows);
    EXPECT_EQ(v.tile, 32);
    EXPECT_EQ(v.min_blocks, 8) << "as many for every scheduler, with all registers";
  }
  EXPECT_EQ(variant_of(1024, 16).tile, 16) << "aligned";
  EXPECT_EQ(variant_of(49, 16).u_access, Access::kWords) << "two such tiles, of few warps at a time";
}

TEST(Plan, ReversesASingleStepOfAnyStride) {
  SelectiveScanProblem p = problem_of(2, 1, 64, 1);
  p.reverse = true;
  p.B.seq_stride = 5;
  const SelectiveScanProblem reversed = plan_forward(p, device_with(132)).params.problem;
  EXPECT_EQ(reversed.B.data, p.B.data);
  EXPECT_EQ(reversed.B.seq_stride, -1) << "by which a tile of steps begins where its last one lies";
}

TEST(Plan, ReversesByStridesFromTheLastStepOn) {
  const auto device = device_with(132);
  const auto offset = [](const void* from) { return static_cast<const char*>(from) - reinterpret_cast<char*>(memory); };
  for (const bool seq_last : {false, true}) {
    SelectiveScanProblem p = problem_of(2, 64, 48, 16, DType::kFloat16, seq_last);
    const ForwardPlan forward = plan_forward(p, device);
    p.reverse = true;
    const ForwardPlan reverse = plan_forward(p, device);
    EXPECT_EQ(offset(reverse.params.problem.u.data), 63 * (seq_last ? 1 : 48) * 2);
    EXPECT_EQ(offset(reverse.params.problem.B.data), 63 * (seq_last ? 1 : 16) * 2);
    EXPECT_EQ(reverse.params.problem.y.seq_stride, seq_last ? -1 : -48);
    // As fast: what is accessed in vectors, and everything else, is as for a forward scan.
    ForwardVariant same = forward.variant;
    same.reverse = seq_last;
    EXPECT_EQ(same.u_access, Access::kVectors);
    EXPECT_EQ(same.y_access, Access::kVectors);
    EXPECT_TRUE(same == reverse.variant) << reverse.variant.scan().name();
  }
}

TEST(Plan, FindsTheAlignmentOfReversedSteps) {
  const auto device = device_with(132);
  SelectiveScanProblem p = problem_of(1, 64, 48, 16, DType::kFloat16, true);
  p.reverse = true;
  p.seqlen = 61;  // of rows that stay 64 apart: the last step, where tiles begin, ends no vector
  EXPECT_EQ(plan_forward(p, device).variant.u_access, Access::kWindows);
  p.u.data = p.y.data = reinterpret_cast<char*>(memory) + 6;
  EXPECT_EQ(plan_forward(p, device).variant.u_access, Access::kVectors);
  EXPECT_EQ(plan_forward(p, device).variant.y_access, Access::kVectors);
  EXPECT_EQ(plan_forward(p, device).variant.delta_access, Access::kWindows);
  p.B = {memory, 0, 0, 0, 1, true};
  EXPECT_EQ(plan_forward(p, device).params.problem.B.data, memory) << "what is constant has no last step";
}

// Without how tensors are read and written, which does not change what is added up in which order.
ForwardVariant arithmetic_of(ForwardVariant v) {
  v.u_access = v.delta_access = v.z_access = v.y_access = v.b_access = v.c_access = Access::kVectors;
  v.cut = v.prepared = false;
  v.carry_stages = 2;
  v.b_order = v.c_order = ProjectionOrder::kStates;
  return v;
}

TEST(Plan, CutsInvariantScansAtTheSameStepsWhateverTheirLength) {
  std::mt19937 random(20261123);
  const auto pick = [&](Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); };
  int cut = 0, whole = 0;
  for (int i = 0; i < 300; ++i) {
    const auto device = test::h100_report(static_cast<int>(pick(1, 140)), pick(0, 1) ? 90 : 86);
    const bool seq_last = pick(0, 1) == 1, with_all = pick(0, 1) == 1;
    const Index batch = pick(1, 9), dim = pick(1, 3000), dstate = pick(1, 300);
    const auto dtype = static_cast<DType>(pick(0, 2));
    const auto plan_of = [&](Index seqlen) {
      SelectiveScanProblem p = problem_of(batch, seqlen, dim, dstate, dtype, seq_last);
      if (with_all) p = test::full(p);
      p.chunk_invariant = true;
      // Each call's tensors begin somewhere else.
      for (SequenceTensor* tensor : {&p.u, &p.delta, &p.z, &p.y})
        if (tensor->data != nullptr) tensor->data = reinterpret_cast<char*>(memory) + 4 * pick(0, 7);
      for (ProjectionTensor* tensor : {&p.B, &p.C}) tensor->data = reinterpret_cast<char*>(memory) + 4 * pick(0, 7);
      return plan_forward(p, device);
    };
    const ForwardPlan longest = plan_of(1 << 15);
    const Index segment = Index{longest.params.segment_tiles} * longest.variant.tile;
    SCOPED_TRACE(std::to_string(batch) + " x " + std::to_string(dim) + " x " + std::to_string(dstate));
    (longest.variant.cut ? cut : whole) += 1;
    if (longest.variant.cut) {
      EXPECT_EQ(kInvariantSteps % segment, 0);
    }
    for (const Index seqlen :
         {Index{1}, Index{2}, pick(1, 255), Index{255}, Index{2048}, pick(2049, 1 << 15), Index{4097}}) {
      const ForwardPlan plan = plan_of(seqlen);
      const Index rows = rows_of(plan);
      EXPECT_EQ(rows, rows_of(longest));
      EXPECT_EQ(plan.params.slots, rows * plan.params.slots_per_row);
      EXPECT_TRUE(arithmetic_of(plan.variant) == arithmetic_of(longest.variant)) << "at " << seqlen << " steps";
      if (!longest.variant.cut) {
        EXPECT_FALSE(plan.variant.cut);
        EXPECT_EQ(plan.params.slots_per_row, 1);
        continue;
      }
      EXPECT_EQ(plan.variant.cut, seqlen >= segment);
      EXPECT_EQ(Index{plan.params.segment_tiles} * plan.variant.tile, segment);
      EXPECT_EQ(plan.params.slots_per_row, (seqlen + segment - 1) / segment);
      EXPECT_EQ(plan.carry_state_bytes != 0, plan.variant.cut);
    }
  }
  EXPECT_GT(cut, 50);
  EXPECT_GT(whole, 5);
}

TEST(Plan, IsExpectedToTakeAQuarterLongerAtMostWhenInvariant) {
  for (const int sm_count : {128, 132}) {
    SelectiveScanProblem p = problem_of(1, 131072, 2048);
    const double free = plan_forward(p, device_with(sm_count)).clocks;
    p.chunk_invariant = true;
    EXPECT_LE(plan_forward(p, device_with(sm_count)).clocks, 1.25 * free) << sm_count << " multiprocessors";
  }
}

TEST(Plan, RunsTheSameKernelsWithAndWithoutStatesWhenInvariant) {
  const auto device = device_with(132);
  SelectiveScanProblem p = problem_of(1, 8192, 2048);
  p.chunk_invariant = true;
  SelectiveScanProblem with_states = p;
  with_states.initial_state = with_states.final_state = {memory, 0, 16, 1};
  EXPECT_TRUE(plan_forward(p, device).variant == plan_forward(with_states, device).variant);
  const SlicePlan slice = slice_of(plan_forward(p, device), 0);
  ASSERT_TRUE(slice.variant.cut);
  // A lane for every state of every channel, padding included.
  EXPECT_EQ(Index{compose_blocks(slice)} * kForwardBlockThreads, 2048 * slice.variant.lanes * slice.variant.states);
}

TEST(Plan, CutsPackedRowsInTimeUnlessTheyMustBeInvariant) {
  const auto device = device_with(132);
  static const int boundaries[] = {0, 10, 131072};
  SelectiveScanProblem p = problem_of(1, 131072, 64);
  p.cu_seqlens = boundaries;
  p.sequences = 2;
  const ForwardPlan packed = plan_forward(p, device);
  EXPECT_TRUE(packed.variant.packed && packed.variant.cut);
  expect_consistent(p, packed);
  p.chunk_invariant = true;
  const ForwardPlan invariant = plan_forward(p, device);
  EXPECT_FALSE(invariant.variant.cut);
  EXPECT_EQ(invariant.params.slots, rows_of(invariant));
}

TEST(Plan, ReadsTheOrderOfBAndC) {
  const auto order = [](const SelectiveScanProblem& p) {
    return plan_forward(p, device_with(132), nullptr, Preparation::kNever).variant.b_order;
  };
  EXPECT_EQ(order(problem_of(2, 64, 64)), ProjectionOrder::kStates);
  EXPECT_EQ(order(problem_of(2, 64, 64, 16, DType::kFloat16, true)), ProjectionOrder::kSteps);
  SelectiveScanProblem p = problem_of(2, 64, 64);
  p.B.seq_stride = 17;
  EXPECT_EQ(order(p), ProjectionOrder::kStates);
  p.B.state_stride = 2;
  EXPECT_EQ(order(p), ProjectionOrder::kStrided);
  p.B = {memory, 0, 0, 16, 1, true};
  EXPECT_EQ(order(p), ProjectionOrder::kConstant);
}

bool is_prepared(const SelectiveScanProblem& p, Preparation preparation = Preparation::kAuto) {
  return plan_forward(p, device_with(132), nullptr, preparation).variant.prepared;
}

TEST(Plan, PreparesBAndCWhereManyWarpsReadThemForLong) {
  EXPECT_TRUE(is_prepared(problem_of(64, 2048, 1536, 64)));
  EXPECT_TRUE(is_prepared(problem_of(1, 131072, 2048, 16, DType::kFloat16, true)));
  EXPECT_FALSE(is_prepared(problem_of(1, 131072, 2048))) << "a warp reads 16 adjacent states at no cost to others";
  EXPECT_FALSE(is_prepared(problem_of(64, 2048, 64))) << "two warps at most would share each B";
  EXPECT_FALSE(is_prepared(problem_of(64, 64, 1536))) << "over before another launch has begun";
  EXPECT_FALSE(is_prepared(problem_of(1, 1, 1536)));
}

TEST(Plan, PreparesBAndCSoonerWhereTheyAreDearToRead) {
  const auto shortest = [](SelectiveScanProblem p, Index offset, Index state_stride) {
    p.B.data = p.C.data = reinterpret_cast<char*>(memory) + offset;
    p.B.state_stride = p.C.state_stride = state_stride;
    while (!is_prepared(p)) p.seqlen += 16;
    return p.seqlen;
  };
  const SelectiveScanProblem p = problem_of(4, 16, 1536, 64);
  const Index aligned = shortest(p, 0, 1), shifted = shortest(p, 2, 1), strided = shortest(p, 0, 2);
  EXPECT_GT(aligned, 2 * shifted);
  EXPECT_GT(shifted, strided);
}

TEST(Plan, PreparesNoComplexBAndCNorConstantOnes) {
  const SelectiveScanProblem p = problem_of(64, 2048, 1536);
  for (const Preparation preparation : {Preparation::kAuto, Preparation::kAlways}) {
    EXPECT_FALSE(is_prepared(with_complex_states(p), preparation));
    SelectiveScanProblem constant = p;
    constant.B = {memory, 0, 0, 16, 1, true};
    EXPECT_FALSE(is_prepared(constant, preparation));
    constant.C = constant.B, constant.B = p.B;
    EXPECT_FALSE(is_prepared(constant, preparation));
    EXPECT_FALSE(is_prepared(problem_of(64, 0, 1536), preparation));
  }
  EXPECT_FALSE(is_prepared(p, Preparation::kNever));
}

TEST(Plan, PreparesOnlyWhereAsManyWarpsStayResident) {
  SelectiveScanProblem p = problem_of(64, 2048, 1536, 64);
  const PlanChoice many_stages = {.lanes = 4, .tile = 16, .stages = 8};
  const auto device = device_with(132, 86);
  EXPECT_TRUE(plan_forward(p, device).variant.prepared);
  EXPECT_FALSE(plan_forward(p, device, &many_stages).variant.prepared);
}

TEST(Plan, KeepsPreparedBAndCOfEveryGroupInWholeTiles) {
  SelectiveScanProblem p = problem_of(3, 1001, 768, 13);
  p.ngroups = 2;
  const ForwardPlan plan = plan_forward(p, device_with(132), nullptr, Preparation::kAlways);
  const ForwardVariant& v = plan.variant;
  const Index steps = Index{plan.params.tiles_per_row} * v.tile, states = v.lanes * v.states;
  const auto bytes = static_cast<std::size_t>(3 * 2 * steps * states * 4);
  EXPECT_EQ(plan.prepared_bytes, (bytes + 255) / 256 * 256);
  const ForwardPlan plain = plan_forward(p, device_with(132), nullptr, Preparation::kNever);
  EXPECT_EQ(plain.prepared_bytes, 0u);
  EXPECT_EQ(plain.params.slots, plan.params.slots) << "the rest of the plan is the same";
}

// A block for every 8 KB of fp32: 128 steps of 16 states.
TEST(Plan, PreparesEveryStepOfEveryTensor) {
  const auto blocks = [](const ForwardPlan& plan, int slice) { return prepare_blocks(slice_of(plan, slice)); };
  const auto plan_of = [](const SelectiveScanProblem& p) {
    return plan_forward(p, device_with(132), nullptr, Preparation::kAlways);
  };
  EXPECT_EQ(blocks(plan_of(problem_of(64, 2048, 1536)), 0), 2u * 64 * 16);
  EXPECT_EQ(blocks(plan_of(problem_of(64, 2049, 1536)), 0), 2u * 64 * 17);
  const ForwardPlan slices = plan_of(problem_of(64, 2048, 1536, 300));  // 64 states each but the last, of 44
  ASSERT_EQ(slices.slices, 5);
  for (int i = 0; i < slices.slices; ++i) {
    EXPECT_TRUE(slice_of(slices, i).variant.prepared);
    EXPECT_EQ(blocks(slices, i), 2u * 64 * 64) << i;
  }
}

TEST(Plan, PreparedKernelsDoNotDependOnHowBAndCLieInMemory) {
  const auto device = device_with(132);
  const SelectiveScanProblem p = problem_of(1, 131072, 512);
  SelectiveScanProblem other = p;
  other.B.state_stride = 131072, other.B.seq_stride = 1;
  other.C.data = reinterpret_cast<char*>(memory) + 2;
  const ForwardVariant one = plan_forward(p, device, nullptr, Preparation::kAlways).variant;
  EXPECT_TRUE(one == plan_forward(other, device, nullptr, Preparation::kAlways).variant);
  EXPECT_TRUE(one.cut);
  EXPECT_NE(one.carry(), plan_forward(p, device, nullptr, Preparation::kNever).variant.carry());
  EXPECT_EQ(one.prepare(), plan_forward(with_everything(p), device, nullptr, Preparation::kAlways).variant.prepare());
}

TEST(Plan, CarriesDoNotDependOnWhatOnlyOutputsNeed) {
  const auto device = device_with(132);
  SelectiveScanProblem p = problem_of(1, 131072, 2048);
  SelectiveScanProblem gated = p;
  gated.z = gated.u;
  gated.D = memory;
  gated.final_state = {memory, 0, 16, 1};
  const ForwardVariant plain = plan_forward(p, device).variant, other = plan_forward(gated, device).variant;
  ASSERT_TRUE(plain.cut);
  EXPECT_EQ(plain.carry(), other.carry());
  EXPECT_NE(plain.scan(), other.scan());
}

TEST(Plan, CountsTheWorkOfTheRoof) {
  const Work work = forward_work(problem_of(2, 100, 32));
  EXPECT_EQ(work.exps, 2 * 100 * 32 * 16);
  EXPECT_EQ(work.bytes, 2 * 100 * (3 * 32 + 2 * 16) * 2 + 32 * 16 * 4);
  const Work gated = forward_work(with_everything(problem_of(2, 100, 32)));
  EXPECT_EQ(gated.bytes - work.bytes, 2 * 100 * 32 * 2 + 2 * (2 * 32 * 16 * 4) + 2 * 32 * 4);
}

template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const ArgumentError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Plan, NamesWhatItCannotServe) {
  const auto refusal = [](const SelectiveScanProblem& p) {
    return message_of([&] { plan_forward(p, device_with(132)); });
  };
  EXPECT_NE(refusal(problem_of(Index{1} << 40, 1, 8)).find("batch * dim"), std::string::npos);
  const std::string needed = ", needed at most 2^31 - 1 on a GPU";
  EXPECT_EQ(refusal(problem_of(1, 1, Index{1} << 31)), "dim: got 2147483648" + needed);
  EXPECT_EQ(refusal(problem_of(1, 1, (Index{1} << 32) + 64)), "dim: got 4294967360" + needed);
}

TEST(Check, NamesTheArgumentWhatCameAndWhatIsNeeded) {
  const auto refusal = [](const SelectiveScanProblem& p) { return message_of([&] { check(p); }); };
  EXPECT_EQ(refusal(problem_of(1, 8, 8)), "no error");
  EXPECT_EQ(refusal(problem_of(0, 8, 8)), "no error");
  EXPECT_EQ(refusal(problem_of(-1, 8, 8)), "batch: got -1, needed at least 0");
  EXPECT_EQ(refusal(problem_of(1, 8, 8, 0)), "dstate: got 0, needed at least 1");
  SelectiveScanProblem p = problem_of(1, 8, 8);
  p.ngroups = 3;
  EXPECT_EQ(refusal(p), "ngroups: got 3, needed a divisor of dim = 8");
  p = problem_of(1, 8, 8);
  p.delta.data = nullptr;
  EXPECT_EQ(refusal(p), "delta: got a null pointer, needed 64 elements");
}

}  // namespace
}  // namespace mamba_scan::ops
