// Runs the shipped selective scan kernels at small, odd shapes and compares them with float64.
#include <gtest/gtest.h>

#include <ostream>

#include "scan_case.h"
#include "scan_launch.h"
#include "shipped_kernels.h"

namespace emulator {

void PrintTo(const ScanCase& scan, std::ostream* out) { *out << scan.name; }

namespace {

const KernelImage* find_kernel(const std::string& name) {
  for (const KernelImage* kernel : shipped_kernels())
    if (name == kernel->name) return kernel;
  return nullptr;
}

void run(PlannedScan& plan, Order order, Device& device) {
  void* arguments[] = {&plan.params};
  for (KernelLaunch& launch : plan.launches) {
    launch.geometry.order = order;
    const KernelImage* kernel = find_kernel(launch.variant.name());
    ASSERT_NE(kernel, nullptr) << launch.variant.name() << " was not compiled for the emulator";
    ASSERT_NO_THROW(device.launch(*kernel, launch.geometry, arguments));
  }
}

class EmulatedScan : public testing::TestWithParam<ScanCase> {};

TEST_P(EmulatedScan, MatchesFloat64InEveryOrderOfThreads) {
  const ScanCase& scan = GetParam();
  for (const Index seqlen : scan.seqlens) {
    Device device;
    ScanSetup setup(scan, seqlen, device, 20 + static_cast<unsigned>(seqlen));
    PlannedScan plan = plan_scan(setup.problem(), scan, device);
    std::vector<unsigned char> first;
    for (const Order order : {Order::kForward, Order::kReverse, Order::kShuffled}) {
      SCOPED_TRACE("seqlen " + std::to_string(seqlen) + ", order " + std::to_string(static_cast<int>(order)));
      setup.reset_outputs();
      run(plan, order, device);
      if (HasFatalFailure()) return;
      if (order == Order::kForward) first = setup.outputs();
      ASSERT_EQ(setup.compare(), "");
      ASSERT_EQ(setup.outputs(), first) << "the result depends on the order in which threads run";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, EmulatedScan, testing::ValuesIn(scan_cases()),
                         [](const auto& info) { return info.param.name; });

// Where sequences are cut in time, the cuts may lie anywhere: at rows' ends, inside rows, several in one row.
TEST_P(EmulatedScan, MatchesFloat64WhereverItIsCut) {
  const ScanCase& scan = GetParam();
  for (const Index seqlen : scan.seqlens) {
    Device device;
    ScanSetup setup(scan, seqlen, device, 20 + static_cast<unsigned>(seqlen));
    const PlannedScan planned = plan_scan(setup.problem(), scan, device);
    if (!planned.cut) continue;
    for (const int slots : {1, 2, 3, 5, planned.params.tiles - 1, planned.params.tiles}) {
      SCOPED_TRACE("seqlen " + std::to_string(seqlen) + ", slots " + std::to_string(slots));
      setup.reset_outputs();
      PlannedScan plan = with_slots(planned, slots, device);
      run(plan, Order::kReverse, device);
      if (HasFatalFailure()) return;
      ASSERT_EQ(setup.compare(), "");
    }
  }
}

// The cases above only mean something if they reach every kernel.
TEST(EmulatedKernels, AreAllReached) {
  int whole = 0, cut = 0, carries = 0;
  for (const KernelImage* kernel : shipped_kernels()) {
    const std::string name = kernel->name;
    carries += name.starts_with("selective_scan_carry[");
    if (!name.starts_with("selective_scan_forward[")) continue;
    (name.find("MS_CUT=1") != std::string::npos ? cut : whole) += 1;
  }
  EXPECT_GE(whole, 12);
  EXPECT_GE(cut, 6);
  EXPECT_GE(carries, 4);
}

// Static shared memory above 48 KB does not load on a GPU.
TEST(EmulatedKernels, KeepTheirSharedMemoryWithin48KB) {
  ASSERT_FALSE(shipped_kernels().empty());
  for (const KernelImage* kernel : shipped_kernels())
    EXPECT_LE(kernel->shared_end - kernel->shared_begin, 48 * 1024) << kernel->name;
}

}  // namespace
}  // namespace emulator
