// Which scans have rows that lanes read and write themselves (direct_rows.cuh), without a device.
#include <gtest/gtest.h>

#include "gpu_limits.h"
#include "ops/memory_layout.h"
#include "ops/plan.h"
#include "problem_without_data.h"
#include "random_plans.h"

namespace mamba_scan::ops {
namespace {

using test::full;
using test::h100_report;
using test::memory;
using test::problem_of;

bool is_direct(const SelectiveScanProblem& p) {
  return plan_forward(p, h100_report()).variant.u_access == Access::kDirectly;
}

void expect_consistent(const SelectiveScanProblem&, const ForwardPlan& plan, const driver::DeviceReport&) {
  const ForwardVariant& v = plan.variant;
  if (v.u_access != Access::kDirectly) return;
  SCOPED_TRACE(v.scan().name());
  EXPECT_EQ(v.delta_access, Access::kDirectly);
  EXPECT_EQ(v.y_access, Access::kDirectly);
  EXPECT_EQ(v.z_access, v.has_z ? Access::kDirectly : Access::kVectors);
  EXPECT_EQ(v.lanes, 1);
  EXPECT_EQ(v.channels, 1);
  EXPECT_EQ(v.abreast, 1);
  EXPECT_EQ(v.tile % v.unroll, 0);
  EXPECT_FALSE(v.seq_contiguous || v.packed || v.chunk_invariant || v.is_complex);
  EXPECT_EQ(v.slice, StateSlice::kAll);
  const ForwardVariant carry = carry_variant(v);
  EXPECT_EQ(carry.u_access, Access::kDirectly);
  EXPECT_EQ(carry.delta_access, Access::kDirectly);
  EXPECT_EQ(carry.unroll, v.unroll);
  EXPECT_LE(carry.min_blocks, v.min_blocks) << "as many as the scan has, with registers for what is read ahead";
  EXPECT_EQ(plan.params.u_steps.advance, 0) << "there are no tiles to walk along";
}

TEST(DirectPlan, IsConsistentForRandomProblemsOnEveryDeviceSize) {
  test::expect_of_random_plans(
      20261127, {.batch = 9, .seqlen = 9000, .channels_of_group = 900, .dstate = 16}, ScanKernel::kForward, 100,
      [](int i) { return PlanChoice{.lanes = 1, .cut = i / 2 % 2 == 1}; }, expect_consistent);
}

TEST(DirectPlan, IsForChannelsThatBeginAnywhere) {
  EXPECT_TRUE(is_direct(problem_of(47, 3244, 990, 5)));
  EXPECT_TRUE(is_direct(problem_of(4, 105403, 195, 1, DType::kBFloat16))) << "cut";
  EXPECT_TRUE(is_direct(problem_of(61, 2453, 205, 2, DType::kFloat32)));
  EXPECT_TRUE(is_direct(full(problem_of(29, 8120, 187, 4)))) << "with a gate";
  EXPECT_FALSE(is_direct(problem_of(47, 3244, 992, 5))) << "vectors are aligned";
  EXPECT_TRUE(is_direct(problem_of(47, 3244, 990, 16)));
  EXPECT_TRUE(is_direct(problem_of(8, 2047, 5118, 12, DType::kFloat32)));
  EXPECT_FALSE(is_direct(problem_of(47, 3244, 990, 17))) << "lanes share a channel";
  EXPECT_FALSE(is_direct(problem_of(47, 3243, 990, 5, DType::kFloat16, true))) << "adjacent steps";
  SelectiveScanProblem odd_z = full(problem_of(47, 3244, 992, 5));
  odd_z.z.data = static_cast<char*>(odd_z.z.data) + 2;
  const PlanChoice one_lane{.lanes = 1};
  EXPECT_EQ(plan_forward(odd_z, h100_report(), &one_lane).variant.u_access, Access::kDirectly) << "of one tensor";
  SelectiveScanProblem apart = problem_of(47, 3244, 990, 5);
  apart.delta.dim_stride = 2;
  EXPECT_FALSE(is_direct(apart)) << "channels that are not adjacent";
}

TEST(DirectPlan, LeavesWhatHasItsTilesInSharedMemory) {
  SelectiveScanProblem packed = problem_of(1, 3244, 990, 5);
  packed.cu_seqlens = reinterpret_cast<const int*>(memory), packed.sequences = 1;
  EXPECT_FALSE(is_direct(packed));
  SelectiveScanProblem invariant = problem_of(47, 3244, 990, 5);
  invariant.chunk_invariant = true;
  EXPECT_FALSE(is_direct(invariant));
  const PlanChoice two_lanes{.lanes = 2};
  EXPECT_NE(plan_forward(problem_of(47, 3244, 990, 5), h100_report(), &two_lanes).variant.u_access, Access::kDirectly);
}

// 4, 105403, 196 in four groups with one state took 432 us on an H200 by one warp of a scheduler, 330 by two and 527 by
// three; 45, 10230, 354 in two groups with five states 1007 uncut and 1106 cut.
TEST(DirectPlan, CutsRowsForTwoWarpsOfAScheduler) {
  const ForwardPlan few = plan_forward(problem_of(4, 105403, 195, 1, DType::kBFloat16), h100_report());
  EXPECT_TRUE(few.variant.cut);
  EXPECT_GT(few.params.slots, 132 * 4);
  EXPECT_LE(few.params.slots, 2 * 132 * 4);
  const ForwardPlan one_each = plan_forward(problem_of(45, 10230, 378, 5), h100_report());
  ASSERT_EQ(one_each.variant.u_access, Access::kDirectly);
  EXPECT_FALSE(one_each.variant.cut) << "carries read what memory is busy with once more";
  // 4, 105403, 196 in four groups with 16 states: 1163 us by one warp, 753 by two, 768 by three.
  const ForwardPlan many = plan_forward(problem_of(4, 105403, 195, 16, DType::kBFloat16), h100_report());
  EXPECT_TRUE(many.variant.cut);
  EXPECT_GT(many.params.slots, 132 * 4);
  EXPECT_EQ(many.variant.tile, 2 * many.variant.unroll) << "two groups, one read while the other is computed";
}

}  // namespace
}  // namespace mamba_scan::ops
