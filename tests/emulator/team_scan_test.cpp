// Runs the team kernel at small, odd shapes and compares it with float64.
#include <gtest/gtest.h>

#include <ostream>
#include <string>

#include "shipped_kernels.h"
#include "team_cases.h"

namespace emulator {

void PrintTo(const TeamCase& team, std::ostream* out) { *out << team.scan.name; }

namespace {

const KernelImage* find_kernel(const std::string& name) {
  for (const KernelImage* kernel : shipped_kernels())
    if (name == kernel->name) return kernel;
  return nullptr;
}

class EmulatedTeam : public testing::TestWithParam<TeamCase> {};

TEST_P(EmulatedTeam, MatchesFloat64InEveryOrderOfThreads) {
  const TeamCase& team = GetParam();
  for (const Index seqlen : team.scan.seqlens) {
    Device device;
    ScanSetup setup(team.scan, seqlen, device, 40 + static_cast<unsigned>(seqlen));
    mamba_scan::ops::TeamPlan plan = plan_case(setup.problem(), team);
    const KernelImage* kernel = find_kernel(plan.variant.team().name());
    ASSERT_NE(kernel, nullptr) << plan.variant.team().name() << " was not compiled for the emulator";
    EXPECT_EQ(kernel->shared_begin, kernel->shared_end) << "all shared memory is dynamic";
    Launch launch;
    launch.grid.x = plan.blocks;
    launch.block.x = plan.variant.block_threads();
    launch.dynamic_shared_bytes = plan.variant.shared_bytes();
    void* arguments[] = {&plan.params};
    std::vector<unsigned char> first;
    for (const Order order : {Order::kForward, Order::kReverse, Order::kShuffled}) {
      SCOPED_TRACE("seqlen " + std::to_string(seqlen) + ", order " + std::to_string(static_cast<int>(order)));
      setup.reset_outputs();
      launch.order = order;
      ASSERT_NO_THROW(device.launch(*kernel, launch, arguments));
      if (order == Order::kForward) first = setup.outputs();
      ASSERT_EQ(setup.compare(), "");
      ASSERT_EQ(setup.outputs(), first) << "the result depends on the order in which threads run";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, EmulatedTeam, testing::ValuesIn(team_cases()),
                         [](const auto& info) { return info.param.scan.name; });

}  // namespace
}  // namespace emulator
