#include "jit/compiler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <clocale>
#include <cstring>
#include <thread>

#include "jit/compile_log.h"
#include "jit/jit_error.h"
#include "jit/nvrtc_discovery.h"
#include "jit_test_support.h"

namespace mamba_scan::jit {
namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

bool has_option(const std::vector<std::string>& options, const std::string& option) {
  return std::find(options.begin(), options.end(), option) != options.end();
}

NvrtcFacts facts_of(int major, int minor, std::vector<int> archs) {
  return {major, minor, std::to_string(major) + "." + std::to_string(minor) + ".1", "CL-1", std::move(archs)};
}

// ---- targets and options: no NVRTC needed -------------------------------------------------------------------------

TEST(CompileTarget, IsACubinForAListedGpuAndTheNewestOlderPtxOtherwise) {
  const NvrtcFacts facts = facts_of(12, 9, {75, 80, 86, 90, 100, 120});
  EXPECT_EQ(choose_target(86, facts).arch, "sm_86");
  EXPECT_FALSE(choose_target(86, facts).is_ptx);
  EXPECT_EQ(choose_target(91, facts).arch, "compute_90");
  EXPECT_TRUE(choose_target(91, facts).is_ptx);
  EXPECT_EQ(choose_target(87, facts).arch, "compute_86");
  EXPECT_EQ(choose_target(121, facts).arch, "compute_120");
  EXPECT_EQ(choose_target(200, facts).arch, "compute_120");
}

TEST(CompileTarget, RefusesAGpuOlderThanEverythingListed) {
  try {
    choose_target(61, facts_of(13, 0, {75, 80}));
    FAIL();
  } catch (const JitError& error) {
    EXPECT_TRUE(contains(error.what(), "NVRTC 13.0.1 no longer compiles for sm_61 (its oldest is sm_75)"));
    EXPECT_TRUE(contains(error.what(), "pip install nvidia-cuda-nvrtc-cu12")) << error.what();
  }
}

TEST(CompileOptions, FollowTargetAndVersion) {
  const Variant variant{"a.cu", "k", {{"MS_B", "2"}, {"MS_A", "1"}}};
  const NvrtcFacts old = facts_of(12, 8, {90}), recent = facts_of(12, 9, {90}), next = facts_of(13, 0, {90});
  EXPECT_FALSE(has_option(compile_options(variant, {"sm_90", false}, old, false), "--no-cache"));
  EXPECT_TRUE(has_option(compile_options(variant, {"sm_90", false}, recent, false), "--no-cache"));
  EXPECT_EQ(compile_options(variant, {"sm_90", false}, next, true),
            (std::vector<std::string>{"--std=c++17", "--gpu-architecture=sm_90", "-Xptxas=-v", "--no-cache",
                                      "-lineinfo", "-DMS_B=2", "-DMS_A=1"}));
  EXPECT_FALSE(has_option(compile_options(variant, {"compute_90", true}, next, false), "-Xptxas=-v"));
}

TEST(VariantName, IsReadableAndUnique) {
  EXPECT_EQ((Variant{"a.cu", "k", {{"MS_A", "1"}, {"MS_B", "x"}}}.name()), "k[MS_A=1,MS_B=x]");
  EXPECT_EQ((Variant{"a.cu", "k", {}}.name()), "k[]");
}

// ---- the compiler's log -------------------------------------------------------------------------------------------

struct CapturedLog {
  const char* description;
  const char* text;
  int registers;
  int shared, local, stores, loads;
};

class CompileLog : public testing::TestWithParam<CapturedLog> {};

TEST_P(CompileLog, IsUnderstood) {
  const CapturedLog& captured = GetParam();
  BinaryInfo info;
  read_compile_log(captured.text, "scan_kernel", &info);
  EXPECT_EQ(info.registers, captured.registers);
  EXPECT_EQ(info.shared_bytes, captured.shared);
  EXPECT_EQ(info.local_bytes, captured.local);
  EXPECT_EQ(info.spill_store_bytes, captured.stores);
  EXPECT_EQ(info.spill_load_bytes, captured.loads);
}

// The words of NVRTC 12.9.86 (sm_61, sm_70) and 13.0.88 (the others), -Xptxas=-v, two kernels and a device function
// in one file; the last is what nvcc's ptxas of CUDA 11 and 12 prints, with a spilling device function.
INSTANTIATE_TEST_SUITE_P(
    Captured, CompileLog,
    testing::Values(
        CapturedLog{
            "sm_61",
            R"(nvrtc: warning: Architectures prior to '<compute/sm>_75' are deprecated and may be removed in a future release
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'scan_kernel' for 'sm_61'
ptxas info    : Function properties for scan_kernel
ptxas         .     304 bytes stack frame, 144 bytes spill stores, 148 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 304 bytes cumulative stack size, 384 bytes smem, 332 bytes cmem[0]
ptxas info    : Compile time = 25.044 ms
ptxas info    : Function properties for _Z4deepPfi
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function 'other' for 'sm_61'
ptxas info    : Function properties for other
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 4 registers, used 0 barriers, 328 bytes cmem[0]
ptxas info    : Compile time = 0.825 ms
)",
            64, 384, 304, 144, 148},
        CapturedLog{
            "sm_70",
            R"(nvrtc: warning: Architectures prior to '<compute/sm>_75' are deprecated and may be removed in a future release
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'scan_kernel' for 'sm_70'
ptxas info    : Function properties for scan_kernel
ptxas         .     288 bytes stack frame, 124 bytes spill stores, 128 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 288 bytes cumulative stack size, 384 bytes smem, 364 bytes cmem[0]
ptxas info    : Compile time = 20.542 ms
)",
            64, 384, 288, 124, 128},
        CapturedLog{"sm_75", R"(ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'scan_kernel' for 'sm_75'
ptxas info    : Function properties for scan_kernel
ptxas         .     224 bytes stack frame, 56 bytes spill stores, 56 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 224 bytes cumulative stack size, 384 bytes smem, 364 bytes cmem[0]
ptxas info    : Compile time = 36.447 ms
)",
                    64, 384, 224, 56, 56},
        CapturedLog{"sm_90_second_in_the_file", R"(ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'other' for 'sm_90'
ptxas info    : Function properties for other
ptxas         .     16 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 99 registers, used 0 barriers, 1024 bytes smem
ptxas info    : Compile time = 1.251 ms
ptxas info    : Compiling entry function 'scan_kernel' for 'sm_90'
ptxas info    : Function properties for scan_kernel
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
ptxas info    : Compile time = 31.449 ms
)",
                    8, 0, 0, 0, 0},
        CapturedLog{"sm_120", R"(ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'scan_kernel' for 'sm_120'
ptxas info    : Function properties for scan_kernel
ptxas         .     288 bytes stack frame, 128 bytes spill stores, 132 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 288 bytes cumulative stack size, 384 bytes smem
ptxas info    : Compile time = 52.430 ms
)",
                    64, 384, 288, 128, 132},
        CapturedLog{"indented", R"(ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'scan_kernel' for 'sm_86'
ptxas info    : Function properties for _Z4deepPfi
    40 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Function properties for scan_kernel
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 32 registers, 384 bytes smem, 352 bytes cmem[0]
)",
                    32, 384, 8, 16, 20},
        CapturedLog{"silent", "", -1, -1, -1, -1, -1}),
    [](const auto& info) { return std::string(info.param.description); });

// ---- the real NVRTC -----------------------------------------------------------------------------------------------

class RealNvrtc : public testing::Test {
 protected:
  void SetUp() override {
    if (!platform::environment_variable("MAMBA_SCAN_NVRTC")) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
    static const auto loaded = [] {
      const NvrtcSearch search = find_nvrtc(*system_nvrtc_environment(nullptr), {}, {});
      if (!search.choice) throw JitError(search.error);
      return NvrtcLibrary::load(search.choice->path);
    }();
    nvrtc_ = loaded;
  }

  Binary compile_for(int capability, const Variant& variant, const SourceBundle& bundle) const {
    const CompileTarget target = choose_target(capability, nvrtc_->facts());
    return compile(*nvrtc_, variant, bundle, target, compile_options(variant, target, nvrtc_->facts(), false));
  }

  std::shared_ptr<const NvrtcLibrary> nvrtc_;
};

// Of the calling thread.
auto current_locale() {
#if defined(_WIN32)
  return std::string(std::setlocale(LC_ALL, nullptr));
#else
  return uselocale(nullptr);
#endif
}

const Variant kVariant{"demo/demo.cu", "demo", {{"MS_SCALE", "3"}}};

SourceBundle demo_bundle() {
  return {{"demo/demo.cu",
           "#include \"demo/helper.h\"\n"
           "extern \"C\" __global__ void demo(float* x) {\n"
           "  __shared__ float tile[64];\n"
           "  tile[threadIdx.x % 64] = x[threadIdx.x];\n"
           "  __syncthreads();\n"
           "  x[threadIdx.x] = ms_scaled(tile[63 - threadIdx.x % 64]);\n"
           "}\n"},
          {{"demo/helper.h", "#pragma once\n__device__ float ms_scaled(float v) { return v * MS_SCALE; }\n"}}};
}

TEST_F(RealNvrtc, KnowsItsReleaseAndItsTargets) {
  const NvrtcFacts& facts = nvrtc_->facts();
  EXPECT_EQ(std::count(facts.version.begin(), facts.version.end(), '.'), 2) << facts.version;
  EXPECT_TRUE(facts.build.starts_with("CL-")) << facts.build;
  EXPECT_TRUE(facts.lists(90));
  EXPECT_TRUE(std::is_sorted(facts.archs.begin(), facts.archs.end()));
}

TEST_F(RealNvrtc, CompilesForEveryListedGpuWithHeadersFromMemory) {
  for (int capability : nvrtc_->facts().archs) {
    const Binary binary = compile_for(capability, kVariant, demo_bundle());
    ASSERT_GT(binary.bytes.size(), 4u);
    EXPECT_EQ(std::string(binary.bytes.data(), 4),
              "\x7F"
              "ELF");
    EXPECT_EQ(binary.info.arch, "sm_" + std::to_string(capability));
    EXPECT_EQ(binary.info.variant, "demo[MS_SCALE=3]");
    EXPECT_EQ(binary.info.entry, "demo");
    EXPECT_EQ(binary.info.nvrtc_version, nvrtc_->facts().version);
    EXPECT_EQ(binary.info.shared_bytes, 256) << binary.info.log;
    EXPECT_GT(binary.info.registers, 0) << binary.info.log;
    EXPECT_EQ(binary.info.local_bytes, 0);
    EXPECT_EQ(binary.info.spill_store_bytes, 0);
    EXPECT_EQ(binary.info.spill_load_bytes, 0);
    EXPECT_GT(binary.info.compile_ms, 0);
  }
}

TEST_F(RealNvrtc, GivesTheSameBytesEveryTime) {
  EXPECT_EQ(compile_for(90, kVariant, demo_bundle()).bytes, compile_for(90, kVariant, demo_bundle()).bytes);
}

TEST_F(RealNvrtc, WritesPtxForAGpuOfTheFuture) {
  const Binary binary = compile_for(999, kVariant, demo_bundle());
  const std::string newest = std::to_string(nvrtc_->facts().archs.back());
  EXPECT_TRUE(binary.info.is_ptx);
  EXPECT_EQ(binary.info.arch, "compute_" + newest);
  EXPECT_EQ(binary.info.registers, -1);
  const std::string text(binary.bytes.begin(), binary.bytes.end());
  EXPECT_TRUE(contains(text, ".target sm_" + newest));
  EXPECT_TRUE(contains(text, ".entry demo"));
  EXPECT_EQ(text.back(), '\0') << "the driver takes PTX as a terminated string";
}

TEST_F(RealNvrtc, ErrorShowsLogVariantAndOptions) {
  SourceBundle bundle = demo_bundle();
  bundle.source.text += "int broken = no_such_name;\n";
  try {
    compile_for(90, kVariant, bundle);
    FAIL() << "compiled nonsense";
  } catch (const JitError& error) {
    const std::string text = error.what();
    EXPECT_TRUE(contains(text, "demo/demo.cu(8): error: identifier \"no_such_name\" is undefined")) << text;
    EXPECT_TRUE(contains(text, "demo[MS_SCALE=3]")) << text;
    EXPECT_TRUE(contains(text, "sm_90")) << text;
    EXPECT_TRUE(contains(text, "-DMS_SCALE=3")) << text;
    EXPECT_TRUE(contains(text, nvrtc_->path())) << text;
  }
}

TEST_F(RealNvrtc, ErrorNamesAMissingHeader) {
  SourceBundle bundle = demo_bundle();
  bundle.headers.clear();
  try {
    compile_for(90, kVariant, bundle);
    FAIL();
  } catch (const JitError& error) {
    EXPECT_TRUE(contains(error.what(), "demo/helper.h")) << error.what();
  }
}

TEST_F(RealNvrtc, CompilesInSeveralThreadsAndLeavesTheirLocaleAlone) {
  std::atomic<int> compiled{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      const auto before = current_locale();
      const Variant variant{"demo/demo.cu", "demo", {{"MS_SCALE", std::to_string(i)}}};
      const Binary binary = compile_for(80, variant, demo_bundle());
      if (binary.info.registers > 0 && before == current_locale()) ++compiled;
    });
  }
  threads.clear();
  EXPECT_EQ(compiled, 4);
}

TEST(NvrtcLibrary, SaysWhatIsMissingInALibraryThatIsNotNvrtc) {
#if defined(_WIN32)
  const char kOther[] = "kernel32.dll";
#else
  const char kOther[] = "libm.so.6";
#endif
  const auto other = platform::DynamicLibrary::try_open_system(kOther, nullptr);
  ASSERT_TRUE(other);
  try {
    NvrtcLibrary::load(other->path());
    FAIL();
  } catch (const JitError& error) {
    EXPECT_TRUE(contains(error.what(), "is not a usable NVRTC: it has no function nvrtcVersion")) << error.what();
  }
}

}  // namespace
}  // namespace mamba_scan::jit
