// The registry: what it makes when, what it remembers, and that it is safe to leave behind.
#include "ops/runtime.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "../fakes/fake_cuda.h"
#include "driver/context.h"
#include "jit_test_support.h"
#include "trace/memory_recorder.h"
#include "trace/scoped_recording.h"

namespace mamba_scan::ops {
namespace {

using tests::FakeCuda;

class RuntimeTest : public testing::Test {
 protected:
  RuntimeTest() : cache_folder("MAMBA_SCAN_CACHE_DIR", scratch.path()) {}

  // A runtime is never destroyed, in tests neither.
  Runtime& start(const std::string& settings) {
    fake.reset(settings);
    return *new Runtime;
  }

  test::ScratchFolder scratch;
  test::ScopedVariable cache_folder;
  FakeCuda fake;
};

TEST_F(RuntimeTest, NothingIsOpenedBeforeItIsAskedFor) {
  Runtime& runtime = start("");
  EXPECT_EQ(fake.count("cuInit"), 0);
  runtime.builder();
  EXPECT_EQ(fake.count("cuInit"), 0) << "compiling needs no driver";
  runtime.driver();
  EXPECT_EQ(fake.count("cuInit"), 1);
  EXPECT_EQ(fake.count("retained_contexts"), 0) << "a context costs memory: only a device in use gets one";
}

TEST_F(RuntimeTest, AMissingDriverIsRememberedWithItsMessage) {
  Runtime& runtime = start("devices=");
  std::vector<std::string> messages;
  const auto note = [&](auto&& action) {
    try {
      action();
      ADD_FAILURE() << "it worked";
    } catch (const driver::DriverUnavailable& error) {
      messages.push_back(error.what());
    }
  };
  note([&] { runtime.driver(); });
  note([&] { runtime.device(0); });
  note([&] { runtime.kernels(); });
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0], messages[1]);
  EXPECT_EQ(messages[0], messages[2]);
  EXPECT_EQ(fake.count("cuInit"), 1) << "the driver was tried again";
}

TEST_F(RuntimeTest, ADeviceIsMadeOnceWithItsPrimaryContext) {
  Runtime& runtime = start("devices=90:132:A,87:16:B;memory=5000");
  const DeviceContext& device = runtime.device(1);
  EXPECT_EQ(device.report.name, "B");
  EXPECT_EQ(device.report.free_memory, 5000u);
  EXPECT_NE(device.context, nullptr);
  EXPECT_EQ(&runtime.device(1), &device);
  EXPECT_EQ(fake.count("retained_contexts"), 1);
  EXPECT_EQ(fake.count("pushed_contexts"), 0) << "the caller's context was not put back";
}

TEST_F(RuntimeTest, AReadyDeviceCostsNoDriverCall) {
  Runtime& runtime = start("");
  runtime.device(0);
  const std::string before = fake.journal();
  const long long asked = fake.count("cuDeviceGet") + fake.count("cuCtxGetCurrent");
  for (int i = 0; i < 100; ++i) runtime.device(0);
  EXPECT_EQ(fake.journal(), before);
  EXPECT_EQ(fake.count("cuDeviceGet") + fake.count("cuCtxGetCurrent"), asked);
}

TEST_F(RuntimeTest, ThreadsShareOneDeviceOneDriverAndOneLibrary) {
  Runtime& runtime = start("");
  std::vector<const DeviceContext*> devices(8);
  std::vector<jit::KernelLibrary*> kernels(8);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    threads.emplace_back([&, i] {
      devices[i] = &runtime.device(0);
      kernels[i] = &runtime.kernels();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 1; i < devices.size(); ++i) {
    EXPECT_EQ(devices[i], devices[0]);
    EXPECT_EQ(kernels[i], kernels[0]);
  }
  EXPECT_EQ(fake.count("cuInit"), 1);
  EXPECT_EQ(fake.count("retained_contexts"), 1);
}

TEST_F(RuntimeTest, AWrongOrdinalIsAnErrorThatCountsTheDevices) {
  Runtime& runtime = start("devices=90:132:A,87:16:B");
  for (const int ordinal : {-1, 2, 64, 1000000}) {
    try {
      runtime.device(ordinal);
      FAIL() << ordinal;
    } catch (const driver::DriverError& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("CUDA device " + std::to_string(ordinal)), std::string::npos) << message;
      EXPECT_NE(message.find("shows 2"), std::string::npos) << message;
    }
  }
}

TEST_F(RuntimeTest, AContextThatCouldNotBeMadeIsTriedAgain) {
  Runtime& runtime = start("fail=cuDevicePrimaryCtxRetain:2@1");
  EXPECT_THROW(runtime.device(0), driver::DriverError);
  EXPECT_NO_THROW(runtime.device(0));
}

TEST_F(RuntimeTest, ARecorderIsHandedToWhatExistsAndToWhatComesLater) {
  Runtime& runtime = start("");
  EXPECT_EQ(runtime.recorder(), nullptr);
  trace::MemoryRecorder recorder;
  {
    const trace::ScopedRecording<Runtime> recording(runtime, recorder);
    EXPECT_EQ(runtime.recorder(), &recorder);
    EXPECT_THROW(runtime.builder().build({"no such file.cu", "none", {}}, 90), Error);
  }
  EXPECT_EQ(runtime.recorder(), nullptr);
  EXPECT_THROW(runtime.builder().build({"no such file.cu", "none", {}}, 90), Error);
  ASSERT_EQ(recorder.compiles().size(), 1u);
  EXPECT_EQ(recorder.compiles()[0].outcome, "failed");
}

}  // namespace
}  // namespace mamba_scan::ops
