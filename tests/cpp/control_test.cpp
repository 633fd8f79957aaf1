// The control functions on a made-up machine with two GPUs, and a scan through the whole CUDA path: the fake driver
// runs the CPU backend where a GPU would run the kernel.
#include "ops/control.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "../fakes/fake_cuda.h"
#include "cpu_for_gpu.h"
#include "empty_kernels.h"
#include "jit_test_support.h"
#include "ops/runtime.h"
#include "ops/tuning.h"
#include "platform/error.h"

namespace mamba_scan::ops {
namespace {

using Json = nlohmann::json;
using tests::FakeCuda;

// One machine for the whole program, since the registry is made once per process.
struct Machine {
  test::ScratchFolder scratch;
  FakeCuda fake{"devices=90:132:NVIDIA H200,87:16:Orin:integrated:watchdog;version=13000"};
  Machine() {
    test::write_empty_kernels(scratch / "kernels");
    platform::set_environment_variable("MAMBA_SCAN_KERNEL_DIR", scratch / "kernels");
    platform::set_environment_variable("MAMBA_SCAN_CACHE_DIR", scratch / "cache");
  }
};

class ControlTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { machine = new Machine; }
  static void TearDownTestSuite() { delete machine; }
  static bool has_nvrtc() { return platform::environment_variable("MAMBA_SCAN_NVRTC").has_value(); }
  static Machine* machine;
};
Machine* ControlTest::machine = nullptr;

TEST_F(ControlTest, TheDoctorReportsDriverDevicesCacheAndSources) {
  const Json report = Json::parse(doctor_json());
  EXPECT_EQ(report.at("package_version"), package_version());
  EXPECT_EQ(report.at("usable_devices"), report.at("nvrtc").at("found") ? 2 : 0);
  EXPECT_EQ(report.at("driver").at("version"), "13.0");
  EXPECT_EQ(report.at("driver").at("path"), FakeCuda::path());
  EXPECT_EQ(report.at("devices").at(0).at("name"), "NVIDIA H200");
  EXPECT_EQ(report.at("devices").at(0).at("arch"), "sm_90");
  EXPECT_EQ(report.at("devices").at(1).at("integrated"), true);
  EXPECT_TRUE(report.at("devices").at(1).at("error").is_null());
  EXPECT_GT(report.at("devices").at(0).at("free_memory"), 0);
  EXPECT_EQ(report.at("cache").at("folder"), machine->scratch / "cache");
  EXPECT_TRUE(report.at("cache").at("error").is_null());
  EXPECT_EQ(report.at("kernel_source").at("origin"), machine->scratch / "kernels");
  EXPECT_EQ(report.at("environment").at("MAMBA_SCAN_DRIVER"), FakeCuda::path());
  EXPECT_FALSE(report.at("nvrtc").at("places_tried").empty());
  EXPECT_NE(report.at("warnings").dump().find("display"), std::string::npos) << "the watchdog is not mentioned";
}

TEST_F(ControlTest, TheDoctorCountsNoDeviceThatNothingCanBeCompiledFor) {
  const test::ScopedVariable nvrtc("MAMBA_SCAN_NVRTC", machine->scratch / "nothing");
  const Json report = Json::parse(doctor_json());
  EXPECT_EQ(report.at("usable_devices"), 0);
  EXPECT_TRUE(report.at("devices").at(0).at("error").is_null());
  EXPECT_NE(report.at("remedies").dump().find("unset MAMBA_SCAN_NVRTC"), std::string::npos) << report.at("remedies");
}

TEST_F(ControlTest, TheDoctorLeavesNoProbeInTheCache) {
  doctor_json();
  std::vector<platform::FileInfo> files;
  ASSERT_TRUE(platform::list_folder(machine->scratch / "cache", &files));
  for (const platform::FileInfo& file : files) EXPECT_TRUE(file.is_folder) << file.name;
}

TEST_F(ControlTest, WarmFillsTheCacheForTheDevicesPresentAndTheNextWarmReadsIt) {
  if (!has_nvrtc()) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  cache_clear_json();
  const Json cold = Json::parse(warm_json({}));
  EXPECT_EQ(cold.at("archs"), Json::parse(R"(["sm_90", "sm_87"])"));
  EXPECT_EQ(cold.at("failed"), 0) << cold.dump(1);
  EXPECT_EQ(cold.at("compiled"), cold.at("kernels").size());
  const Json warm = Json::parse(warm_json({}));
  EXPECT_EQ(warm.at("compiled"), 0);
  EXPECT_EQ(warm.at("from_disk"), cold.at("kernels").size());
  const Json list = Json::parse(cache_list_json());
  EXPECT_EQ(list.at("entries").size(), cold.at("kernels").size());
  const Json verified = Json::parse(cache_verify_json());
  EXPECT_EQ(verified.at("good"), verified.at("checked"));
  const Json cleared = Json::parse(cache_clear_json());
  EXPECT_EQ(cleared.at("removed"), cold.at("kernels").size());
  EXPECT_EQ(Json::parse(cache_list_json()).at("entries").size(), 0u);
}

TEST_F(ControlTest, ArchitecturesAreUnderstoodInThreeSpellingsAndNothingElse) {
  if (has_nvrtc()) {
    std::set<std::string> names;
    for (const char* text : {"sm_90", "90", "9.0"}) {
      names.insert(Json::parse(warm_json({text})).at("archs").at(0).get<std::string>());
    }
    EXPECT_EQ(names, std::set<std::string>{"sm_90"});
  }
  for (const char* text : {"", "sm_", "hopper", "sm_9a", "-90", "10", "99999"}) {
    EXPECT_THROW(warm_json({text}), ArgumentError) << text;
  }
}

TEST_F(ControlTest, TheSelfTestPassesThroughTheWholeCudaPath) {
  if (!has_nvrtc()) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  machine->fake.on_launch(test::run_on_cpu);
  SelfTestOptions options;
  options.problems = 12;
  const Json report = Json::parse(self_test_json(options));
  machine->fake.on_launch(nullptr);
  EXPECT_EQ(report.at("passed"), true) << report.dump(1);
  ASSERT_EQ(report.at("backends").size(), 3u);
  EXPECT_EQ(report.at("backends").at(2).at("name"), "Orin");
  EXPECT_EQ(machine->fake.count("live_allocations"), 0);
  EXPECT_EQ(machine->fake.count("misuse"), 0) << machine->fake.journal();
  EXPECT_NE(machine->fake.journal().find("selective_scan_forward grid="), std::string::npos);
}

TEST_F(ControlTest, TheSelfTestDrawsPlansAndLeavesTheTunedOnes) {
  if (!has_nvrtc()) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  machine->fake.on_launch(test::run_on_cpu);
  SelfTestOptions options;
  options.problems = 120;
  options.seed = 5;
  options.use_cpu = false;
  options.any_plan = true;
  Tuning& tuning = device_tuning(runtime().device(0));
  const std::uint64_t before = tuning.version();
  const Json report = Json::parse(self_test_json(options));
  machine->fake.on_launch(nullptr);
  EXPECT_EQ(report.at("passed"), true) << report.dump(1);
  std::set<std::string> kinds;
  for (const Json& problem : report.at("backends").at(0).at("problems")) {
    const Json& plan = problem.at("plan");
    kinds.insert(plan.at("warps") != 1 ? "turns" : plan.at("served") == true ? "served" : "alone");
  }
  EXPECT_EQ(kinds, (std::set<std::string>{"alone", "served", "turns"}));
  EXPECT_EQ(tuning.version(), before + 2 * 120) << "every choice is taken back";
  options.problems = 3;
  const Json again = Json::parse(self_test_json(options));
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_EQ(again.at("backends").at(0).at("problems").at(i).at("plan"),
              report.at("backends").at(0).at("problems").at(i).at("plan"));
}

TEST_F(ControlTest, TheSelfTestFailsWhenAKernelWritesNothing) {
  if (!has_nvrtc()) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  SelfTestOptions options;
  options.problems = 1;
  options.use_cpu = false;
  const Json report = Json::parse(self_test_json(options));
  EXPECT_EQ(report.at("passed"), false);
  EXPECT_TRUE(report.at("backends").at(0).at("problems").at(0).at("relative_error_y").is_null())
      << "unwritten outputs hold NaN";
}

TEST_F(ControlTest, TheSelfTestOfTheCpuHoldsForManySeedsAndRepeatsItself) {
  SelfTestOptions options;
  options.use_cuda = false;
  options.problems = 40;
  const Json report = Json::parse(self_test_json(options));
  EXPECT_EQ(report.at("passed"), true) << report.dump(1);
  options.seed = report.at("seed");
  options.problems = 3;
  const Json again = Json::parse(self_test_json(options));
  for (std::size_t i = 0; i < 3; ++i) {
    const Json& first = report.at("backends").at(0).at("problems").at(i);
    const Json& second = again.at("backends").at(0).at("problems").at(i);
    EXPECT_EQ(first.at("shape"), second.at("shape"));
    EXPECT_EQ(first.at("relative_error_y"), second.at("relative_error_y"));
  }
  options.problems = 0;
  EXPECT_THROW(self_test_json(options), ArgumentError);
}

TEST_F(ControlTest, ARecordingHoldsLaunchesAndCompiles) {
  if (!has_nvrtc()) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  EXPECT_THROW(stop_recording_json(), Error);
  start_recording(false);
  EXPECT_THROW(start_recording(false), Error);
  SelfTestOptions options;
  options.problems = 1;
  options.use_cpu = false;
  self_test_json(options);
  const Json recording = Json::parse(stop_recording_json());
  std::set<std::string> categories;
  for (const Json& event : recording.at("traceEvents")) categories.insert(event.value("cat", ""));
  EXPECT_EQ(categories.count("kernel_launch"), 1u) << recording.dump(1);
  EXPECT_EQ(categories.count("compile"), 1u);
  EXPECT_EQ(runtime().recorder(), nullptr);
  start_recording(true);
  EXPECT_EQ(runtime().recorder()->wants_device_times(), true);
  EXPECT_EQ(Json::parse(stop_recording_json()).at("traceEvents").size(), 4u) << "only the names of the rows";
}

}  // namespace
}  // namespace mamba_scan::ops
