// Which scans the relay kernel gets, and how they are dealt out to it, without a device.
#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "fake_gpu.h"
#include "gpu_limits.h"
#include "ops/plan.h"
#include "ops/selective_scan.h"
#include "ops/tuning.h"
#include "platform/environment.h"
#include "problem_without_data.h"
#include "random_plans.h"

namespace mamba_scan::ops {
namespace {

using test::device_with;
using test::memory;
using test::problem_of;

bool takes_turns(const SelectiveScanProblem& p, const driver::DeviceReport& device) {
  return plan_forward(p, device).variant.is_relay();
}

void expect_consistent(const SelectiveScanProblem& p, const ForwardPlan& plan, const driver::DeviceReport& device) {
  const ForwardVariant& v = plan.variant;
  SCOPED_TRACE(v.scan().name());
  EXPECT_EQ(v.scan().entry, "selective_scan_relay");
  EXPECT_GE(v.lanes * v.states, p.dstate);
  EXPECT_LE(v.lanes * v.states, 2 * p.dstate);
  EXPECT_EQ(v.unroll, v.tile) << "a tile is in registers";
  EXPECT_LE(v.tile * v.states * v.channels, 64);
  EXPECT_LE(32 * v.warps * v.min_blocks, device.max_threads_per_sm);
  EXPECT_LE(v.dynamic_shared_bytes(), device.shared_per_block_optin);
  EXPECT_FALSE(v.cut);
  EXPECT_EQ(plan.slices, 1);
  EXPECT_EQ(plan.carry_state_bytes + plan.carry_delta_bytes + plan.partial_sum_bytes, 0u);
  const auto& params = plan.params;
  EXPECT_GE(params.tiles_per_row, 2) << "nobody to take turns with";
  EXPECT_GE(Index{params.tiles_per_row} * v.tile, p.seqlen);
  EXPECT_LT((params.tiles_per_row - 1) * Index{v.tile}, p.seqlen);
  EXPECT_EQ(params.slots, p.batch * p.ngroups * params.blocks_per_group) << "a block for every row";
  EXPECT_EQ(params.slots, params.tiles / params.tiles_per_row);
  if (params.y_steps.advance != 0) {
    EXPECT_EQ(params.y_steps.advance,
              v.warps * v.tile * params.problem.y.seq_stride * (p.dtype == DType::kFloat32 ? 4 : 2));
  }
}

TEST(RelayPlan, IsConsistentForRandomProblemsOnEveryDeviceSize) {
  test::expect_of_random_plans(
      20261123, {.batch = 3, .seqlen = 4000, .channels_of_group = 300, .dstate = 70}, ScanKernel::kRelay, 20,
      [](int) { return std::nullopt; }, expect_consistent);
}

TEST(RelayPlan, TakesFewAndShortSequencesOnly) {
  const auto device = device_with(132);
  for (const bool seq_last : {false, true}) {
    const auto taken = [&](Index batch, Index seqlen, Index dim) {
      return takes_turns(problem_of(batch, seqlen, dim, 16, DType::kFloat16, seq_last), device);
    };
    EXPECT_TRUE(taken(1, 1024, 2048));
    EXPECT_TRUE(taken(1, 1024, 256));
    EXPECT_TRUE(taken(1, 300, 96));
    EXPECT_FALSE(taken(1, 131072, 2048)) << "a cut in time is faster";
    EXPECT_FALSE(taken(1, 131072, 512));
    EXPECT_FALSE(taken(64, 2048, 1536)) << "there are enough warps without";
    EXPECT_FALSE(taken(1, 1, 2048)) << "a step of decoding";
  }
}

TEST(RelayPlan, TakesShortSequencesOnEveryDeviceThatTheyDoNotFill) {
  for (int sm_count : {8, 16, 36, 82, 128, 132})
    EXPECT_TRUE(takes_turns(problem_of(1, 1024, 64), device_with(sm_count, 86))) << sm_count;
  EXPECT_FALSE(takes_turns(problem_of(8, 1024, 2048), device_with(8, 86)));
}

// Measured on an H100: 566 us, cut in time 940.
TEST(RelayPlan, TakesLongSequencesOfFewStatesWhoseRowsBeginAnywhere) {
  SelectiveScanProblem p = problem_of(5, 7959, 1488, 6, DType::kFloat32, true);
  p.ngroups = 4, p.z = p.u;
  const ForwardVariant v = plan_forward(p, test::h100_report()).variant;
  EXPECT_EQ(v.kernel(), ScanKernel::kRelay);
  EXPECT_EQ(v.lanes, 4);
}

// A block that is alone on its multiprocessor starts when the one before it has ended.
TEST(RelayPlan, HasSmallBlocksAtOnceWhereRowsAreMoreThanMultiprocessors) {
  const auto device = device_with(132, 86);  // where relay_served.cu is for tuning only
  const ForwardVariant v = plan_forward(problem_of(1, 512, 1536, 16, DType::kFloat16, true), device).variant;
  EXPECT_GE(v.min_blocks, 2);
  EXPECT_GE(v.min_blocks * v.warps, 16) << "fewer would leave schedulers idle";
}

// Not even where it is asked for.
TEST(RelayPlan, LeavesWhatTheKernelDoesNotServe) {
  const auto device = device_with(132);
  const SelectiveScanProblem served = problem_of(1, 256, 256);
  const auto is_served = [&](auto change) {
    SelectiveScanProblem p = served;
    change(p);
    for (const std::int16_t lanes : {1, 2, 4, 8, 16, 32}) {
      const PlanChoice choice{.lanes = lanes, .warps = 4};
      if (plan_forward(p, device, &choice).variant.warps > 1) return true;
    }
    return false;
  };
  EXPECT_TRUE(is_served([](auto&) {}));
  EXPECT_TRUE(is_served([](auto& p) { p.reverse = true; }));
  EXPECT_TRUE(is_served([](auto& p) { p.dstate = 13; }));
  EXPECT_TRUE(is_served([](auto& p) { p.u.data = reinterpret_cast<char*>(memory) + 2; })) << "element by element";
  EXPECT_TRUE(is_served([](auto& p) { p.initial_state = p.final_state = {memory, 0, 16, 1}; }));
  EXPECT_FALSE(is_served([](auto& p) { p.is_complex = true, p.B.imag_stride = p.C.imag_stride = 1; }));
  EXPECT_FALSE(is_served([](auto& p) { p.chunk_invariant = true; }));
  EXPECT_FALSE(is_served([](auto& p) { p.cu_seqlens = reinterpret_cast<const int*>(memory), p.sequences = 1; }));
  EXPECT_FALSE(is_served([](auto& p) { p.B.constant = true; }));
  EXPECT_FALSE(is_served([](auto& p) { p.C.constant = true; }));
  EXPECT_FALSE(is_served([](auto& p) { p.dstate = 129; })) << "slices of the states";
  EXPECT_FALSE(is_served([](auto& p) { p.seqlen = 0; }));
  EXPECT_FALSE(is_served([](auto& p) { p.seqlen = 4; })) << "a single tile";
}

TEST(RelayPlan, MovesBAndCThatBeginAnywhereInWords) {
  const PlanChoice choice{.lanes = 4, .warps = 8};
  const SelectiveScanProblem p = problem_of(1, 1001, 2048, 16, DType::kBFloat16, true);
  const ForwardVariant v = plan_forward(p, test::h100_report(), &choice).variant;
  ASSERT_EQ(v.kernel(), ScanKernel::kRelay);
  EXPECT_EQ(v.b_access, Access::kWords);
  EXPECT_EQ(v.c_access, Access::kWords);
}

TEST(RelayPlan, StaysWithinTheSharedMemoryOfTheDevice) {
  driver::DeviceReport device = device_with(132);
  device.shared_per_block_optin = 0;  // an old driver does not tell
  int planned = 0;
  for (const bool seq_last : {false, true})
    for (const DType dtype : {DType::kFloat32, DType::kFloat16})
      for (const std::int16_t warps : {4, 8, 16}) {
        SelectiveScanProblem p = problem_of(1, 256, 256, 16, dtype, seq_last);
        p.z = p.u;
        const PlanChoice choice{.lanes = 4, .warps = warps};
        const ForwardPlan plan = plan_forward(p, device, &choice);
        planned += plan.variant.warps > 1;
        EXPECT_LE(plan.variant.dynamic_shared_bytes(), std::size_t{48} << 10);
      }
  EXPECT_GE(planned, 8);
}

struct NoScratch : ScratchAllocator {
  void* allocate(std::size_t) override { throw std::runtime_error("the relay kernel needs no scratch memory"); }
};

TEST(RelayLaunch, AShortScanIsOneLaunchOfTheRelayKernel) {
  if (!platform::environment_variable("MAMBA_SCAN_NVRTC")) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  const test::FakeGpu gpu("devices=90:132:Card", test::remember);
  NoScratch scratch;
  test::seen.clear();
  for (int call = 0; call < 2; ++call) selective_scan_cuda(problem_of(1, 300, 64), 0, nullptr, scratch);
  ASSERT_EQ(test::seen.size(), 2u);
  for (const test::SeenLaunch& launch : test::seen) {
    EXPECT_EQ(launch.entry, "selective_scan_relay");
    EXPECT_EQ(launch.params.problem.seqlen, 300);
    EXPECT_EQ(launch.params.channels_per_group, 64);
    EXPECT_EQ(launch.params.slots, launch.params.blocks_per_group);
  }
}

}  // namespace
}  // namespace mamba_scan::ops
