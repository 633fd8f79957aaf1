// Which scans get warps that others move tiles for, and how they are dealt out to them, without a device.
#include <gtest/gtest.h>

#include "gpu_limits.h"
#include "ops/plan.h"
#include "ops/tuning.h"
#include "problem_without_data.h"
#include "random_plans.h"

namespace mamba_scan::ops {
namespace {

using test::device_with;
using test::memory;
using test::problem_of;

void expect_consistent(const SelectiveScanProblem& p, const ForwardPlan& plan, const driver::DeviceReport& device) {
  const ForwardVariant& v = plan.variant;
  SCOPED_TRACE(v.scan().name());
  EXPECT_EQ(v.scan().entry, "selective_scan_served");
  EXPECT_EQ(v.scan_threads(), 256u);
  EXPECT_EQ(v.warps, 1);
  EXPECT_EQ(v.stages, 4);
  EXPECT_EQ(v.tile % v.unroll, 0);
  EXPECT_LE(v.states * v.channels, 16);
  EXPECT_LE(v.dynamic_shared_bytes(), device.shared_per_block_optin);
  EXPECT_LE(v.min_blocks * (v.dynamic_shared_bytes() + 1024), device.shared_per_sm);
  EXPECT_EQ(plan.slices, 1);
  EXPECT_FALSE(v.prepared) << "the serving warp expands B and C";
  const auto& params = plan.params;
  const int rows = params.tiles / params.tiles_per_row;
  EXPECT_FALSE(v.cut);
  EXPECT_EQ(v.wrapped, params.slots < rows) << "otherwise a pair for every row";
  if (v.wrapped) {
    EXPECT_EQ(params.slots, 4 * v.min_blocks * device.sm_count) << "as many as run at a time";
  }
  EXPECT_GE(4 * v.scan_blocks(params), static_cast<unsigned>(params.slots));
  EXPECT_LT(4 * (v.scan_blocks(params) - 1), static_cast<unsigned>(params.slots));
  const auto handed_on = static_cast<std::size_t>(v.wrapped ? params.slots : 0);  // states
  EXPECT_EQ(plan.carry_state_bytes, handed_on * 32 * static_cast<std::size_t>(v.channels * v.states) * sizeof(float));
  EXPECT_EQ(plan.carry_ready_bytes, handed_on * sizeof(unsigned));
  EXPECT_GE(Index{params.tiles_per_row} * v.tile, p.seqlen);
}

TEST(ServedPlan, IsConsistentForRandomProblemsOnEveryDeviceSize) {
  test::expect_of_random_plans(
      20261126, {.batch = 9, .seqlen = 9000, .channels_of_group = 900, .dstate = 16, .fewest_steps = 100},
      ScanKernel::kServed, 100,
      [](int i) {
        return PlanChoice{.lanes = static_cast<std::int16_t>(1 + i / 2 % 2), .served = true, .wrapped = i / 4 % 2 == 1};
      },
      expect_consistent);
}

TEST(ServedPlan, TakesAboutAsManyRowsAsThereAreSchedulers) {
  const auto device = device_with(132);
  for (const bool seq_last : {false, true}) {
    const auto taken = [&](Index batch, Index seqlen, Index dim, Index dstate) {
      return plan_forward(problem_of(batch, seqlen, dim, dstate, DType::kFloat16, seq_last), device).variant.kernel() ==
             ScanKernel::kServed;
    };
    EXPECT_TRUE(taken(8, 2048, 2048, 4));
    EXPECT_TRUE(taken(8, 2048, 2048, 8));
    EXPECT_TRUE(taken(4, 2048, 2048, 16)) << "two lanes of a channel";
    EXPECT_TRUE(taken(1, 64, 4096, 16)) << "four lanes of a channel";
    EXPECT_FALSE(taken(64, 2048, 1536, 16)) << "there are enough warps without";
    EXPECT_TRUE(taken(4, 2048, 5120, 16)) << "three blocks of two lanes for each multiprocessor";
    EXPECT_FALSE(taken(8, 2048, 5120, 16)) << "rows of one lane are enough to be shared out";
    EXPECT_FALSE(taken(16, 2048, 5120, 16)) << "there are enough warps without";
    EXPECT_FALSE(plan_forward(problem_of(8, 2048, 5120, 16, DType::kFloat32, seq_last), device).variant.served)
        << "tiles are half as long";
    EXPECT_FALSE(taken(1, 131072, 2048, 16)) << "more shares of a sequence are faster";
    EXPECT_FALSE(taken(1, 1024, 2048, 16)) << "turns are faster";
    EXPECT_FALSE(taken(8, 2048, 2048, 64)) << "too much to expand";
  }
}

// On an H100 4, 2048, 5120 with everything took 328 us by a pair for every row, and 270 in even shares.
TEST(ServedPlan, SharesOutRowsThatFillNoWholeRounds) {
  const auto wrapped = [](Index batch, Index seqlen, bool seq_last, Index dim = 5120) {
    const ForwardPlan plan =
        plan_forward(test::full(problem_of(batch, seqlen, dim, 16, DType::kBFloat16, seq_last)), test::h100_report());
    return plan.variant.kernel() == ScanKernel::kServed && plan.variant.wrapped;
  };
  EXPECT_TRUE(wrapped(4, 2048, true)) << "1280 rows, 1056 of which run at a time";
  EXPECT_TRUE(wrapped(2, 2048, true)) << "640 rows, 528 of which run at a time";
  EXPECT_TRUE(wrapped(4, 1001, true, 2560)) << "rows that begin anywhere, a block at a time";
  EXPECT_FALSE(wrapped(8, 1001, true, 2560)) << "or two";
  EXPECT_FALSE(wrapped(4, 2048, false)) << "rows of a step that are half of what memory reads at once";
  EXPECT_FALSE(wrapped(4, 2048, true, 2048)) << "512 rows";
}

TEST(ServedPlan, HasTwoBlocksAtOnceWhereThereAreMoreRowsThanSchedulers) {
  const auto device = device_with(132);
  const PlanChoice served{.lanes = 1, .served = true};
  const auto blocks_of = [&](Index dim, Index dstate) {
    const ForwardPlan plan = plan_forward(problem_of(8, 2048, dim, dstate), device, &served);
    EXPECT_TRUE(plan.variant.served);
    return plan.variant.min_blocks;
  };
  EXPECT_EQ(blocks_of(2048, 8), 1) << "512 rows for 528 schedulers";
  EXPECT_EQ(blocks_of(4096, 8), 2);
  EXPECT_EQ(blocks_of(4096, 16), 1) << "whose registers leave room for one";
}

TEST(ServedPlan, TakesShorterTilesWhereSharedMemoryIsShort) {
  const PlanChoice served{.lanes = 1, .served = true};
  for (const bool seq_last : {false, true}) {
    SelectiveScanProblem p = problem_of(8, 2048, 256, seq_last ? 8 : 4, DType::kFloat16, seq_last);
    p.z = p.u;
    const ForwardPlan large = plan_forward(p, device_with(36, 90), &served),
                      small = plan_forward(p, device_with(36, 86), &served);
    EXPECT_TRUE(large.variant.served && small.variant.served);
    EXPECT_EQ(large.variant.tile, 32);
    EXPECT_EQ(small.variant.tile, 16);
  }
}

// As measured: 8, 2048, 2048 of 8 states took 105 us by tiles of 16 steps and 110 by 32; of 4 states 83 and 99; where
// steps are adjacent, of 4 states 105 us by 32 and 87 by 64; where these rows begin anywhere, 4, 1001, 2048 of 16
// states 101 us by 16 and 78 by 32.
TEST(ServedPlan, HasTheFastestTile) {
  const auto tile_of = [](Index dstate, DType dtype, bool seq_last) {
    const auto plan = plan_forward(problem_of(8, 2048, 2048, dstate, dtype, seq_last), device_with(132));
    EXPECT_TRUE(plan.variant.served);
    return plan.variant.tile;
  };
  EXPECT_EQ(tile_of(4, DType::kFloat16, false), 32);
  EXPECT_EQ(tile_of(8, DType::kFloat16, false), 16);
  EXPECT_EQ(tile_of(4, DType::kFloat16, true), 64);
  EXPECT_EQ(tile_of(8, DType::kFloat16, true), 32);
  EXPECT_EQ(tile_of(8, DType::kFloat32, false), 16);

  const auto unaligned = plan_forward(problem_of(4, 1001, 2048, 16, DType::kFloat16, true), device_with(132));
  EXPECT_TRUE(unaligned.variant.served);
  EXPECT_EQ(unaligned.variant.tile, 32);
  EXPECT_EQ(unaligned.variant.b_access, Access::kWindows);
}

// Not even where it is asked for.
TEST(ServedPlan, LeavesWhatTheKernelDoesNotServe) {
  const auto is_served = [&](auto change, int capability = 90) {
    SelectiveScanProblem p = problem_of(4, 512, 512, 8);
    change(p);
    for (const std::int16_t lanes : {1, 2, 4}) {
      const PlanChoice choice{.lanes = lanes, .served = true};
      if (plan_forward(p, device_with(36, capability), &choice).variant.served) return true;
    }
    return false;
  };
  EXPECT_TRUE(is_served([](auto&) {}));
  EXPECT_TRUE(is_served([](auto& p) { p.reverse = true; }));
  EXPECT_TRUE(is_served([](auto& p) { p.B.constant = true; }));
  EXPECT_TRUE(is_served([](auto& p) { p.u.data = reinterpret_cast<char*>(memory) + 2; })) << "element by element";
  EXPECT_TRUE(is_served([](auto& p) { p.initial_state = p.final_state = {memory, 0, 8, 1}; }));
  EXPECT_FALSE(is_served([](auto&) {}, 75)) << "copies go through registers";
  EXPECT_FALSE(is_served([](auto& p) { p.is_complex = true, p.B.imag_stride = p.C.imag_stride = 1; }));
  EXPECT_FALSE(is_served([](auto& p) { p.chunk_invariant = true; }));
  EXPECT_FALSE(is_served([](auto& p) { p.cu_seqlens = reinterpret_cast<const int*>(memory), p.sequences = 1; }));
  EXPECT_FALSE(is_served([](auto& p) { p.dstate = 17; }));
  EXPECT_FALSE(is_served([](auto& p) { p.seqlen = 0; }));
}

TEST(ServedPlan, IsTriedByTuningAndFoundAgain) {
  const auto device = device_with(132);
  const SelectiveScanProblem p = problem_of(8, 2048, 2048, 8);
  int served = 0;
  for (const ExpectedChoice& expected : plan_choices(p, device)) {
    const ForwardPlan plan = plan_forward(p, device, &expected.choice);
    EXPECT_EQ(choice_of(plan), expected.choice);
    served += plan.variant.served;
  }
  EXPECT_GE(served, 2);
}

}  // namespace
}  // namespace mamba_scan::ops
