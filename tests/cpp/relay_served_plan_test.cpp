// Which scans have warps that take turns and others that serve them, and how they are dealt out, without a device.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "fake_gpu.h"
#include "gpu_limits.h"
#include "ops/plan.h"
#include "ops/runtime.h"
#include "ops/selective_scan.h"
#include "problem_without_data.h"
#include "random_plans.h"

namespace mamba_scan::ops {
namespace {

using test::device_with;
using test::memory;
using test::problem_of;

bool is_taken(const SelectiveScanProblem& p, const driver::DeviceReport& device) {
  return plan_forward(p, device).variant.kernel() == ScanKernel::kRelayServed;
}

void expect_consistent(const SelectiveScanProblem& p, const ForwardPlan& plan, const driver::DeviceReport& device) {
  const ForwardVariant& v = plan.variant;
  SCOPED_TRACE(v.scan().name());
  EXPECT_EQ(v.scan().entry, "selective_scan_relay_served");
  const int servers = 32 / v.lanes == 16 ? 4 : 2;
  EXPECT_EQ(v.scan_threads(), 32u * static_cast<unsigned>(v.warps + servers));
  EXPECT_GE(v.lanes * v.states, p.dstate);
  EXPECT_LE(v.lanes * v.states, 2 * p.dstate);
  EXPECT_EQ(v.channels, 1);
  EXPECT_EQ(v.tile % v.unroll, 0) << "whole turns";
  EXPECT_GE(2 * servers * v.tile / v.unroll, 2 * v.warps) << "a turn is over before its slot is needed again";
  EXPECT_LE(v.dynamic_shared_bytes(), device.shared_per_block_optin);
  EXPECT_FALSE(v.cut);
  EXPECT_FALSE(v.prepared);
  EXPECT_EQ(plan.slices, 1);
  EXPECT_EQ(plan.carry_delta_bytes + plan.partial_sum_bytes, 0u);
  const auto& params = plan.params;
  EXPECT_GE(Index{params.tiles_per_row} * v.tile, p.seqlen);
  const Index rows = p.batch * p.ngroups * params.blocks_per_group;
  EXPECT_EQ(params.tiles, rows * params.tiles_per_row);
  EXPECT_EQ(v.wrapped, params.slots < rows) << "otherwise a block for every row";
  if (v.wrapped) {
    EXPECT_EQ(params.slots % device.sm_count, 0) << "all run at once, as many on every multiprocessor";
    EXPECT_EQ(plan.carry_state_bytes, static_cast<std::size_t>(params.slots) * 32 * v.states * sizeof(float));
    EXPECT_EQ(plan.carry_ready_bytes, static_cast<std::size_t>(params.slots) * sizeof(unsigned));
  } else {
    EXPECT_EQ(params.slots, rows);
    EXPECT_EQ(plan.carry_state_bytes + plan.carry_ready_bytes, 0u);
  }
  EXPECT_EQ(v.scan_blocks(params), static_cast<unsigned>(params.slots));
  if (params.y_steps.advance != 0) {
    EXPECT_EQ(params.y_steps.advance, servers * v.tile * params.problem.y.seq_stride * element_size(p.dtype))
        << "the tiles between are the other servers'";
  }
}

TEST(RelayServedPlan, IsConsistentForRandomProblemsOnEveryDeviceSize) {
  test::expect_of_random_plans(
      20261126, {.batch = 3, .seqlen = 4000, .channels_of_group = 300, .dstate = 70}, ScanKernel::kRelayServed, 20,
      [](int i) {
        const auto lanes = static_cast<std::int16_t>(2 << i / 4 % 4);
        const auto warps = static_cast<std::int16_t>(i / 2 % 2 == 0 ? 4 : 8);
        return PlanChoice{.lanes = lanes, .warps = warps, .served = true, .wrapped = i / 16 % 2 == 1};
      },
      expect_consistent);
}

TEST(RelayServedPlan, TakesPromptsOfModels) {
  const auto device = test::h100_report();
  const auto taken = [&](Index seqlen, Index dim, Index dstate = 16, DType dtype = DType::kBFloat16) {
    return is_taken(test::full(problem_of(1, seqlen, dim, dstate, dtype, true)), device);
  };
  EXPECT_TRUE(taken(1024, 2048));
  EXPECT_TRUE(taken(512, 2048));
  EXPECT_TRUE(taken(1024, 2560)) << "more rows than multiprocessors hold at once";
  EXPECT_TRUE(taken(512, 2048, 32));
  EXPECT_TRUE(taken(1001, 2048)) << "rows begin anywhere";
  EXPECT_TRUE(taken(1024, 4096)) << "two rounds: 41.6 us on an H200, and 43.1 by served.cu";
  EXPECT_FALSE(taken(64, 4096)) << "a second round does not pay";
  EXPECT_FALSE(taken(131072, 2048)) << "a cut in time is faster";
  EXPECT_FALSE(taken(1024, 2048, 8)) << "few states leave servers no time";
  EXPECT_TRUE(taken(1024, 2048, 16, DType::kFloat32));
  EXPECT_FALSE(taken(1001, 2048, 16, DType::kFloat32)) << "rows of words: not measured";
  EXPECT_TRUE(is_taken(test::full(problem_of(1, 1024, 2042, 16, DType::kBFloat16)), device))
      << "steps of channels that begin anywhere";
  EXPECT_FALSE(is_taken(test::full(problem_of(1, 1024, 2048, 16, DType::kBFloat16, true)), device_with(132, 86)))
      << "not measured there";
}

// On an H200 1, 1024, 2560 took 38.8 us by a block for every row, and 34.2 in even shares.
TEST(RelayServedPlan, SharesOutRowsThatFillNoWholeRounds) {
  const auto wrapped = [&](Index batch, Index seqlen, Index dim) {
    const auto plan =
        plan_forward(test::full(problem_of(batch, seqlen, dim, 16, DType::kBFloat16, true)), test::h100_report());
    EXPECT_EQ(plan.variant.kernel(), ScanKernel::kRelayServed);
    return plan.variant.wrapped;
  };
  EXPECT_TRUE(wrapped(1, 1024, 2560)) << "160 rows of 132 multiprocessors";
  EXPECT_TRUE(wrapped(4, 1590, 1135));
  EXPECT_FALSE(wrapped(1, 1024, 2048)) << "128 rows";
  EXPECT_FALSE(wrapped(1, 1024, 4096)) << "256 rows are nearly two rounds";
}

// Where it is asked for, other types and layouts too, but not what the kernel leaves to others.
TEST(RelayServedPlan, LeavesWhatTheKernelDoesNotServe) {
  const auto device = device_with(132);
  const auto is_served = [&](auto change) {
    SelectiveScanProblem p = problem_of(1, 256, 256);
    change(p);
    for (const std::int16_t lanes : {1, 2, 4, 8, 16, 32}) {
      const PlanChoice choice{.lanes = lanes, .warps = 4, .served = true};
      if (plan_forward(p, device, &choice).variant.kernel() == ScanKernel::kRelayServed) return true;
    }
    return false;
  };
  EXPECT_TRUE(is_served([](auto&) {}));
  EXPECT_TRUE(is_served([](auto& p) { p.reverse = true; }));
  EXPECT_TRUE(is_served([](auto& p) { p.dstate = 13; }));
  EXPECT_TRUE(is_served([](auto& p) { p.u.data = reinterpret_cast<char*>(memory) + 2; })) << "element by element";
  EXPECT_FALSE(is_served([](auto& p) { p.is_complex = true, p.B.imag_stride = p.C.imag_stride = 1; }));
  EXPECT_FALSE(is_served([](auto& p) { p.chunk_invariant = true; }));
  EXPECT_FALSE(is_served([](auto& p) { p.cu_seqlens = reinterpret_cast<const int*>(memory), p.sequences = 1; }));
  EXPECT_FALSE(is_served([](auto& p) { p.B.constant = true; }));
  EXPECT_FALSE(is_served([](auto& p) { p.C.constant = true; }));
  EXPECT_FALSE(is_served([](auto& p) { p.dstate = 129; })) << "slices of the states";
  EXPECT_FALSE(is_served([](auto& p) { p.dstate = 2; })) << "a lane has four states";
  EXPECT_FALSE(is_served([](auto& p) { p.seqlen = 0; }));
  EXPECT_FALSE(is_served([](auto& p) { p.seqlen = 8; })) << "a single turn";
}

std::vector<unsigned> flags_at_launch;

void keep_flags(const char* entry, void** arguments) {
  test::remember(entry, arguments);
  const SelectiveScanForwardParams& params = test::seen.back().params;
  if (params.carry_ready == nullptr) return;
  flags_at_launch.resize(static_cast<std::size_t>(params.slots));
  std::memcpy(flags_at_launch.data(), params.carry_ready, flags_at_launch.size() * sizeof(unsigned));
}

// The fake device's memory is the host's.
TEST(RelayServedLaunch, ClearsTheFlagsOfRowsInEvenSharesBeforeEveryLaunch) {
  if (!platform::environment_variable("MAMBA_SCAN_NVRTC")) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  const test::FakeGpu gpu("devices=90:132:Card", keep_flags);
  const SelectiveScanProblem p = test::full(problem_of(1, 1024, 2560, 16, DType::kBFloat16, true));
  const ForwardPlan plan = plan_forward(p, runtime().device(0).report);
  ASSERT_TRUE(plan.variant.wrapped);
  for (int call = 0; call < 2; ++call) {
    test::DeviceScratch scratch;
    test::seen.clear(), flags_at_launch.clear();
    selective_scan_cuda(p, 0, nullptr, scratch);
    ASSERT_EQ(test::seen.size(), 1u);
    EXPECT_EQ(test::seen[0].entry, "selective_scan_relay_served");
    EXPECT_EQ(flags_at_launch, std::vector<unsigned>(static_cast<std::size_t>(plan.params.slots)));
    const auto* begin = static_cast<const char*>(scratch.memory.pointer());
    EXPECT_EQ(static_cast<const void*>(test::seen[0].params.carry_state), begin);
    EXPECT_EQ(static_cast<const void*>(test::seen[0].params.carry_ready), begin + plan.carry_state_bytes);
    EXPECT_EQ(scratch.memory.size(), plan.carry_state_bytes + plan.carry_ready_bytes);
  }
}

}  // namespace
}  // namespace mamba_scan::ops
