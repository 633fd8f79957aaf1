// From variant to launchable kernel, with a made-up NVRTC whose binaries lie in the cache, and the fake driver.
#include "jit/kernel_library.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "../fakes/fake_cuda.h"
#include "driver/context.h"
#include "jit/builder.h"
#include "jit/jit_error.h"
#include "jit_test_support.h"
#include "trace/memory_recorder.h"

namespace mamba_scan::jit {
namespace {

using tests::FakeCuda;

// An NVRTC that can be asked and not used: what is not in the cache cannot be built.
class UnusableNvrtc : public NvrtcEnvironment {
 public:
  NvrtcNaming naming() const override { return NvrtcNaming::kLinux; }
  std::optional<std::string> variable(const std::string& name) const override {
    if (name == "MAMBA_SCAN_NVRTC") return "/made/up/libnvrtc.so.13";
    return std::nullopt;
  }
  std::optional<std::vector<std::string>> list(const std::string&) const override { return std::nullopt; }
  std::optional<std::string> loaded(const std::string&) const override { return std::nullopt; }
  std::optional<std::string> system_library(const std::string&) const override { return std::nullopt; }
  std::string own_folder() const override { return "/made/up"; }
  NvrtcFacts facts(const std::string&) const override {
    ++asked;
    return {13, 0, "13.0.88", "CL-1", {75, 80, 87, 90}};
  }
  mutable std::atomic<int> asked{0};
};

Variant variant(const std::string& value) { return {"scan.cu", "scan", {{"MS_N", value}}}; }

class KernelLibraryTest : public testing::Test {
 protected:
  void SetUp() override {
    start("devices=90:132:H200,87:16:Orin");
    auto cache = std::make_unique<DiskCache>(scratch / "cache", DiskCache::kDefaultLimit);
    builder = std::make_unique<Builder>(KernelSources::from_files({{"scan.cu", "text"}}), std::move(cache),
                                        std::make_unique<UnusableNvrtc>());
    for (const char* value : {"1", "2"}) {
      put(variant(value), 90);
      put(variant(value), 87);
    }
  }
  void TearDown() override {
    library.reset();
    guard.reset();
    first.reset();
    second.reset();
    EXPECT_TRUE(fake.balanced()) << fake.journal();
  }

  void start(const std::string& settings) {
    library.reset();
    guard.reset();
    first.reset();
    second.reset();
    fake.reset(settings);
    driver = driver::Driver::load();
    reports = driver::devices(*driver);
    first = std::make_unique<driver::PrimaryContext>(*driver, 0);
    if (reports.size() > 1) second = std::make_unique<driver::PrimaryContext>(*driver, 1);
    guard = std::make_unique<driver::ContextGuard>(*driver, first->get());
    if (builder) library = std::make_unique<KernelLibrary>(*driver, *builder);
  }

  void put(const Variant& variant, int capability) {
    Binary binary;
    const std::string image = "FAKE sm_" + std::to_string(capability) + " entries=scan" + '\0';
    binary.bytes.assign(image.begin(), image.end());
    binary.info.variant = variant.name();
    binary.info.entry = "scan";
    binary.info.arch = "sm_" + std::to_string(capability);
    binary.info.registers = 40;
    builder->cache().store(builder->cache_key(variant, capability), binary);
  }

  KernelLibrary& make() {
    library = std::make_unique<KernelLibrary>(*driver, *builder);
    return *library;
  }

  test::ScratchFolder scratch;
  FakeCuda fake;
  std::unique_ptr<Builder> builder;
  std::unique_ptr<driver::Driver> driver;
  std::vector<driver::DeviceReport> reports;
  std::unique_ptr<driver::PrimaryContext> first, second;
  std::unique_ptr<driver::ContextGuard> guard;
  std::unique_ptr<KernelLibrary> library;
};

TEST_F(KernelLibraryTest, AKernelIsLoadedOnceAndStaysWhereItIs) {
  KernelLibrary& kernels = make();
  const LoadedKernel& kernel = kernels.get(variant("1"), reports[0]);
  EXPECT_EQ(kernel.info.registers, 40);
  kernel.kernel.launch({}, nullptr);
  EXPECT_NE(kernels.get(variant("2"), reports[0]).kernel.function(), kernel.kernel.function());
  EXPECT_EQ(&kernels.get(variant("1"), reports[0]), &kernel);
  EXPECT_EQ(fake.count("cuLibraryLoadData"), 2);
  EXPECT_NE(fake.journal().find("cuLaunchKernelEx scan"), std::string::npos);
}

TEST_F(KernelLibraryTest, EveryDeviceGetsItsOwnBinaryAndFunction) {
  KernelLibrary& kernels = make();
  const LoadedKernel& on_first = kernels.get(variant("1"), reports[0]);
  const driver::ContextGuard other(*driver, second->get());
  const LoadedKernel& on_second = kernels.get(variant("1"), reports[1]);
  EXPECT_EQ(on_first.info.arch, "sm_90");
  EXPECT_EQ(on_second.info.arch, "sm_87");
  on_second.kernel.launch({}, nullptr);
  EXPECT_NE(fake.journal().find("stream=0 device=1"), std::string::npos) << fake.journal();
}

TEST_F(KernelLibraryTest, AnOldDriverServesModules) {
  start("version=11040;devices=87:16:Orin");
  library->get(variant("1"), reports[0]).kernel.launch({}, nullptr);
  EXPECT_EQ(fake.count("live_modules"), 1);
}

TEST_F(KernelLibraryTest, ThreadsThatWantTheSameKernelShareOneBuild) {
  KernelLibrary& kernels = make();
  std::vector<const LoadedKernel*> found(8);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < found.size(); ++i) {
    threads.emplace_back([&, i] {
      const driver::ContextGuard current(*driver, first->get());
      found[i] = &kernels.get(variant(i % 2 ? "1" : "2"), reports[0]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 2; i < found.size(); ++i) EXPECT_EQ(found[i], found[i - 2]);
  EXPECT_EQ(fake.count("cuLibraryLoadData"), 2);
}

TEST_F(KernelLibraryTest, TextThatDoesNotCompileIsNotCompiledAgain) {
  if (!platform::environment_variable("MAMBA_SCAN_NVRTC")) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  builder = std::make_unique<Builder>(KernelSources::from_files({{"scan.cu", "text"}}),
                                      std::make_unique<DiskCache>("", DiskCache::kDefaultLimit), nullptr);
  KernelLibrary& kernels = make();
  trace::MemoryRecorder recorder;
  builder->set_recorder(&recorder);
  std::string messages[2];
  for (std::string& message : messages) {
    try {
      kernels.get(variant("1"), reports[0]);
      FAIL();
    } catch (const CompileError& error) {
      message = error.what();
    }
  }
  builder->set_recorder(nullptr);
  EXPECT_EQ(messages[0], messages[1]);
  EXPECT_EQ(recorder.compiles().size(), 1u) << "it was built a second time";
}

TEST_F(KernelLibraryTest, AnNvrtcThatCannotBeLoadedIsTriedAgain) {
  KernelLibrary& kernels = make();
  const Variant later = variant("not in the cache");
  EXPECT_THROW(kernels.get(later, reports[0]), JitError);
  EXPECT_NO_THROW(kernels.get(variant("1"), reports[0])) << "another variant suffers";
  put(later, 90);  // as if another process could
  EXPECT_NO_THROW(kernels.get(later, reports[0]));
}

TEST_F(KernelLibraryTest, ARefusedBinaryIsRememberedWithTheDriversWords) {
  start("devices=90:132:H200;fail=cuLibraryLoadData:209");
  for (int i = 0; i < 2; ++i) {
    try {
      library->get(variant("1"), reports[0]);
      FAIL();
    } catch (const driver::DriverError& error) {
      EXPECT_NE(std::string(error.what()).find("scan[MS_N=1] for sm_90 on H200"), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(fake.count("cuLibraryLoadData"), 1);
}

TEST_F(KernelLibraryTest, AFullMemoryIsTriedAgain) {
  start("devices=90:132:H200;fail=cuLibraryLoadData:2@1");
  EXPECT_THROW(library->get(variant("1"), reports[0]), driver::DriverError);
  EXPECT_NO_THROW(library->get(variant("1"), reports[0]));
}

TEST_F(KernelLibraryTest, AfterACaptureThatItSpoilsTheKernelIsTriedAgain) {
  start("devices=90:132:H200;fail=cuLibraryLoadData:900@1");
  try {
    library->get(variant("1"), reports[0]);
    FAIL();
  } catch (const driver::DriverError& error) {
    EXPECT_NE(std::string(error.what()).find("make the same call once before"), std::string::npos) << error.what();
  }
  EXPECT_NO_THROW(library->get(variant("1"), reports[0]));
}

TEST_F(KernelLibraryTest, AMissingEntryLeavesNothingLoaded) {
  start("devices=90:132:H200;fail=cuLibraryGetKernel:500");
  EXPECT_THROW(library->get(variant("1"), reports[0]), driver::DriverError);
  EXPECT_EQ(fake.count("live_libraries"), 0);
}

TEST_F(KernelLibraryTest, ARecorderHearsOfAKernelInMemoryOnce) {
  KernelLibrary& kernels = make();
  kernels.get(variant("1"), reports[0]);
  trace::MemoryRecorder recorder;
  kernels.set_recorder(&recorder);
  builder->set_recorder(&recorder);
  for (int i = 0; i < 3; ++i) {
    kernels.get(variant("1"), reports[0]);
    kernels.get(variant("2"), reports[0]);
  }
  kernels.set_recorder(nullptr);
  builder->set_recorder(nullptr);
  const std::vector<trace::Compile> compiles = recorder.compiles();
  ASSERT_EQ(compiles.size(), 2u);
  EXPECT_EQ(compiles[0].outcome, "memory");
  EXPECT_EQ(compiles[0].variant, "scan[MS_N=1]");
  EXPECT_EQ(compiles[1].outcome, "disk");
  EXPECT_EQ(compiles[1].variant, "scan[MS_N=2]");
}

}  // namespace
}  // namespace mamba_scan::jit
