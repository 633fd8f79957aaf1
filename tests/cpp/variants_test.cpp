// Every kernel variant that ships, compiled for every architecture it may meet: no spills, shared memory that every
// GPU has, and quick enough to be compiled while somebody waits. NVRTC needs neither a driver nor a GPU for this.
//   MAMBA_SCAN_NVRTC            an NVRTC 13 (a file); otherwise whichever is found on this machine
//   MAMBA_SCAN_TEST_NVRTC12     an NVRTC 12.9, the last one for sm_61 and sm_70
//   MAMBA_SCAN_VARIANTS_REPORT  a file for the table of what the compiler said
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "jit/compiler.h"
#include "jit/jit_error.h"
#include "jit/nvrtc_discovery.h"
#include "ops/plan.h"
#include "platform/environment.h"
#include "thread_time.h"

namespace mamba_scan {
namespace {

constexpr double kLongestCompileMs = 3000;  // of CPU time, so that a busy machine does not fail the test
constexpr std::int64_t kMostSharedBytes = 48 * 1024;
constexpr int kThreads = 2;

struct Row {
  std::string variant;
  std::string arch;
  std::string error;
  jit::BinaryInfo info;
  double cpu_ms = 0;
};

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
    const auto path = platform::environment_variable("MAMBA_SCAN_VARIANTS_REPORT");
    if (!path || report().empty()) return;
    std::ofstream out(*path, std::ios::binary);
    out << "arch    NVRTC     registers  shared bytes  stack bytes  spilled bytes  CPU ms  variant\n";
    for (const Row& row : report()) {
      char line[128];
      std::snprintf(line, sizeof line, "%-7s %-9s %9d %13lld %12lld %14lld %7.0f  ", row.arch.c_str(),
                    row.info.nvrtc_version.c_str(), row.info.registers, static_cast<long long>(row.info.shared_bytes),
                    static_cast<long long>(row.info.local_bytes), static_cast<long long>(row.info.spill_store_bytes),
                    row.cpu_ms);
      out << line << row.variant << (row.error.empty() ? "" : "  DOES NOT COMPILE") << "\n";
    }
    EXPECT_TRUE(out.flush()) << "MAMBA_SCAN_VARIANTS_REPORT: cannot write " << *path;
  }

  static std::vector<Row>& report() {
    static std::vector<Row> rows;
    return rows;
  }
};

Row compile(const jit::NvrtcLibrary& nvrtc, const jit::Variant& variant, const jit::KernelSources& sources,
            const jit::CompileTarget& target) {
  Row row;
  row.variant = variant.name();
  row.arch = target.arch;
  const double start = test::thread_cpu_ms();
  try {
    row.info = jit::compile(nvrtc, variant, sources.bundle(variant.source), target,
                            jit::compile_options(variant, target, nvrtc.facts(), false))
                   .info;
  } catch (const jit::JitError& error) {
    row.error = error.what();
  }
  row.cpu_ms = test::thread_cpu_ms() - start;
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
    EXPECT_GE(row.info.shared_bytes, 0);
    EXPECT_LE(row.info.shared_bytes, kMostSharedBytes);
    EXPECT_GT(row.cpu_ms, 0);
    EXPECT_LE(row.cpu_ms, kLongestCompileMs);
  }
}

INSTANTIATE_TEST_SUITE_P(Sm, Variants, testing::Values(61, 70, 75, 80, 86, 87, 89, 90, 100, 120),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace mamba_scan
