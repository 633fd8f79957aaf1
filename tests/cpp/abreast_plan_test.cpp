// Which scans have rows that go abreast, or that wait for whole sectors, and how rows are dealt out to blocks then,
// without a device.
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "gpu_limits.h"
#include "ops/memory_layout.h"
#include "ops/plan.h"
#include "problem_without_data.h"

namespace mamba_scan::ops {
namespace {

using test::full;
using test::h100_report;
using test::memory;
using test::problem_of;

// Rows of the elements that are adjacent in memory, one element longer than they are.
SelectiveScanProblem with_longer_rows(SelectiveScanProblem p) {
  const bool seq_last = p.u.seq_stride == 1;
  for (SequenceTensor* tensor : {&p.u, &p.delta, &p.z, &p.y}) ++(seq_last ? tensor->dim_stride : tensor->seq_stride);
  return p;
}

// Every slot of every row is one warp's of one block, in the order that this_slot() in warp_tile.cuh says.
void expect_consistent(const SelectiveScanProblem& p, const ForwardPlan& plan, const driver::DeviceReport& device) {
  const ForwardVariant& v = plan.variant;
  const auto& params = plan.params;
  SCOPED_TRACE(v.scan().name());
  EXPECT_EQ(v.kernel(), ScanKernel::kForward);
  EXPECT_FALSE(v.seq_contiguous || v.packed || v.is_complex || v.chunk_invariant);
  EXPECT_EQ(v.scan_threads(), 32u * static_cast<unsigned>(v.abreast));
  EXPECT_EQ(v.dynamic_shared_bytes(), static_cast<std::size_t>(v.abreast) * v.shared_bytes());
  EXPECT_LE(v.dynamic_shared_bytes(), std::max(std::size_t{48} << 10, device.shared_per_block_optin));
  EXPECT_LE(v.abreast * v.warp_channels() * element_size(v.dtype), 512) << "a thread stores chunks of one column";
  EXPECT_EQ(v.cut, params.slots_per_row > 0) << "of every row the same shares";
  const int shares = std::max(params.slots_per_row, 1), rows = params.tiles / params.tiles_per_row;
  EXPECT_EQ(params.slots, rows * shares);
  EXPECT_LE(shares, params.tiles_per_row);
  const int of_group = params.blocks_per_group, blocks = (of_group + v.abreast - 1) / v.abreast;
  EXPECT_EQ(v.scan_blocks(params), static_cast<unsigned>(p.batch * p.ngroups * blocks * shares));
  EXPECT_NE(v.carry().name().find("MS_ABREAST=1,"), std::string::npos) << "a block of carry.cu is a warp";
  EXPECT_GT(of_group, v.abreast / 2) << "more room than rows";
}

// As many as shared memory has room for get the registers of those that it has not.
TEST(AbreastPlan, LeavesNoRegistersToWarpsThatSharedMemoryHasNoRoomFor) {
  const auto device = h100_report();
  SelectiveScanProblem packed = problem_of(1, 140000, 366, 8);
  packed.cu_seqlens = reinterpret_cast<const int*>(memory), packed.sequences = 1;
  const ForwardVariant v = plan_forward(packed, device).variant;
  ASSERT_EQ(v.kernel(), ScanKernel::kForward);
  EXPECT_LT(static_cast<int>(device.shared_per_sm / v.shared_bytes()), 20);
  EXPECT_EQ(v.min_blocks, 16);
  EXPECT_EQ(v.unroll, 16);
  const PlanChoice two_lanes{.lanes = 2};
  EXPECT_EQ(plan_forward(problem_of(8, 2048, 5120, 16), device, &two_lanes).variant.min_blocks, 20) << "there is room";
}

TEST(AbreastPlan, IsConsistentForRandomProblemsOnEveryDeviceSize) {
  std::mt19937 random(20261126);
  for (int sm_count : {8, 16, 36, 82, 128, 132}) {
    int whole = 0, cut = 0;
    for (int i = 0; i < 400; ++i) {
      const SelectiveScanProblem p =
          test::random_problem(random, {.batch = 9, .seqlen = 9000, .channels_of_group = 900, .dstate = 24});
      const driver::DeviceReport device = h100_report(sm_count, i % 3 == 0 ? 75 : i % 3 == 1 ? 86 : 90);
      const PlanChoice choice{.lanes = static_cast<std::int16_t>(1 + i % 2),
                              .cut = i % 4 < 2,
                              .abreast = static_cast<std::int16_t>(i % 8 < 4 ? 2 : 4)};
      const ForwardPlan plan = plan_forward(p, device, &choice);
      if (plan.variant.abreast == 1) continue;
      ++(plan.variant.cut ? cut : whole);
      expect_consistent(p, plan, device);
    }
    EXPECT_GT(whole, 20) << sm_count << " multiprocessors";
    EXPECT_GT(cut, 5) << sm_count << " multiprocessors";
  }
}

TEST(AbreastPlan, IsForFewStatesWhoseStepsShareSectors) {
  const auto device = h100_report();
  const auto abreast = [&](const SelectiveScanProblem& p) { return plan_forward(p, device).variant.abreast; };
  EXPECT_EQ(abreast(problem_of(47, 3244, 990, 5)), 1) << "lanes read and write rows that begin anywhere themselves";
  EXPECT_EQ(abreast(problem_of(47, 3244, 1000, 5)), 4) << "aligned vectors, but half sectors";
  EXPECT_EQ(abreast(with_longer_rows(problem_of(1, 131072, 2048))), 1) << "with 16 states, too";
  EXPECT_EQ(abreast(with_longer_rows(problem_of(1, 131072, 2048, 24))), 4) << "lanes share channels, cut";
  EXPECT_EQ(abreast(problem_of(47, 3244, 990, 5, DType::kFloat16, true)), 1) << "adjacent steps";
  EXPECT_EQ(abreast(problem_of(64, 2048, 1536)), 1) << "exponentials bind";
  EXPECT_EQ(abreast(problem_of(1, 131072, 2048)), 1) << "exponentials bind";
  EXPECT_EQ(abreast(problem_of(19, 1092, 924, 3, DType::kFloat32)), 1) << "a warp to a scheduler waits for nobody";
  SelectiveScanProblem packed = problem_of(47, 3244, 1000, 5);
  packed.cu_seqlens = reinterpret_cast<const int*>(memory), packed.sequences = 1, packed.batch = 1;
  EXPECT_EQ(abreast(packed), 1);
  SelectiveScanProblem invariant = problem_of(47, 3244, 1000, 5);
  invariant.chunk_invariant = true;
  EXPECT_EQ(abreast(invariant), 1);
}

TEST(AbreastPlan, ShortensTilesThatLeaveNoRoomForAllRows) {
  SelectiveScanProblem p = full(problem_of(10, 2163, 5560, 8, DType::kBFloat16));
  const auto tile_of = [&](std::int16_t abreast) {
    const PlanChoice choice{.lanes = 1, .abreast = abreast};
    const ForwardPlan plan = plan_forward(p, h100_report(), &choice);
    EXPECT_EQ(plan.variant.abreast, abreast);
    return plan.variant.tile;
  };
  for (const std::int16_t abreast : {1, 2, 4}) EXPECT_EQ(tile_of(abreast), 16);
  p.batch = 4;
  for (const std::int16_t abreast : {1, 2, 4}) EXPECT_EQ(tile_of(abreast), 32) << "there are fewer rows";
}

TEST(SectorPlan, RowsOfAdjacentStepsWaitForWholeSectors) {
  const auto device = h100_report();
  const auto stored = [&](const SelectiveScanProblem& p) { return plan_forward(p, device).variant.y_access; };
  const auto problem = [](Index seqlen, Index dstate, DType dtype = DType::kFloat16) {
    return problem_of(10, seqlen, 5556, dstate, dtype, true);
  };
  EXPECT_EQ(stored(problem(2163, 7)), Access::kWindows);
  EXPECT_EQ(stored(problem(2168, 7)), Access::kWindows) << "aligned vectors, but half sectors";
  EXPECT_EQ(stored(problem(2163, 7, DType::kFloat32)), Access::kWindows);
  EXPECT_EQ(stored(problem(2163, 12)), Access::kWindows);
  EXPECT_EQ(stored(problem(2176, 7)), Access::kVectors) << "whole sectors as they are";
  EXPECT_EQ(stored(problem(2163, 48)), Access::kWords) << "many states take longer than memory";
  SelectiveScanProblem reversed = problem(2163, 7);
  reversed.reverse = true;
  EXPECT_EQ(stored(reversed), Access::kWords);
}

TEST(SectorPlan, SectorsBeginAtMultiplesOf32Bytes) {
  const auto fills = [](const SelectiveScanProblem& p, int columns) {
    return fills_sectors(p.y, p, p.y.seq_stride == 1, columns);
  };
  SelectiveScanProblem p = problem_of(2, 64, 96);
  EXPECT_TRUE(fills(p, 32));
  EXPECT_TRUE(fills(p, 16));
  EXPECT_FALSE(fills(p, 8)) << "half a sector";
  EXPECT_FALSE(fills(with_longer_rows(p), 32));
  p.y.data = reinterpret_cast<char*>(memory) + 16;
  EXPECT_FALSE(fills(p, 32)) << "begins in the middle of one";
  p = problem_of(2, 64, 96);
  p.ngroups = 12;
  EXPECT_FALSE(fills(p, 8)) << "groups begin in the middle of one";
  p = problem_of(2, 64, 96, 16, DType::kFloat32, true);
  EXPECT_TRUE(fills(p, 8));
  p.y.batch_stride += 4;
  EXPECT_FALSE(fills(p, 8)) << "the second sequence begins in the middle of one";
  p = problem_of(1, 64, 96);
  p.y.dim_stride = 2;
  EXPECT_FALSE(fills(p, 32)) << "not adjacent";
}

}  // namespace
}  // namespace mamba_scan::ops
