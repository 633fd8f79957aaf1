// What a call launches when B and C are prepared, on the fake driver.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "fake_gpu.h"
#include "ops/plan.h"
#include "ops/runtime.h"
#include "ops/selective_scan.h"
#include "problem_without_data.h"

namespace mamba_scan::ops {
namespace {

using test::seen;

struct OneAllocation : test::HostScratch {
  void* allocate(std::size_t bytes) override {
    EXPECT_TRUE(memory.empty()) << "a second allocation";
    return HostScratch::allocate(bytes);
  }
};

// Parts of scratch memory as begin and size, none of which may share a byte.
void expect_disjoint(std::vector<std::pair<const void*, std::size_t>> parts, const std::vector<char>& memory) {
  std::sort(parts.begin(), parts.end());
  const char* free = memory.data();
  for (const auto& [begin, bytes] : parts) {
    if (bytes == 0) continue;
    EXPECT_GE(static_cast<const char*>(begin), free);
    free = static_cast<const char*>(begin) + bytes;
  }
  EXPECT_LE(free, memory.data() + memory.size());
}

class PrepareLaunch : public testing::Test {
 protected:
  static void SetUpTestSuite() { gpu = new test::FakeGpu("devices=90:132:Card", test::remember); }
  static void TearDownTestSuite() { delete gpu; }
  void SetUp() override {
    if (!platform::environment_variable("MAMBA_SCAN_NVRTC")) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
    seen.clear();
  }

  // The call's launches, in order, for every slice; their arguments as the plan lays them out in one allocation.
  void expect_launches(const SelectiveScanProblem& p, const std::vector<std::string>& of_slice) {
    const ForwardPlan plan = plan_forward(p, runtime().device(0).report);
    ASSERT_TRUE(plan.variant.prepared);
    OneAllocation scratch;
    selective_scan_cuda(p, 0, nullptr, scratch);
    ASSERT_EQ(seen.size(), of_slice.size() * static_cast<std::size_t>(plan.slices));
    for (std::size_t i = 0; i < seen.size(); ++i) {
      const SelectiveScanForwardParams& params = seen[i].params;
      EXPECT_EQ(seen[i].entry, "selective_scan_" + of_slice[i % of_slice.size()]);
      EXPECT_EQ(params.problem.dstate, slice_of(plan, static_cast<int>(i / of_slice.size())).variant.dstate);
      expect_disjoint({{params.prepared_B, plan.prepared_bytes},
                       {params.prepared_C, plan.prepared_bytes},
                       {params.carry_state, plan.carry_state_bytes},
                       {params.carry_delta, plan.carry_delta_bytes},
                       {params.partial_sum, plan.partial_sum_bytes}},
                      scratch.memory);
    }
  }

  static test::FakeGpu* gpu;
};
test::FakeGpu* PrepareLaunch::gpu = nullptr;

TEST_F(PrepareLaunch, ComesBeforeTheScan) {
  expect_launches(test::problem_of(44, 2048, 1536, 13), {"prepare", "forward"});  // of rows that are not aligned
}

TEST_F(PrepareLaunch, ComesBeforeTheCarries) {
  SelectiveScanProblem p = test::problem_of(1, 131072, 256, 32);  // two lanes share a channel
  p.B.state_stride = p.C.state_stride = 2;                        // dear to read one by one
  expect_launches(p, {"prepare", "carry", "forward"});
}

TEST_F(PrepareLaunch, ComesAnewForEverySliceIntoTheSameMemory) {
  expect_launches(test::problem_of(16, 2048, 1536, 300), {"prepare", "forward"});
}

}  // namespace
}  // namespace mamba_scan::ops
