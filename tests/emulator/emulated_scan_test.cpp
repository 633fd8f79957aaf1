// Runs the shipped selective scan kernels at small, odd shapes and compares them with float64.
#include <gtest/gtest.h>

#include <cstring>

#include "ops/plan.h"
#include "scan_case.h"
#include "shipped_kernels.h"

namespace emulator {
namespace {

using mamba_scan::ops::ForwardPlan;
using mamba_scan::ops::plan_forward;

const KernelImage* find_kernel(const std::string& name) {
  for (const KernelImage* kernel : shipped_kernels())
    if (name == kernel->name) return kernel;
  return nullptr;
}

class EmulatedScan : public testing::TestWithParam<ScanCase> {};

TEST_P(EmulatedScan, MatchesFloat64InEveryOrderOfThreads) {
  const ScanCase& scan = GetParam();
  for (const Index seqlen : scan.seqlens) {
    SCOPED_TRACE("seqlen " + std::to_string(seqlen));
    Device device;
    ScanSetup setup(scan, seqlen, device, 20 + static_cast<unsigned>(seqlen));
    ForwardPlan plan = plan_forward(setup.problem(), device_for(scan));
    const KernelImage* kernel = find_kernel(plan.variant.variant().name());
    ASSERT_NE(kernel, nullptr) << plan.variant.variant().name() << " was not compiled for the emulator";

    Launch launch;
    launch.grid.x = plan.grid;
    launch.block.x = static_cast<unsigned>(plan.variant.threads);
    void* arguments[] = {&plan.params};
    std::vector<unsigned char> first;
    for (const Order order : {Order::kForward, Order::kReverse, Order::kShuffled}) {
      launch.order = order;
      setup.reset_outputs();
      ASSERT_NO_THROW(device.launch(*kernel, launch, arguments));
      if (order == Order::kForward) first = setup.outputs();
      ASSERT_EQ(setup.compare(), "");
      ASSERT_EQ(setup.outputs(), first) << "the result depends on the order in which threads run";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, EmulatedScan, testing::ValuesIn(scan_cases()),
                         [](const auto& info) { return info.param.name; });

// Static shared memory above 48 KB does not load on a GPU.
TEST(EmulatedKernels, KeepTheirSharedMemoryWithin48KB) {
  ASSERT_FALSE(shipped_kernels().empty());
  for (const KernelImage* kernel : shipped_kernels())
    EXPECT_LE(kernel->shared_end - kernel->shared_begin, 48 * 1024) << kernel->name;
}

}  // namespace
}  // namespace emulator
