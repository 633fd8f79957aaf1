// Long scans on a device with a watchdog: how they are divided, and that the parts make the whole. The fake driver runs
// the CPU backend where a GPU would run the kernel.
#include "ops/launch_split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu_for_gpu.h"
#include "fake_gpu.h"
#include "ops/plan.h"
#include "ops/runtime.h"
#include "ops/selective_scan.h"
#include "ops/tuning.h"

namespace mamba_scan::ops {
namespace {

driver::DeviceReport card(int sm_count = 8, bool watchdog = true) {
  driver::DeviceReport device;
  device.major = 7;
  device.minor = 5;
  device.sm_count = sm_count;
  device.watchdog = watchdog;
  device.clock_khz = 1000000;
  device.memory_clock_khz = 5000000;
  device.memory_bus_bits = 128;
  device.max_threads_per_sm = 1024;
  device.max_blocks_per_sm = 16;
  device.shared_per_sm = 64 << 10;
  return device;
}

alignas(16) float memory[8];  // where only addresses matter

SelectiveScanProblem problem_of(Index batch, Index seqlen, Index dim, Index dstate = 16, Index ngroups = 1) {
  SelectiveScanProblem p{};
  p.batch = batch, p.seqlen = seqlen, p.dim = dim, p.dstate = dstate, p.ngroups = ngroups;
  p.dtype = DType::kFloat16;
  p.u = p.delta = p.y = {memory, seqlen * dim, dim, 1};
  p.B = p.C = {memory, seqlen * ngroups * dstate, ngroups * dstate, dstate, 1, false};
  p.A = memory;
  p.A_dim_stride = dstate;
  p.A_state_stride = 1;
  return p;
}

std::vector<double> launch_times(const LaunchSplit& split, const driver::DeviceReport& device) {
  std::vector<double> times;
  for (const LaunchPiece& piece : split.pieces) times.push_back(estimated_launch_ms(piece.problem, device));
  return times;
}

TEST(LaunchSplit, EstimatesTheRoofOfTheDevice) {
  // 2^33 exponentials at 8 * 16 per clock and 1 GHz are 67.1 ms, times 4.
  EXPECT_NEAR(estimated_launch_ms(problem_of(1, 1 << 18, 2048), card()), 4 * 67.1, 0.1);
  EXPECT_NEAR(estimated_launch_ms(problem_of(1, 1 << 18, 2048), card(16)), 2 * 67.1, 0.1);
  // With one state memory binds: 3 * 2 bytes per (step, channel) at 160 GB/s.
  EXPECT_NEAR(estimated_launch_ms(problem_of(1, 1 << 20, 2048, 1), card()), 4 * 80.5, 0.3);
  // Slices of 128 states at most are launches of their own.
  EXPECT_EQ(estimated_launch_ms(problem_of(1, 4096, 64, 512), card()),
            estimated_launch_ms(problem_of(1, 4096, 64, 128), card()));
  // One complex sequence cannot fill a device: 500 clocks for each of 2^18 steps.
  auto narrow = problem_of(1, 1 << 18, 8);
  narrow.is_complex = true;
  EXPECT_NEAR(estimated_launch_ms(narrow, card()), 131.1, 0.1);
  // Nor can a packed one that has to be invariant, or one whose final state replaces the initial one: 250 clocks.
  static const int ends[2] = {};
  auto packed = problem_of(1, 1 << 18, 8);
  packed.cu_seqlens = ends, packed.sequences = 1;
  EXPECT_LT(estimated_launch_ms(packed, card()), 2);
  packed.chunk_invariant = true;
  EXPECT_NEAR(estimated_launch_ms(packed, card()), 65.5, 0.1);
  auto in_place = problem_of(1, 1 << 18, 8);
  in_place.initial_state = in_place.final_state = {memory, 128, 16, 1};
  EXPECT_NEAR(estimated_launch_ms(in_place, card()), 65.5, 0.1);
  // Elements apart are a sector of 32 bytes each: of one tensor of three.
  auto apart = problem_of(1, 1 << 20, 2048, 1);
  apart.u.dim_stride = 2, apart.u.seq_stride = 4096;
  EXPECT_NEAR(estimated_launch_ms(apart, card()), 4 * 80.5 * (32 + 2 + 2) / 6, 2);
  driver::DeviceReport unknown = card();
  unknown.clock_khz = unknown.memory_clock_khz = unknown.memory_bus_bits = 0;
  EXPECT_GT(estimated_launch_ms(problem_of(1, 1 << 18, 2048), unknown),
            estimated_launch_ms(problem_of(1, 1 << 18, 2048), card()));
}

TEST(LaunchSplit, WithoutAWatchdogEverythingIsOneLaunch) {
  const auto p = problem_of(64, 1638400, 2048);
  EXPECT_FALSE(needs_split(p, card(8, false)));
  EXPECT_EQ(split_launches(p, card(8, false)).pieces.size(), 1u);
}

TEST(LaunchSplit, ShortScansStayWholeOnAnyDevice) {
  EXPECT_FALSE(needs_split(problem_of(1, 16384, 2048), card()));
  EXPECT_FALSE(needs_split(problem_of(0, 0, 0), card()));
}

TEST(LaunchSplit, DividesTheBatchThenGroupsThenChannelsThenTime) {
  const auto device = card();
  const auto pieces = [&](const SelectiveScanProblem& p) { return split_launches(p, device).pieces; };
  // A sequence of 2048 steps and channels takes 2.1 ms: 47 at once.
  auto batch = pieces(problem_of(100, 2048, 2048));
  ASSERT_EQ(batch.size(), 3u);
  EXPECT_EQ(batch[0].problem.batch, 34);
  EXPECT_EQ(batch[2].problem.batch, 32);
  EXPECT_EQ(batch[2].problem.dim, 2048);

  auto groups = pieces(problem_of(1, 1 << 18, 2048, 16, 8));
  ASSERT_EQ(groups.size(), 4u);
  EXPECT_EQ(groups[0].problem.ngroups, 2);
  EXPECT_EQ(groups[0].problem.dim, 512);

  auto channels = pieces(problem_of(1, 1 << 20, 2000, 16, 2));
  EXPECT_EQ(channels[0].problem.ngroups, 1);
  EXPECT_EQ(channels[0].problem.dim % 128, 0);
  EXPECT_EQ(channels[0].problem.seqlen, 1 << 20);
  EXPECT_FALSE(channels[0].gives_state);

  const LaunchSplit time = split_launches(problem_of(1, Index{1} << 22, 128), device);
  ASSERT_GT(time.pieces.size(), 2u);
  EXPECT_FALSE(time.pieces[0].takes_state);
  EXPECT_TRUE(time.pieces[0].gives_state);
  EXPECT_TRUE(time.pieces[1].takes_state && time.pieces[1].gives_state);
  EXPECT_FALSE(time.pieces.back().gives_state);
  EXPECT_EQ(time.pieces[0].problem.seqlen % kInvariantSteps, 0);
  EXPECT_EQ(time.state_bytes, 2u * 128 * 16 * 4);
}

TEST(LaunchSplit, PartsOfAPackedRowCountFromItsFirstStep) {
  static const int ends[4] = {};
  for (const bool reverse : {false, true}) {
    auto p = problem_of(1, Index{1} << 22, 128);
    p.cu_seqlens = ends;
    p.sequences = 3;
    p.reverse = reverse;
    const LaunchSplit split = split_launches(p, card());
    ASSERT_GT(split.pieces.size(), 2u);
    EXPECT_EQ(split.state_bytes, 2u * 3 * 128 * 16 * 4);  // of every sequence
    Index scanned = 0;
    for (const LaunchPiece& piece : split.pieces) {
      const Index after = p.seqlen - scanned - piece.problem.seqlen;
      EXPECT_EQ(piece.problem.packed_begin, reverse ? after : scanned);
      EXPECT_EQ(piece.problem.cu_seqlens, ends);
      EXPECT_EQ(piece.takes_state, scanned > 0);
      EXPECT_EQ(piece.gives_state, after > 0);
      scanned += piece.problem.seqlen;
    }
    EXPECT_EQ(scanned, p.seqlen);
  }
}

// Dividing channels does not shorten a sequence.
TEST(LaunchSplit, LongSequencesThatRunWholeAreDividedInTimeAlone) {
  auto p = problem_of(2, 1 << 19, 256, 1);
  p.is_complex = true;
  const LaunchSplit split = split_launches(p, card());
  ASSERT_EQ(split.pieces.size(), 3u);  // of 0.2 million steps
  for (const LaunchPiece& piece : split.pieces) {
    EXPECT_EQ(piece.problem.batch, 2);
    EXPECT_EQ(piece.problem.dim, 256);
  }
  EXPECT_FALSE(split.pieces[2].gives_state);
}

TEST(LaunchSplit, PartsOfAnInvariantScanDoNotDependOnItsLength) {
  std::mt19937 random(std::random_device{}());
  for (int i = 0; i < 200; ++i) {
    const auto pick = [&](Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); };
    const Index groups = pick(1, 3);
    auto p = problem_of(pick(1, 100), 1, groups * pick(1, 3000), pick(1, 300), groups);
    p.chunk_invariant = true;
    static const int ends[3] = {};
    if (pick(0, 2) == 0) p.batch = 1, p.cu_seqlens = ends, p.sequences = 2;
    const auto parts = [&](Index seqlen) {
      p.seqlen = seqlen;
      p.u.dim_stride = pick(1, 2);
      p.initial_state = p.final_state = {};
      if (pick(0, 1)) p.initial_state = {memory, 0, p.dstate, 1};
      if (pick(0, 1)) p.final_state = {memory, 0, p.dstate, 1};
      if (!needs_split(p, card())) return std::pair{p.batch, p.dim};
      const LaunchPiece first = split_launches(p, card()).pieces.front();
      return std::pair{first.problem.batch, first.problem.dim};
    };
    SCOPED_TRACE(std::to_string(p.batch) + " x " + std::to_string(p.dim) + " x " + std::to_string(p.dstate));
    const auto expected = parts(kInvariantSteps);
    EXPECT_EQ(parts(pick(1, 2047)), expected);
    EXPECT_EQ(parts(pick(2049, 50000)), expected);
  }
}

TEST(LaunchSplit, NoLaunchTakesLongOnSmallDevices) {
  std::mt19937 random(std::random_device{}());
  for (int sm_count : {8, 16, 36, 82, 128, 132})
    for (int i = 0; i < 50; ++i) {
      const auto pick = [&](Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); };
      const Index groups = pick(1, 4);
      auto p = problem_of(pick(1, 300), pick(1, 1 << pick(0, 21)), groups * pick(1, 3000), pick(1, 1000), groups);
      p.reverse = pick(0, 1) == 1;
      p.is_complex = pick(0, 1) == 1;
      p.chunk_invariant = pick(0, 1) == 1;
      if (p.batch == 1 || pick(0, 3) == 0) {
        static const int ends[1] = {};
        p.batch = 1, p.cu_seqlens = ends, p.sequences = pick(1, 100);
      }
      SCOPED_TRACE(std::to_string(p.batch) + " x " + std::to_string(p.seqlen) + " x " + std::to_string(p.dim) + " x " +
                   std::to_string(p.dstate) + ", " + std::to_string(groups) + " groups");
      const LaunchSplit split = split_launches(p, card(sm_count));
      double steps = 0;
      for (const LaunchPiece& piece : split.pieces)
        steps +=
            static_cast<double>(piece.problem.batch * piece.problem.seqlen) * static_cast<double>(piece.problem.dim);
      EXPECT_EQ(steps, static_cast<double>(p.batch * p.seqlen) * static_cast<double>(p.dim));
      for (double ms : launch_times(split, card(sm_count))) ASSERT_LE(ms, kLongestLaunchMs);
    }
}

// ---- the parts make the whole ----

// A scan on the host with all of its memory. Inputs are the same for the same seed.
struct HostScan {
  SelectiveScanProblem p{};
  std::vector<float> u, delta, z, B, C, A, D, bias, initial, y, final_state;
  std::vector<int> boundaries;

  HostScan(Index batch, Index seqlen, Index dim, Index dstate, Index ngroups, bool seq_last, bool is_complex,
           unsigned seed) {
    std::mt19937 random(seed);
    const auto fill = [&](std::vector<float>& data, Index count, float low, float high) {
      std::uniform_real_distribution<float> uniform(low, high);
      data.resize(static_cast<std::size_t>(count));
      for (float& value : data) value = uniform(random);
      return data.data();
    };
    const Index elements = batch * seqlen * dim, n = dstate * (is_complex ? 2 : 1);  // numbers
    const Index projection = batch * seqlen * ngroups * n, step = n / dstate;
    const auto sequence = [&](float* data) {
      return SequenceTensor{data, seqlen * dim, seq_last ? 1 : dim, seq_last ? seqlen : 1};
    };
    p.batch = batch, p.seqlen = seqlen, p.dim = dim, p.dstate = dstate, p.ngroups = ngroups;
    p.dtype = DType::kFloat32;
    p.u = sequence(fill(u, elements, -1, 1));
    p.delta = sequence(fill(delta, elements, 0.001f, 0.1f));
    p.z = sequence(fill(z, elements, -2, 2));
    p.y = sequence(fill(y, elements, 0, 0));
    p.is_complex = is_complex;
    p.B = {fill(B, projection, -1, 1), seqlen * ngroups * n, ngroups * n, n, step, false, 1};
    p.C = {fill(C, projection, -1, 1), seqlen * ngroups * n, ngroups * n, n, step, false, 1};
    p.A = fill(A, dim * n, -2, -0.01f);
    p.A_dim_stride = n;
    p.A_state_stride = step;
    p.A_imag_stride = 1;
    p.D = fill(D, dim, -1, 1);
    p.delta_bias = fill(bias, dim, 0, 0.1f);
    p.initial_state = {fill(initial, batch * dim * n, -1, 1), dim * n, n, step, 1};
    p.final_state = {fill(final_state, batch * dim * n, 0, 0), dim * n, n, step, 1};
    std::memset(y.data(), 0xff, y.size() * sizeof(float));
    std::memset(final_state.data(), 0xff, final_state.size() * sizeof(float));
  }

  // In place of the batch of one: `sequences` packed ones, some of them empty.
  void pack(Index sequences) {
    std::mt19937 random(7);
    for (Index i = 1; i < sequences; ++i) boundaries.push_back(static_cast<int>(random() % (p.seqlen + 1)));
    boundaries.insert(boundaries.end(), {0, 0, static_cast<int>(p.seqlen), static_cast<int>(p.seqlen)});
    std::sort(boundaries.begin(), boundaries.end());
    p.cu_seqlens = boundaries.data();
    p.sequences = static_cast<Index>(boundaries.size()) - 1;
    std::uniform_real_distribution<float> uniform(-1, 1);
    initial.resize(initial.size() * static_cast<std::size_t>(p.sequences));
    for (float& value : initial) value = uniform(random);
    final_state.assign(initial.size(), std::nanf(""));
    p.initial_state.data = initial.data();
    p.final_state.data = final_state.data();
  }

  void expect_same_outputs(const HostScan& other) const {
    const auto difference = [](const std::vector<float>& a, const std::vector<float>& b) {
      float largest = 0;
      for (std::size_t i = 0; i < a.size(); ++i) {
        const float relative = std::fabs(a[i] - b[i]) / (1 + std::fabs(b[i]));
        if (!(relative <= largest)) largest = relative;
      }
      return largest;
    };
    EXPECT_LE(difference(y, other.y), 1e-5f);
    EXPECT_LE(difference(final_state, other.final_state), 1e-5f);
  }
};

int launches = 0;
double longest_ms = 0;
std::vector<const void*> carries;  // of all launches, where the states of segments go

void run_on_cpu(const char* entry, void** arguments) {
  const auto& params = *static_cast<const SelectiveScanForwardParams*>(arguments[0]);
  if (params.carry_state != nullptr) carries.push_back(params.carry_state);
  const auto problem = test::launched_scan(entry, arguments);
  if (!problem) return;
  ++launches;
  longest_ms = std::max(longest_ms, estimated_launch_ms(*problem, runtime().device(1).report));
  cpu::selective_scan(*problem, 1);
}

class LaunchSplitOnDevice : public testing::Test {
 protected:
  struct Scratch : ScratchAllocator {
    std::vector<std::vector<float>> buffers;
    std::size_t bytes = 0;  // of the last one
    void* allocate(std::size_t wanted) override {
      bytes = wanted;
      buffers.emplace_back(bytes / sizeof(float) + 64);
      std::memset(buffers.back().data(), 0xff, bytes);
      return buffers.back().data();
    }
  };

  // Device 0 has no watchdog, device 1 does: the whole and the parts. Slow ones, so that short scans take long: 20
  // million exponentials at a time.
  static void SetUpTestSuite() {
    gpu = new test::FakeGpu("devices=75:1:Card:kHz50000,75:1:Display card:watchdog:kHz50000", run_on_cpu);
  }
  static void TearDownTestSuite() { delete gpu; }
  void SetUp() override {
    if (!platform::environment_variable("MAMBA_SCAN_NVRTC")) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  }

  int run(HostScan& scan, int device) {
    launches = 0;
    longest_ms = 0;
    carries.clear();
    Scratch scratch;
    selective_scan_cuda(scan.p, device, nullptr, scratch);
    EXPECT_LE(scratch.buffers.size(), 1u) << "an allocator may take back what it gave before";
    for (const void* carry : carries) {
      const auto* begin = reinterpret_cast<const char*>(scratch.buffers.at(0).data());
      const auto place = static_cast<const char*>(carry) - begin;
      EXPECT_GE(place, 0);
      EXPECT_LT(place, static_cast<std::ptrdiff_t>(scratch.bytes)) << "beyond what was asked for";
    }
    return launches;
  }

  using FakeCuda = tests::FakeCuda;
  static test::FakeGpu* gpu;
};
test::FakeGpu* LaunchSplitOnDevice::gpu = nullptr;

TEST_F(LaunchSplitOnDevice, PartsGiveWhatOneLaunchGives) {
  struct Shape {
    Index batch, seqlen, dim, dstate, ngroups;
    bool seq_last, reverse, is_complex;
    Index sequences = 0;  // packed, if not 0
  };
  // Divided over batch; over groups; over channels of uneven groups; in time as well; of packed sequences too.
  const Shape shapes[] = {
      {5, 3001, 90, 16, 1, false, false, false},    {1, 5000, 300, 16, 3, true, false, false},
      {1, 4097, 780, 13, 2, false, true, false},    {2, 120001, 5, 64, 1, false, false, false},
      {1, 20000, 131, 17, 1, true, false, false},   {1, 20000, 131, 17, 1, true, true, false},
      {1, 10001, 40, 64, 1, false, true, false},    {2, 10001, 9, 16, 3, false, true, true},
      {1, 12289, 5, 60, 1, true, false, true},      {1, 20000, 131, 17, 1, false, false, false, 9},
      {1, 20000, 131, 17, 1, true, true, false, 9}, {1, 12289, 5, 60, 1, false, true, true, 20},
  };
  for (const Shape& s : shapes) {
    SCOPED_TRACE(std::to_string(s.batch) + " x " + std::to_string(s.seqlen) + " x " + std::to_string(s.dim));
    const unsigned seed = std::random_device{}();
    HostScan whole(s.batch, s.seqlen, s.dim, s.dstate, s.ngroups, s.seq_last, s.is_complex, seed);
    HostScan parts(s.batch, s.seqlen, s.dim, s.dstate, s.ngroups, s.seq_last, s.is_complex, seed);
    whole.p.reverse = parts.p.reverse = s.reverse;
    if (s.sequences > 0) whole.pack(s.sequences), parts.pack(s.sequences);
    EXPECT_EQ(run(whole, 0), 1);
    EXPECT_GT(longest_ms, kLongestLaunchMs) << "nothing to divide";
    EXPECT_GT(run(parts, 1), 1);
    EXPECT_LE(longest_ms, kLongestLaunchMs);
    parts.expect_same_outputs(whole);
  }
}

// A choice that is tuned for the states between pieces, too, needs memory.
TEST_F(LaunchSplitOnDevice, AsksForTheMemoryOfThePlansThatItLaunches) {
  HostScan scan(1, 20000, 131, 17, 1, false, false, 1);
  const DeviceContext& device = runtime().device(1);
  LaunchSplit split = split_launches(scan.p, device.report);
  ASSERT_GT(split.pieces.size(), 2u);
  std::vector<char> states(split.state_bytes);
  hand_on_states(split, states.data());
  const SelectiveScanProblem& inner = split.pieces[1].problem;
  ASSERT_FALSE(plan_forward(inner, device.report).variant.cut);
  const std::vector<ExpectedChoice> choices = plan_choices(inner, device.report);
  const auto cut = std::find_if(choices.begin(), choices.end(), [&](const ExpectedChoice& expected) {
    return plan_forward(inner, device.report, &expected.choice).variant.cut;
  });
  ASSERT_NE(cut, choices.end());
  device_tuning(device).use(inner, TunedChoice{cut->choice, "", 1, 2});
  run(scan, 1);
  device_tuning(device).use(inner, std::nullopt);
  EXPECT_FALSE(carries.empty()) << "the tuned choice was not used";
}

}  // namespace
}  // namespace mamba_scan::ops
