// Every kernel variant that ships, compiled for every architecture it may meet: no spills, shared memory that every
// GPU has, and quick enough to be compiled while somebody waits. NVRTC needs neither a driver nor a GPU for this.
//   MAMBA_SCAN_NVRTC            an NVRTC 13 (a file); otherwise whichever is found on this machine
//   MAMBA_SCAN_TEST_NVRTC12     an NVRTC 12.9, the last one for sm_61 and sm_70
//   MAMBA_SCAN_VARIANTS_REPORT  a file for the table of what the compiler said
//   MAMBA_SCAN_RESOURCES_REPORT a file for the table of what that means for each GPU
//   MAMBA_SCAN_VARIANTS_CACHE   a folder to keep what was compiled: the next run compiles what changed since
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gpu_limits.h"
#include "jit/cache_key.h"
#include "jit/compiler.h"
#include "jit/disk_cache.h"
#include "jit/jit_error.h"
#include "jit/nvrtc_discovery.h"
#include "ops/plan.h"
#include "platform/environment.h"
#include "problem_without_data.h"
#include "resource_report.h"
#include "thread_time.h"

namespace mamba_scan {
namespace {

constexpr double kLongestCompileMs = 3000;  // of CPU time, so that a busy machine does not fail the test
constexpr std::int64_t kMostSharedBytes = 48 * 1024;
constexpr int kThreads = 2;

struct Row {
  jit::Variant kernel;
  std::string variant;
  std::string arch;
  std::string error;
  jit::BinaryInfo info;
};

// One for each scheduler. The 64 KiB of Turing hold three warps with B and C of 256 states.
int fewest_warps_per_sm(int capability, const jit::Variant& variant) {
  return capability == 75 && std::stoi(test::define_of(variant, "MS_DSTATE")) > 128 ? 3 : 4;
}

// For the table of resources, filled by the tests in the order they run.
struct Resources {
  std::vector<test::KernelRow> kernels;
  std::vector<test::PlanRow> plans;
  std::map<std::string, jit::BinaryInfo> compiled;  // by architecture and variant
};

Resources& resources() {
  static Resources collected;
  return collected;
}

void write_resources() {
  const auto path = platform::environment_variable("MAMBA_SCAN_RESOURCES_REPORT");
  if (!path || resources().kernels.empty()) return;
  std::ofstream out(*path, std::ios::binary);
  test::write_kernels(out, resources().kernels);
  if (!resources().plans.empty()) test::write_plans(out, resources().plans);
  EXPECT_TRUE(out.flush()) << "MAMBA_SCAN_RESOURCES_REPORT: cannot write " << *path;
}

// The NVRTC for this capability, or why there is none to test with.
struct Nvrtc {
  std::shared_ptr<const jit::NvrtcLibrary> library;
  std::string missing;
};

Nvrtc nvrtc_for(int capability) {
  if (capability < 75) {
    const auto path = platform::environment_variable("MAMBA_SCAN_TEST_NVRTC12");
    if (!path) return {nullptr, "MAMBA_SCAN_TEST_NVRTC12 does not name an NVRTC 12.9"};
    return {jit::NvrtcLibrary::load(*path), ""};
  }
  const jit::NvrtcSearch search = jit::find_nvrtc(*jit::system_nvrtc_environment(nullptr), {capability, 0}, {});
  if (!search.choice) return {nullptr, search.error};
  return {jit::NvrtcLibrary::load(search.choice->path), ""};
}

class Variants : public testing::TestWithParam<int> {
 protected:
  static void TearDownTestSuite() {
    write_resources();
    const auto path = platform::environment_variable("MAMBA_SCAN_VARIANTS_REPORT");
    if (!path || report().empty()) return;
    std::ofstream out(*path, std::ios::binary);
    out << "arch    NVRTC     registers  shared bytes  stack bytes  spilled bytes  CPU ms  variant\n";
    for (const Row& row : report()) {
      char line[128];
      std::snprintf(line, sizeof line, "%-7s %-9s %9d %13lld %12lld %14lld %7.0f  ", row.arch.c_str(),
                    row.info.nvrtc_version.c_str(), row.info.registers, static_cast<long long>(row.info.shared_bytes),
                    static_cast<long long>(row.info.local_bytes), static_cast<long long>(row.info.spill_store_bytes),
                    row.info.compile_ms);
      out << line << row.variant << (row.error.empty() ? "" : "  DOES NOT COMPILE") << "\n";
    }
    EXPECT_TRUE(out.flush()) << "MAMBA_SCAN_VARIANTS_REPORT: cannot write " << *path;
  }

  static std::vector<Row>& report() {
    static std::vector<Row> rows;
    return rows;
  }
};

jit::DiskCache& kept() {
  static jit::DiskCache cache(platform::environment_variable("MAMBA_SCAN_VARIANTS_CACHE").value_or(""),
                              jit::DiskCache::kDefaultLimit);
  return cache;
}

// compile_ms is CPU time, as this file reports it. Throws JitError.
jit::BinaryInfo compile_or_load(const jit::NvrtcLibrary& nvrtc, const jit::Variant& variant,
                                const jit::KernelSources& sources, const jit::CompileTarget& target) {
  const jit::SourceBundle bundle = sources.bundle(variant.source);
  const std::vector<std::string> options = jit::compile_options(variant, target, nvrtc.facts(), false);
  const std::string key = jit::cache_key(variant, bundle, target, options, nvrtc.facts());
  if (const auto binary = kept().load(key)) return binary->info;
  const double start = test::thread_cpu_ms();
  jit::Binary binary = jit::compile(nvrtc, variant, bundle, target, options);
  binary.info.compile_ms = test::thread_cpu_ms() - start;
  if (binary.info.compile_ms <= kLongestCompileMs) kept().store(key, binary);  // else measured again next time
  return binary.info;
}

Row compile(const jit::NvrtcLibrary& nvrtc, const jit::Variant& variant, const jit::KernelSources& sources,
            const jit::CompileTarget& target) {
  Row row;
  row.kernel = variant;
  row.variant = variant.name();
  row.arch = target.arch;
  try {
    row.info = compile_or_load(nvrtc, variant, sources, target);
  } catch (const jit::JitError& error) {
    row.error = error.what();
  }
  return row;
}

std::vector<Row> compile_all(const jit::NvrtcLibrary& nvrtc, const std::vector<jit::Variant>& variants,
                             const jit::CompileTarget& target) {
  const jit::KernelSources sources = jit::KernelSources::from_environment();
  std::vector<Row> rows(variants.size());
  std::atomic<std::size_t> next{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (std::size_t i = next++; i < variants.size(); i = next++)
        rows[i] = compile(nvrtc, variants[i], sources, target);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return rows;
}

TEST_P(Variants, CompileWithoutSpillsWithinLimits) {
  const int capability = GetParam();
  const Nvrtc nvrtc = nvrtc_for(capability);
  if (nvrtc.library == nullptr) GTEST_SKIP() << nvrtc.missing;
  const jit::CompileTarget target = jit::choose_target(capability, nvrtc.library->facts());
  if (target.is_ptx) {
    GTEST_SKIP() << "NVRTC " << nvrtc.library->facts().version << " at " << nvrtc.library->path()
                 << " makes no machine code for sm_" << capability;
  }
  const std::vector<jit::Variant> variants = ops::shipped_variants(capability);
  ASSERT_FALSE(variants.empty());

  const std::vector<Row> rows = compile_all(*nvrtc.library, variants, target);
  report().insert(report().end(), rows.begin(), rows.end());
  for (const Row& row : rows) {
    SCOPED_TRACE(row.variant + " for " + row.arch);
    ASSERT_TRUE(row.error.empty()) << row.error;
    EXPECT_GT(row.info.registers, 0) << "the compiler did not say how many registers it used:\n" << row.info.log;
    EXPECT_EQ(row.info.spill_store_bytes, 0);
    EXPECT_EQ(row.info.spill_load_bytes, 0);
    EXPECT_EQ(row.info.local_bytes, 0) << "an array that is no registers";
    EXPECT_GE(row.info.shared_bytes, 0);
    EXPECT_LE(row.info.shared_bytes, kMostSharedBytes);
    EXPECT_GT(row.info.compile_ms, 0);
    EXPECT_LE(row.info.compile_ms, kLongestCompileMs);
    resources().compiled[row.arch + row.variant] = row.info;
    const test::SmLimits* limits = test::sm_limits_of(capability);
    if (limits == nullptr) continue;
    resources().kernels.push_back({row.kernel, row.info, capability});
    const std::int64_t shared_bytes = test::shared_bytes_of(row.kernel, row.info);
    const test::Occupancy occupancy =
        test::occupancy_of(row.info.registers, shared_bytes, test::block_threads_of(row.kernel), *limits);
    EXPECT_GE(occupancy.warps(), fewest_warps_per_sm(capability, row.kernel))
        << "schedulers without a warp, for want of " << occupancy.limit() << ": " << row.info.registers
        << " registers per thread, " << shared_bytes << " bytes of shared memory per block";
  }
}

// As on a device newer than its NVRTC, which then compiles for an architecture without what the plan counts on.
TEST(OlderArchitecture, CompilesWhatIsPlannedForHopper) {
  const Nvrtc nvrtc = nvrtc_for(89);
  if (nvrtc.library == nullptr) GTEST_SKIP() << nvrtc.missing;
  std::vector<jit::Variant> variants;
  for (jit::Variant& variant : ops::shipped_variants(90))
    if (test::define_of(variant, "MS_BULK") == "1") variants.push_back(std::move(variant));
  ASSERT_FALSE(variants.empty());
  variants.resize(std::min<std::size_t>(variants.size(), 4));
  for (const Row& row : compile_all(*nvrtc.library, variants, {"compute_89", true}))
    EXPECT_TRUE(row.error.empty()) << row.variant << ": " << row.error;
}

// ---- plans for GPUs that nobody here has
// -----------------------------------------------------------------------------

SelectiveScanProblem problem_of(Index batch, Index seqlen, Index dim, Index dstate, bool seq_last, bool full) {
  const auto p = test::problem_of(batch, seqlen, dim, dstate, DType::kFloat16, seq_last);
  return full ? test::full(p) : p;
}

// Exponentials in the fair share of one scheduler. A warp evaluates 256 in a step when a lane holds eight states.
double share(const SelectiveScanProblem& p, const test::GpuModel& gpu) {
  return static_cast<double>(ops::forward_work(p).exps) / (4 * gpu.sm_count);
}
constexpr double kStep = 32 * 8;
constexpr double kSomeWork = 64 * kStep;
constexpr double kAll = 0.9;  // whole sequences may miss the number of schedulers by a few

// Work for all, in sequences so long that the carries of cutting them cost next to nothing?
bool needs_every_scheduler(const SelectiveScanProblem& p, const test::GpuModel& gpu) {
  const bool fits = gpu.capability > 75 || p.dstate <= 128;  // see fewest_warps_per_sm()
  return fits && share(p, gpu) >= 1024 * kStep && p.dstate >= 8 && p.seqlen >= 8192;
}

// 0 also for what no such GPU has memory for.
double fewest_warps_per_scheduler(const SelectiveScanProblem& p, const test::GpuModel& gpu) {
  constexpr Index kMostBytes = Index{24} << 30;
  if (ops::forward_work(p).bytes > kMostBytes) return 0;
  return needs_every_scheduler(p, gpu) ? kAll : share(p, gpu) >= kSomeWork ? 0.45 : 0;
}

// Where every scheduler could have some steps, about half of them may stay idle, because a sequence cut among them
// needs its carries first.
TEST(Resources, EveryPlanHasWarpsForTheSchedulers) {
  std::mt19937 random(20261123);
  const auto pick = [&](Index low, Index high) {  // evenly over the orders of magnitude
    const double part = std::uniform_real_distribution<>(0, 1)(random);
    return static_cast<Index>(static_cast<double>(low) *
                              std::pow(static_cast<double>(high) / static_cast<double>(low), part));
  };
  for (const test::GpuModel& gpu : test::gpu_models()) {
    int some = 0, all = 0;
    for (int i = 0; i < 400; ++i) {
      const Index batch = pick(1, 64), seqlen = pick(100, 200000), dim = pick(64, 8192), dstate = pick(1, 256);
      const SelectiveScanProblem p = problem_of(batch, seqlen, dim, dstate, i % 2 == 1, i % 3 == 1);
      const double fewest = fewest_warps_per_scheduler(p, gpu);
      if (fewest == 0) continue;
      ++(fewest == kAll ? all : some);
      const ops::ForwardPlan plan = ops::plan_forward(p, test::report_of(gpu));
      const Index warps = test::warps_of(plan);
      EXPECT_GE(static_cast<double>(warps), fewest * 4 * gpu.sm_count)
          << gpu.name << ": " << p.batch << " x " << p.seqlen << " x " << p.dim << " x " << p.dstate
          << (i % 2 == 1 ? ", sequence last" : "");
    }
    EXPECT_GT(some, 50) << gpu.name;
    EXPECT_GT(all, 20) << gpu.name;
  }
}

const jit::BinaryInfo& compiled(const jit::NvrtcLibrary& nvrtc, const jit::Variant& variant,
                                const jit::CompileTarget& target) {
  const std::string key = target.arch + variant.name();
  if (!resources().compiled.contains(key)) {
    const Row row = compile(nvrtc, variant, jit::KernelSources::from_environment(), target);
    EXPECT_TRUE(row.error.empty()) << row.error;
    resources().compiled[key] = row.info;
  }
  return resources().compiled[key];
}

TEST(Resources, SmallAndLargeGpusHoldAWarpForEveryScheduler) {
  const SelectiveScanProblem problems[] = {
      problem_of(64, 2048, 1536, 16, false, true),   // training
      problem_of(1, 16384, 2048, 16, false, false),  // one long prompt
      problem_of(1, 1024, 256, 16, false, false),    // a short one
  };
  for (const test::GpuModel& gpu : test::gpu_models()) {
    const Nvrtc nvrtc = nvrtc_for(gpu.capability);
    if (nvrtc.library == nullptr) GTEST_SKIP() << nvrtc.missing;
    const jit::CompileTarget target = jit::choose_target(gpu.capability, nvrtc.library->facts());
    if (target.is_ptx) continue;
    for (const SelectiveScanProblem& p : problems) {
      test::PlanRow row{&gpu, p, ops::plan_forward(p, test::report_of(gpu)), {}};
      row.info = compiled(*nvrtc.library, row.plan.variant.scan(), target);
      SCOPED_TRACE(std::string(gpu.name) + ": " + row.plan.variant.scan().name());
      EXPECT_EQ(row.info.spill_store_bytes, 0);
      EXPECT_LE(row.info.shared_bytes, kMostSharedBytes);
      EXPECT_GE(row.occupancy().warps(), fewest_warps_per_sm(gpu.capability, row.plan.variant.scan()))
          << "for want of " << row.occupancy().limit();
      EXPECT_GE(row.warps_per_scheduler(), fewest_warps_per_scheduler(p, gpu));
      resources().plans.push_back(std::move(row));
    }
  }
  write_resources();
}

INSTANTIATE_TEST_SUITE_P(Sm, Variants, testing::Values(61, 70, 75, 80, 86, 87, 89, 90, 100, 120),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace mamba_scan
