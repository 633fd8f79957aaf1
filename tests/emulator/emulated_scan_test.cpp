// Runs the shipped selective scan kernels at small, odd shapes and compares them with float64.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <optional>
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

// What stands in memory that belongs to nobody: NaNs, or small numbers. The result depends on neither.
unsigned char poison_of(Order order) { return order == Order::kForward ? kPoison : 0x3c; }

void run(PlannedScan& plan, Order order, Device& device) {
  std::fill(plan.carry_ready.begin(), plan.carry_ready.end(), 0u);
  for (KernelLaunch& launch : plan.launches) {
    void* arguments[] = {&launch.params};
    launch.geometry.order = order;
    launch.geometry.poison = poison_of(order);
    const KernelImage* kernel = find_kernel(launch.variant.name());
    ASSERT_NE(kernel, nullptr) << launch.variant.name() << " was not compiled for the emulator";
    ASSERT_NO_THROW(device.launch(*kernel, launch.geometry, arguments));
  }
}

// Where warps wait for one another, any of them may be as far ahead as the others let it.
std::vector<Order> orders_of(const PlannedScan& plan) {
  std::vector<Order> orders = {Order::kForward, Order::kReverse, Order::kShuffled};
  for (const KernelLaunch& launch : plan.launches) {
    if (launch.geometry.block.x <= 32) continue;
    orders.push_back(Order::kFirstWarpAlone);
    orders.push_back(Order::kLastWarpAlone);
    break;
  }
  return orders;
}

class EmulatedScan : public testing::TestWithParam<ScanCase> {};

TEST_P(EmulatedScan, MatchesFloat64InEveryOrderOfThreads) {
  const ScanCase& scan = GetParam();
  for (const Index seqlen : scan.seqlens) {
    Device device;
    ScanSetup setup(scan, seqlen, device, 20 + static_cast<unsigned>(seqlen));
    PlannedScan plan = plan_scan(setup.problem(), scan, device);
    std::vector<unsigned char> first;
    for (const Order order : orders_of(plan)) {
      SCOPED_TRACE("seqlen " + std::to_string(seqlen) + ", order " + std::to_string(static_cast<int>(order)));
      setup.reset_outputs();
      setup.fill_gaps(poison_of(order));
      run(plan, order, device);
      if (HasFatalFailure()) return;
      if (order == Order::kForward) first = setup.outputs();
      ASSERT_EQ(setup.compare(), "");
      ASSERT_EQ(setup.outputs(), first) << "the result depends on the order of threads or on what is nobody's";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, EmulatedScan, testing::ValuesIn(scan_cases()),
                         [](const auto& info) { return info.param.name; });

// Where sequences are cut in time, the cuts may lie anywhere: at rows' ends, inside rows, several in one row. Where
// rows are shared out evenly, a share may be one row or all of them.
TEST_P(EmulatedScan, MatchesFloat64WhereverItIsCut) {
  const ScanCase& scan = GetParam();
  for (const Index seqlen : scan.seqlens) {
    Device device;
    ScanSetup setup(scan, seqlen, device, 20 + static_cast<unsigned>(seqlen));
    const PlannedScan planned = plan_scan(setup.problem(), scan, device);
    if (!planned.any_slots && !planned.wrapped) continue;
    const auto expect_right = [&](int slots, int slots_per_row) {
      SCOPED_TRACE("seqlen " + std::to_string(seqlen) + ", slots " + std::to_string(slots) + ", of a row " +
                   std::to_string(slots_per_row));
      setup.reset_outputs();
      PlannedScan plan = with_slots(planned, slots, slots_per_row, device);
      run(plan, Order::kReverse, device);
      if (HasFatalFailure()) return;
      ASSERT_EQ(setup.compare(), "");
    };
    const int most = planned.wrapped ? planned.rows : planned.tiles;
    for (const int slots : {1, 2, 3, 5, most - 1, most}) {
      expect_right(slots, 0);
      if (HasFatalFailure()) return;
    }
    if (planned.wrapped) continue;
    const int of_row = planned.launches.back().params.tiles_per_row;
    for (const int slots : {1, 2, of_row}) {
      expect_right(planned.tiles / of_row * slots, slots);
      if (HasFatalFailure()) return;
    }
  }
}

// Which byte differs first.
std::optional<std::size_t> first_difference(const std::vector<unsigned char>& one,
                                            const std::vector<unsigned char>& other) {
  const auto found = std::mismatch(one.begin(), one.end(), other.begin(), other.end()).first;
  if (found == one.end() && one.size() == other.size()) return std::nullopt;
  return static_cast<std::size_t>(found - one.begin());
}

// The problem in calls of `counts` steps, in the order of scanning, each going on from the state of the one before.
std::vector<mamba_scan::SelectiveScanProblem> calls_of(const ScanSetup& setup, const std::vector<Index>& counts,
                                                       Device& device) {
  const auto& whole = setup.problem();
  auto state = whole.initial_state;
  state.data = device.allocate<float>("state between calls",
                                      static_cast<std::size_t>(whole.batch * whole.initial_state.batch_stride));
  std::vector<mamba_scan::SelectiveScanProblem> calls;
  Index done = 0;
  for (const Index count : counts) {
    calls.push_back(setup.part(whole.reverse ? whole.seqlen - done - count : done, count));
    if (done > 0) calls.back().initial_state = state;
    done += count;
    if (done < whole.seqlen) calls.back().final_state = state;
  }
  return calls;
}

class InvariantScan : public EmulatedScan {};

std::vector<ScanCase> invariant_cases() {
  std::vector<ScanCase> cases = scan_cases();
  std::erase_if(cases, [](const ScanCase& scan) { return !scan.chunk_invariant || !scan.sequences.empty(); });
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Cases, InvariantScan, testing::ValuesIn(invariant_cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(InvariantScan, IsBitwiseTheSameHoweverItsCallsAreCut) {
  const ScanCase& scan = GetParam();
  for (const std::vector<Index>& counts :
       {std::vector<Index>{256, 1}, {256, 256}, {256, 256, 1}, {256, 257}, {512, 1}}) {
    const Index seqlen = std::accumulate(counts.begin(), counts.end(), Index{0});
    if (std::find(scan.seqlens.begin(), scan.seqlens.end(), seqlen) == scan.seqlens.end()) continue;
    SCOPED_TRACE("calls of " + testing::PrintToString(counts) + " steps");
    Device device;
    ScanSetup setup(scan, seqlen, device, 50);
    PlannedScan whole = plan_scan(setup.problem(), scan, device);
    const auto& params = whole.launches.back().params;
    if (whole.cut) {
      ASSERT_EQ(params.slots_per_row, (seqlen + 255) / 256) << "segments of 256 steps";
    }
    run(whole, Order::kForward, device);
    if (HasFatalFailure()) return;
    const std::vector<unsigned char> expected = setup.outputs();
    setup.reset_outputs();
    for (const auto& call : calls_of(setup, counts, device)) {
      PlannedScan plan = plan_scan(call, scan, device);
      run(plan, Order::kForward, device);
      if (HasFatalFailure()) return;
    }
    ASSERT_EQ(setup.compare(), "");
    ASSERT_EQ(first_difference(setup.outputs(), expected), std::nullopt);
  }
}

// Starting from nothing is starting from a state of zeros.
TEST_P(InvariantScan, IsBitwiseTheSameFromAnExplicitStateOfZeros) {
  const ScanCase& scan = GetParam();
  for (const Index seqlen : scan.seqlens) {
    Device device;
    ScanSetup setup(scan, seqlen, device, 60);
    auto problem = setup.problem();
    const auto states = static_cast<std::size_t>(problem.batch * problem.initial_state.batch_stride);
    float* zeros = device.allocate<float>("zeros", states);
    std::fill_n(zeros, states, 0.0f);
    std::vector<std::vector<unsigned char>> results;
    for (float* initial : {static_cast<float*>(nullptr), zeros}) {
      problem.initial_state.data = initial;
      setup.reset_outputs();
      PlannedScan plan = plan_scan(problem, scan, device);
      run(plan, Order::kForward, device);
      if (HasFatalFailure()) return;
      results.push_back(setup.outputs());
    }
    ASSERT_EQ(first_difference(results[0], results[1]), std::nullopt) << seqlen << " steps";
  }
}

class PreparedScan : public EmulatedScan {};

std::vector<ScanCase> prepared_cases() {
  std::vector<ScanCase> cases = scan_cases();
  std::erase_if(cases, [](const ScanCase& scan) { return scan.preparation == mamba_scan::ops::Preparation::kNever; });
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Cases, PreparedScan, testing::ValuesIn(prepared_cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(PreparedScan, IsBitwiseTheSameAsOneThatIsNot) {
  using mamba_scan::ops::Preparation;
  ScanCase scan = GetParam();
  for (const Index seqlen : scan.seqlens) {
    Device device;
    ScanSetup setup(scan, seqlen, device, 70);
    std::vector<std::vector<unsigned char>> results;
    for (const Preparation preparation : {Preparation::kNever, Preparation::kAlways}) {
      scan.preparation = preparation;
      setup.reset_outputs();
      PlannedScan plan = plan_scan(setup.problem(), scan, device);
      run(plan, Order::kForward, device);
      if (HasFatalFailure()) return;
      results.push_back(setup.outputs());
    }
    ASSERT_EQ(first_difference(results[0], results[1]), std::nullopt) << seqlen << " steps";
  }
}

// The cases above only mean something if they reach every kernel.
TEST(EmulatedKernels, AreAllReached) {
  int whole = 0, cut = 0, carries = 0, composes = 0, packed = 0, invariant = 0, relays = 0, relays_served = 0,
      served = 0, whole_rows = 0, prepares = 0, prepared = 0, abreast = 0, whole_sectors = 0, direct = 0, wrapped = 0,
      together = 0, tabulated = 0;
  for (const KernelImage* kernel : shipped_kernels()) {
    const std::string name = kernel->name;
    carries += name.starts_with("selective_scan_carry[");
    composes += name.starts_with("selective_scan_compose[");
    relays += name.starts_with("selective_scan_relay[");
    relays_served += name.starts_with("selective_scan_relay_served[");
    wrapped += name.find("MS_WRAPPED=1") != std::string::npos;
    prepares += name.starts_with("selective_scan_prepare[");
    served += name.starts_with("selective_scan_served[");
    whole_rows += name.starts_with("selective_scan_whole_rows[");
    if (!name.starts_with("selective_scan_forward[")) continue;
    packed += name.find("MS_PACKED=1") != std::string::npos;
    abreast += name.find("MS_ABREAST=4") != std::string::npos;
    direct += name.find("MS_U_ACCESS=4") != std::string::npos;
    together += name.find("MS_TOGETHER=") != std::string::npos;
    tabulated += name.find("MS_TABULATED=1") != std::string::npos;
    whole_sectors += name.find("MS_Y_ACCESS=3") != std::string::npos;
    invariant += name.find("MS_INVARIANT=1") != std::string::npos;
    prepared += name.find("MS_PREPARED=1") != std::string::npos;
    (name.find("MS_CUT=1") != std::string::npos ? cut : whole) += 1;
  }
  EXPECT_GE(whole, 12);
  EXPECT_GE(cut, 6);
  EXPECT_GE(carries, 4);
  EXPECT_GE(composes, 2);
  EXPECT_GE(packed, 20);
  EXPECT_GE(invariant, 8);
  EXPECT_GE(relays, 30);
  EXPECT_GE(relays_served, 18);
  EXPECT_GE(wrapped, 24);
  EXPECT_GE(served, 20);
  EXPECT_GE(whole_rows, 20);
  EXPECT_GE(abreast, 12);
  EXPECT_GE(whole_sectors, 4);
  EXPECT_GE(direct, 20);
  EXPECT_GE(together, 17);
  EXPECT_GE(tabulated, 14);
  EXPECT_GE(prepares, 12);
  EXPECT_GE(prepared, 20);
}

// Static shared memory above 48 KB does not load on a GPU.
TEST(EmulatedKernels, KeepTheirSharedMemoryWithin48KB) {
  ASSERT_FALSE(shipped_kernels().empty());
  for (const KernelImage* kernel : shipped_kernels())
    EXPECT_LE(kernel->shared_end - kernel->shared_begin, 48 * 1024) << kernel->name;
}

}  // namespace
}  // namespace emulator
