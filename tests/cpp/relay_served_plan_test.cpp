// Which scans have warps that take turns and others that serve them, and how they are dealt out, without a device.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
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
  EXPECT_FALSE(v.cut && v.wrapped);
  EXPECT_FALSE(v.prepared);
  EXPECT_EQ(plan.slices, 1);
  EXPECT_EQ(plan.partial_sum_bytes, 0u);
  const auto& params = plan.params;
  EXPECT_GE(Index{params.tiles_per_row} * v.tile, p.seqlen);
  const Index rows = p.batch * p.ngroups * params.blocks_per_group;
  EXPECT_EQ(params.tiles, rows * params.tiles_per_row);
  EXPECT_EQ(v.wrapped, params.slots < rows) << "otherwise a block for every row";
  if (v.wrapped) {
    EXPECT_EQ(params.slots % device.sm_count, 0) << "all run at once, as many on every multiprocessor";
    EXPECT_EQ(plan.carry_state_bytes, static_cast<std::size_t>(params.slots) * 32 * v.states * sizeof(float));
    EXPECT_EQ(plan.carry_ready_bytes, static_cast<std::size_t>(params.slots) * sizeof(unsigned));
    EXPECT_EQ(plan.carry_delta_bytes, 0u);
  } else if (v.cut) {
    EXPECT_GT(params.slots, rows);
    EXPECT_LE(params.slots, device.sm_count * v.min_blocks) << "all run at once";
    EXPECT_GE(params.tiles / params.slots, 2);
    EXPECT_EQ(plan.carry_state_bytes, static_cast<std::size_t>(params.slots) * 32 * v.states * sizeof(float));
    EXPECT_EQ(plan.carry_delta_bytes, static_cast<std::size_t>(params.slots) * 32 * sizeof(float));
    EXPECT_EQ(plan.carry_ready_bytes, 0u);
    EXPECT_LE(v.carry_shared_bytes(), device.shared_per_block_optin);
    EXPECT_EQ(v.carry_threads(), v.min_blocks == 1 ? 512u : 256u) << "128 registers of a thread";
  } else {
    EXPECT_EQ(params.slots, rows);
    EXPECT_EQ(plan.carry_state_bytes + plan.carry_delta_bytes + plan.carry_ready_bytes, 0u);
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
        const int part = i / 16 % 3;
        return PlanChoice{.lanes = lanes, .cut = part == 2, .warps = warps, .served = true, .wrapped = part == 1};
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

// 86 us by a block for every row, and 71 in even shares; beyond the cache rows that share sectors are whole.
TEST(RelayServedPlan, SharesOutRowsThatBeginAnywhereIfTheCacheHoldsThem) {
  const auto plan_of = [](Index batch, Index seqlen, Index dim) {
    return plan_forward(problem_of(batch, seqlen, dim), test::h200_report());
  };
  EXPECT_EQ(plan_of(4, 1590, 1135).variant.kernel(), ScanKernel::kRelayServed);
  EXPECT_TRUE(plan_of(4, 1590, 1135).variant.wrapped);
  EXPECT_FALSE(plan_of(4, 3590, 1135).variant.wrapped);
}

// In us on an H200, by forward.cu and by relay_served.cu, both cut in time: 1, 18519, 328 85 and 62, 5, 35329, 104 203
// and 169, 1, 16384, 768 114 and 108, but 1, 65536, 512 245 and 257.
TEST(RelayServedPlan, CutsFewRowsThatAreNotTooLong) {
  const auto plan_of = [](Index batch, Index seqlen, Index dim, DType dtype = DType::kFloat16) {
    return plan_forward(problem_of(batch, seqlen, dim, 16, dtype), test::h200_report());
  };
  const auto is_cut = [](const ForwardPlan& plan) {
    return plan.variant.kernel() == ScanKernel::kRelayServed && plan.variant.cut;
  };
  for (const auto& plan : {plan_of(1, 16384, 768), plan_of(1, 16384, 768, DType::kFloat32), plan_of(4, 11257, 136),
                           plan_of(5, 35329, 104)}) {
    EXPECT_TRUE(is_cut(plan));
    EXPECT_EQ(plan.params.slots, 132);
    EXPECT_EQ(plan.params.slots_per_row, 0);
  }
  const auto alike = plan_of(1, 18519, 328);
  EXPECT_TRUE(is_cut(alike));
  EXPECT_EQ(alike.params.slots_per_row, 6) << "21 rows: 126 slots, none of which has parts of two";
  EXPECT_FALSE(is_cut(plan_of(1, 65536, 512)));
  EXPECT_FALSE(is_cut(plan_of(1, 131072, 2048)));
  EXPECT_FALSE(is_cut(plan_of(1, 16384, 2048))) << "128 rows are as many as multiprocessors";
  EXPECT_FALSE(is_cut(plan_of(1, 1024, 768))) << "carries take longer";
}

// These share sectors of memory: in us on an H200, 2, 26062, 121 80 by forward.cu and 72, 1, 16384, 767, cut anywhere,
// 126 and 192; but 2, 7019, 561, which the cache holds, 91 and 86.
TEST(RelayServedPlan, CutsRowsThatBeginAnywhereAlike) {
  const auto alike = plan_forward(problem_of(2, 26062, 121), test::h200_report());
  EXPECT_TRUE(alike.variant.cut);
  EXPECT_EQ(alike.variant.kernel(), ScanKernel::kRelayServed);
  EXPECT_EQ(alike.params.slots_per_row, 8) << "16 rows";
  EXPECT_EQ(plan_forward(problem_of(2, 7019, 561), test::h200_report()).params.slots, 132) << "72 rows";
  EXPECT_EQ(plan_forward(problem_of(1, 16384, 767), test::h200_report()).variant.kernel(), ScanKernel::kForward);
}

// On an H200 1, 1253, 6882 took 101 us by forward.cu, 113 by served.cu, and 84.
TEST(RelayServedPlan, ServesRowsThatBeginAnywhereByStep) {
  const auto plan = plan_forward(problem_of(1, 1253, 6882), test::h200_report());
  EXPECT_EQ(plan.variant.kernel(), ScanKernel::kRelayServed);
  EXPECT_TRUE(plan.variant.serves_by_step());
  const auto words = plan_forward(problem_of(1, 1001, 2042, 16, DType::kFloat32), test::h200_report());
  EXPECT_EQ(words.variant.kernel(), ScanKernel::kRelayServed);
  EXPECT_TRUE(words.variant.serves_by_step());
  EXPECT_EQ(words.variant.tile, 16);
  const auto along_steps = plan_forward(problem_of(1, 1001, 2048, 16, DType::kFloat16, true), test::h200_report());
  EXPECT_EQ(along_steps.variant.kernel(), ScanKernel::kRelayServed);
  EXPECT_FALSE(along_steps.variant.serves_by_step());
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
class RelayServedLaunch : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (platform::environment_variable("MAMBA_SCAN_NVRTC"))
      gpu = std::make_unique<test::FakeGpu>("devices=90:132:Card", keep_flags);
  }
  static void TearDownTestSuite() { gpu.reset(); }
  void SetUp() override {
    if (gpu == nullptr) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  }

  static inline std::unique_ptr<test::FakeGpu> gpu;
};

TEST_F(RelayServedLaunch, ClearsTheFlagsOfRowsInEvenSharesBeforeEveryLaunch) {
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

// A tile's next one is 16 warps away in carry.cu, and four in the scan.
TEST_F(RelayServedLaunch, TellsCarriesHowTheirWarpsShareASlot) {
  const SelectiveScanProblem p = problem_of(1, 18519, 320, 16, DType::kBFloat16);
  const ForwardPlan plan = plan_forward(p, runtime().device(0).report);
  ASSERT_EQ(plan.variant.kernel(), ScanKernel::kRelayServed);
  ASSERT_TRUE(plan.variant.cut);
  test::DeviceScratch scratch;
  test::seen.clear();
  selective_scan_cuda(p, 0, nullptr, scratch);
  ASSERT_EQ(test::seen.size(), 2u);
  EXPECT_EQ(test::seen[0].entry, "selective_scan_carry");
  EXPECT_EQ(test::seen[1].entry, "selective_scan_relay_served");
  const auto &carry = test::seen[0].params, &scan = test::seen[1].params;
  const Index step = 320 * 2;  // bytes
  EXPECT_EQ(carry.u_steps.advance, 16 * plan.variant.tile * step);
  EXPECT_EQ(scan.u_steps.advance, 4 * plan.variant.tile * step);
  EXPECT_EQ(carry.carry_state, scan.carry_state);
  EXPECT_EQ(carry.carry_delta, scan.carry_delta);
  EXPECT_NE(carry.carry_delta, nullptr);
}

}  // namespace
}  // namespace mamba_scan::ops
