// The driver layer against a driver without a GPU (tests/fakes).
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "../fakes/fake_cuda.h"
#include "driver/context.h"
#include "driver/device.h"
#include "driver/library.h"
#include "driver/memory.h"
#include "driver/stream.h"

namespace mamba_scan::driver {
namespace {

using testing::AssertionResult;
using tests::FakeCuda;
using Reason = DriverUnavailable::Reason;

const std::string kImage = "FAKE sm_90 entries=scan,other";

AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "no \"" << part << "\" in: " << text;
}

// What load() throws with these settings.
DriverUnavailable load_failure(const std::string& settings) {
  FakeCuda fake(settings);
  try {
    Driver::load();
  } catch (const DriverUnavailable& error) {
    return error;
  }
  throw std::logic_error("the driver loaded with " + settings);
}

class DriverTest : public testing::Test {
 protected:
  void start(const std::string& settings = "") {
    fake.reset(settings);
    driver = Driver::load();
  }
  FakeCuda fake;
  std::unique_ptr<Driver> driver;
};

TEST_F(DriverTest, EveryTableEntryIsFoundInANewDriver) {
  start("version=13000");
#define DRIVER_ENTRY(name, symbol, abi, minimum, need, arguments) EXPECT_NE(driver->api().name, nullptr) << #name;
#include "driver/driver_table.def"
#undef DRIVER_ENTRY
  EXPECT_EQ(driver->version(), 13000);
  EXPECT_EQ(driver->device_count(), 1);
  EXPECT_TRUE(contains(driver->path(), platform::file_name(FakeCuda::path())));
}

TEST_F(DriverTest, JetPack5DriverLacksTheNewerEntriesAndStillLoads) {
  start("version=11040;devices=87:16:Orin:integrated");
  EXPECT_EQ(driver->api().cuLibraryLoadData, nullptr);
  EXPECT_EQ(driver->api().cuKernelGetFunction, nullptr);
  EXPECT_EQ(driver->api().cuLaunchKernelEx, nullptr);
  EXPECT_NE(driver->api().cuModuleLoadDataEx, nullptr);
  EXPECT_NE(driver->api().cuLaunchKernel, nullptr);
}

TEST_F(DriverTest, PlainSymbolsServeWhereGetProcAddressDoesNotAnswer) {
  start("version=12020;no_get_proc_address=1");
#define DRIVER_ENTRY(name, symbol, abi, minimum, need, arguments) EXPECT_NE(driver->api().name, nullptr) << #name;
#include "driver/driver_table.def"
#undef DRIVER_ENTRY
}

TEST_F(DriverTest, GetProcAddressKnowsEveryRowByItsNameAndVersion) {
  start();
  int rows = 1;  // cuDriverGetVersion is asked for before the table is filled
#define DRIVER_ENTRY(name, symbol, abi, minimum, need, arguments) ++rows;
#include "driver/driver_table.def"
#undef DRIVER_ENTRY
  EXPECT_EQ(fake.count("cuGetProcAddress"), rows);
  EXPECT_EQ(fake.count("resolved"), rows) << "a plain symbol stood in for a row with a wrong name or version";
}

TEST(DriverLoad, AMissingLibraryIsNamedWithTheLoadersWordsAndTheRemedy) {
  platform::set_environment_variable("MAMBA_SCAN_DRIVER", "/nowhere/libcuda.so.1");
  try {
    Driver::load();
    FAIL() << "loaded";
  } catch (const DriverUnavailable& error) {
    EXPECT_EQ(error.reason(), Reason::kNoDriver);
    EXPECT_TRUE(contains(error.what(), "/nowhere/libcuda.so.1"));
    EXPECT_TRUE(contains(error.what(), "MAMBA_SCAN_DRIVER"));
    EXPECT_TRUE(contains(error.what(), "CPU tensors still work"));
  }
}

TEST(DriverLoad, AnotherLibraryIsNotTakenForAnOldDriver) {
#if defined(_WIN32)
  const std::string name = "kernel32.dll";
#else
  const std::string name = "libm.so.6";
#endif
  const auto other = platform::DynamicLibrary::try_open_system(name, nullptr);
  ASSERT_TRUE(other);
  platform::set_environment_variable("MAMBA_SCAN_DRIVER", other->path());
  try {
    Driver::load();
    FAIL() << "loaded";
  } catch (const DriverUnavailable& error) {
    EXPECT_EQ(error.reason(), Reason::kBroken);
    EXPECT_TRUE(contains(error.what(), "is not a CUDA driver")) << error.what();
  }
}

TEST(DriverLoad, ADriverThatDoesNotSayItsVersionIsNotTakenForAnOldOne) {
  for (const auto& [result, words] : {std::pair{34, "link stub"}, {999, "does not say which CUDA it serves"}}) {
    const FakeCuda fake("fail=cuDriverGetVersion:" + std::to_string(result));
    try {
      Driver::load();
      FAIL() << "loaded";
    } catch (const DriverUnavailable& error) {
      EXPECT_EQ(error.reason(), Reason::kBroken);
      EXPECT_EQ(static_cast<int>(error.result()), result);
      EXPECT_TRUE(contains(error.what(), words)) << error.what();
    }
  }
}

TEST(DriverLoad, TheSystemsDriverIsFoundByNameOrItsAbsenceExplained) {
  platform::set_environment_variable("MAMBA_SCAN_DRIVER", "");
  try {
    const auto driver = Driver::load();
    EXPECT_GE(driver->version(), Driver::kMinimumVersion);
    EXPECT_TRUE(contains(driver->path(), "cuda"));
  } catch (const DriverUnavailable& error) {
    EXPECT_TRUE(contains(error.what(), "NVIDIA driver"));
    EXPECT_TRUE(contains(error.what(), "CPU tensors still work"));
  }
}

TEST(DriverLoad, ADriverOlderThanTheMinimumIsTooOldWithBothVersions) {
  const DriverUnavailable error = load_failure("version=11020");
  EXPECT_EQ(error.reason(), Reason::kTooOld);
  EXPECT_TRUE(contains(error.what(), "11.2"));
  EXPECT_TRUE(contains(error.what(), "11.4"));
  EXPECT_TRUE(contains(error.what(), "update the NVIDIA driver"));
}

TEST(DriverLoad, NoDeviceIsSaidWithTheDriversVersion) {
  const DriverUnavailable error = load_failure("version=12080;devices=");
  EXPECT_EQ(error.reason(), Reason::kNoDevice);
  EXPECT_EQ(error.result(), Result::kNoDevice);
  EXPECT_TRUE(contains(error.what(), "12.8"));
  EXPECT_TRUE(contains(error.what(), "CUDA_ERROR_NO_DEVICE (100)"));
  EXPECT_TRUE(contains(error.what(), "CUDA_VISIBLE_DEVICES"));
}

TEST(DriverLoad, MissingPermissionsNameTheRemedy) {
  for (const char* settings : {"fail=cuInit:304", "fail=cuInit:800"}) {
    const DriverUnavailable error = load_failure(settings);
    EXPECT_EQ(error.reason(), Reason::kNoPermission) << settings;
    EXPECT_TRUE(contains(error.what(), "video"));
  }
}

TEST(DriverLoad, AStubAndAMismatchAreToldApart) {
  EXPECT_TRUE(contains(load_failure("fail=cuInit:34").what(), "LD_LIBRARY_PATH"));
  EXPECT_TRUE(contains(load_failure("fail=cuInit:803").what(), "Restart the machine"));
  EXPECT_TRUE(contains(load_failure("fail=cuInit:999").what(), "CUDA_ERROR_UNKNOWN"));
}

TEST(DriverLoad, AFailureIsOneLine) {
  for (const char* settings : {"version=11020", "devices=", "fail=cuInit:304", "fail=cuInit:34"}) {
    EXPECT_EQ(std::string(load_failure(settings).what()).find('\n'), std::string::npos) << settings;
  }
}

TEST_F(DriverTest, EveryDeviceIsReportedWithItsOwnNumbers) {
  start("devices=90:132:NVIDIA H200,87:8:Orin:integrated:watchdog;memory=1000000");
  const std::vector<DeviceReport> reports = devices(*driver);
  ASSERT_EQ(reports.size(), 2u);
  EXPECT_EQ(reports[0].name, "NVIDIA H200");
  EXPECT_EQ(reports[0].capability(), 90);
  EXPECT_EQ(reports[0].sm_count, 132);
  EXPECT_FALSE(reports[0].integrated);
  EXPECT_FALSE(reports[0].watchdog);
  EXPECT_EQ(reports[1].ordinal, 1);
  EXPECT_EQ(reports[1].capability(), 87);
  EXPECT_EQ(reports[1].sm_count, 8);
  EXPECT_TRUE(reports[1].integrated);
  EXPECT_TRUE(reports[1].watchdog);
  EXPECT_EQ(reports[1].total_memory, 1000000u);
  EXPECT_EQ(reports[1].pci_bus_id, "0000:02:00.0");
  EXPECT_EQ(fake.count("retained_contexts"), 0) << "a report must not cost a context";
}

TEST_F(DriverTest, ShownOnlyAttributesMayBeMissing) {
  start("fail=cuDeviceGetAttribute:1@13+");  // the clocks come last
  EXPECT_NO_THROW(device_report(*driver, 0));
}

TEST_F(DriverTest, AWrongOrdinalSaysHowManyDevicesThereAre) {
  start("devices=90:132:A,90:132:B");
  try {
    device_report(*driver, 7);
    FAIL();
  } catch (const DriverError& error) {
    EXPECT_TRUE(contains(error.what(), "CUDA device 7"));
    EXPECT_TRUE(contains(error.what(), "shows 2"));
  }
}

TEST_F(DriverTest, TheContextGuardPushesOnlyWhereItMust) {
  start();
  {
    const PrimaryContext context(*driver, 0);
    {
      const ContextGuard outer(*driver, context.get());
      EXPECT_EQ(fake.count("cuCtxPushCurrent"), 1);
      const ContextGuard inner(*driver, context.get());
      EXPECT_EQ(fake.count("cuCtxPushCurrent"), 1);
      EXPECT_EQ(fake.count("pushed_contexts"), 1);
    }
    EXPECT_EQ(fake.count("pushed_contexts"), 0);
  }
  EXPECT_TRUE(fake.balanced());
}

TEST_F(DriverTest, TheContextGuardRestoresAnotherDevicesContextAlsoAfterAnError) {
  start("devices=90:1:A,90:1:B");
  const PrimaryContext first(*driver, 0), second(*driver, 1);
  const ContextGuard outer(*driver, first.get());
  try {
    const ContextGuard inner(*driver, second.get());
    throw Error("something");
  } catch (const Error&) {
  }
  CUcontext current = nullptr;
  driver->api().cuCtxGetCurrent(&current);
  EXPECT_EQ(current, first.get());
}

class WithContext : public DriverTest {
 protected:
  void start(const std::string& settings = "") {
    DriverTest::start(settings);
    context = std::make_unique<PrimaryContext>(*driver, 0);
    guard = std::make_unique<ContextGuard>(*driver, context->get());
  }
  void TearDown() override {
    guard.reset();
    context.reset();
    EXPECT_TRUE(fake.balanced()) << fake.journal();
  }
  std::unique_ptr<PrimaryContext> context;
  std::unique_ptr<ContextGuard> guard;
};

TEST_F(WithContext, BytesGoUpAndComeBack) {
  start();
  std::vector<int> sent(1000), received(1000, -1);
  std::iota(sent.begin(), sent.end(), 0);
  const std::size_t bytes = sent.size() * sizeof(int);
  const Stream stream(*driver);
  const DeviceBuffer buffer(*driver, bytes);
  buffer.upload(sent.data(), bytes, stream.get());
  buffer.download(received.data(), bytes, stream.get());
  stream.synchronize();
  EXPECT_TRUE(stream.idle());
  EXPECT_EQ(sent, received);
  EXPECT_TRUE(contains(fake.journal(), "cuMemcpyHtoDAsync bytes=4000 stream=1"));
  EXPECT_TRUE(contains(fake.journal(), "cuMemcpyDtoHAsync bytes=4000 stream=1"));
}

TEST_F(WithContext, EmptyBuffersNeverReachTheDriver) {
  start();
  const DeviceBuffer device(*driver, 0);
  const PinnedBuffer pinned(*driver, 0);
  device.upload(nullptr, 0, nullptr);
  device.fill(0, nullptr);
  EXPECT_EQ(device.pointer(), nullptr);
  EXPECT_EQ(fake.count("cuMemAlloc"), 0);
  EXPECT_EQ(fake.count("cuMemHostAlloc"), 0);
}

TEST_F(WithContext, BuffersMoveWithoutCopyOrDoubleFree) {
  start();
  DeviceBuffer a(*driver, 64), b(*driver, 128);
  const CUdeviceptr address = a.address();
  DeviceBuffer c(std::move(a));
  b = std::move(c);
  EXPECT_EQ(b.address(), address);
  EXPECT_EQ(b.size(), 64u);
  PinnedBuffer p(*driver, 64), q(*driver, 32);
  q = std::move(p);
  EXPECT_EQ(q.size(), 64u);
  std::memset(q.data(), 1, q.size());
}

TEST_F(WithContext, ABufferIsFreedInItsOwnContextWhicheverIsCurrent) {
  start();
  DeviceBuffer buffer(*driver, 64);
  PinnedBuffer pinned(*driver, 64);
  std::thread([&] {  // no context is current on this thread
    DeviceBuffer moved(std::move(buffer));
    PinnedBuffer moved_too(std::move(pinned));
  })
      .join();
  EXPECT_EQ(fake.count("live_allocations"), 0);
  EXPECT_EQ(fake.count("live_pinned"), 0);
}

TEST_F(WithContext, OutOfMemorySaysHowMuchWasAskedFor) {
  start("memory=1000");
  try {
    const DeviceBuffer buffer(*driver, 1001);
    FAIL();
  } catch (const DriverError& error) {
    EXPECT_EQ(error.result(), Result::kOutOfMemory);
    EXPECT_TRUE(contains(error.what(), "1001 bytes"));
    EXPECT_TRUE(contains(error.what(), "CUDA_ERROR_OUT_OF_MEMORY (2)"));
  }
}

TEST_F(WithContext, EventsOrderStreamsAndTakeTimes) {
  start();
  const Stream first(*driver), second(*driver);
  const Event from(*driver, Event::Kind::kTiming), to(*driver, Event::Kind::kTiming);
  const Event order(*driver, Event::Kind::kOrdering);
  from.record(first.get());
  order.record(first.get());
  second.wait_for(order);
  fake.pass_time(250);
  to.record(second.get());
  to.synchronize();
  EXPECT_TRUE(to.reached());
  EXPECT_FLOAT_EQ(static_cast<float>(elapsed_us(*driver, from, to)), 250);
  EXPECT_THROW(elapsed_us(*driver, from, order), DriverError);
}

TEST_F(WithContext, ANewDriverLoadsLibrariesAndLaunchesWithAttributes) {
  start("version=12000");
  const Library library(*driver, kImage, false, "scan[test]");
  const Kernel kernel = library.kernel("scan");
  const Stream stream(*driver);
  LaunchConfig config;
  config.grid[0] = 8;
  config.grid[1] = 3;
  config.block[0] = 128;
  config.dynamic_shared_bytes = 64;
  config.stream = stream.get();
  kernel.launch(config, nullptr);
  EXPECT_TRUE(contains(fake.journal(), "cuLaunchKernelEx scan grid=8,3,1 block=128,1,1 shared=64 stream=1 device=0\n"));
  EXPECT_EQ(fake.count("live_libraries"), 1);
  EXPECT_EQ(kernel.max_active_blocks_per_sm(128, 0), 16);
  EXPECT_EQ(kernel.attribute(FunctionAttribute::kNumRegs), 40);
}

TEST_F(WithContext, AnOldDriverLoadsModulesAndLaunchesWithout) {
  start("version=11040");
  const Library library(*driver, kImage, false, "scan[test]");
  library.kernel("scan").launch({}, nullptr);
  EXPECT_TRUE(contains(fake.journal(), "cuLaunchKernel scan grid=1,1,1 block=1,1,1 shared=0 stream=0 device=0\n"));
  EXPECT_EQ(fake.count("live_modules"), 1);
  EXPECT_EQ(fake.count("live_libraries"), 0);
}

TEST_F(WithContext, MoreSharedMemoryMustBeAllowedFirst) {
  start();
  const Library library(*driver, kImage, false, "scan[test]");
  const Kernel kernel = library.kernel("scan");
  LaunchConfig config;
  config.dynamic_shared_bytes = 100 * 1024;
  EXPECT_THROW(kernel.launch(config, nullptr), DriverError);
  kernel.allow_dynamic_shared(100 * 1024);
  EXPECT_NO_THROW(kernel.launch(config, nullptr));
  EXPECT_THROW(kernel.allow_dynamic_shared(1 << 20), DriverError);
}

TEST_F(WithContext, ALaunchFailureCarriesTheGeometry) {
  start("fail=cuLaunchKernelEx:719");
  const Library library(*driver, kImage, false, "scan[test]");
  LaunchConfig config;
  config.grid[0] = 5;
  config.block[1] = 4;
  try {
    library.kernel("scan").launch(config, nullptr);
    FAIL();
  } catch (const DriverError& error) {
    EXPECT_EQ(error.result(), Result::kLaunchFailed);
    EXPECT_TRUE(contains(error.what(), "grid (5, 1, 1), block (1, 4, 1)"));
    EXPECT_TRUE(contains(error.what(), "CUDA_ERROR_LAUNCH_FAILED (719)"));
    EXPECT_TRUE(contains(error.what(), "restart"));
  }
}

TEST_F(WithContext, AnImageForAnotherGpuNamesTheVariantAndTheRemedy) {
  start("devices=75:40:T4");
  try {
    const Library library(*driver, kImage, false, "scan[MS_DTYPE=1] for sm_90");
    FAIL();
  } catch (const DriverError& error) {
    EXPECT_EQ(error.result(), Result::kNoBinaryForGpu);
    EXPECT_TRUE(contains(error.what(), "scan[MS_DTYPE=1] for sm_90"));
    EXPECT_TRUE(contains(error.what(), "update the NVIDIA driver"));
  }
}

TEST_F(WithContext, RefusedPtxShowsWhatTheDriversCompilerSaid) {
  for (const char* version : {"version=13000", "version=11040"}) {
    start(std::string(version) + ";devices=75:40:T4");
    const std::string ptx = ".version 8.0\n.target sm_90\n.visible .entry scan()\n{ ret; }\n";
    try {
      const Library library(*driver, ptx, true, "scan[test]");
      FAIL();
    } catch (const DriverError& error) {
      EXPECT_EQ(error.result(), Result::kInvalidPtx);
      EXPECT_TRUE(contains(error.what(), "ptxas fatal"));
    }
    guard.reset();
    context.reset();
  }
}

TEST_F(WithContext, PtxNeedNotEndWithAZeroByte) {
  start();
  const std::string text = ".version 8.0\n.target sm_80\n.visible .entry scan()\n{ ret; }\n";
  const std::vector<char> exact(text.begin(), text.end());
  const Library library(*driver, exact, true, "scan[test]");
  EXPECT_NO_THROW(library.kernel("scan"));
}

TEST_F(WithContext, AMissingKernelIsNamed) {
  start();
  const Library library(*driver, kImage, false, "scan[test]");
  try {
    library.kernel("scam");
    FAIL();
  } catch (const DriverError& error) {
    EXPECT_TRUE(contains(error.what(), "scam"));
    EXPECT_TRUE(contains(error.what(), "scan[test]"));
    EXPECT_TRUE(contains(error.what(), "CUDA_ERROR_NOT_FOUND"));
  }
}

TEST_F(WithContext, EveryFailureOfTheDriverBecomesADriverErrorAndLeaksNothing) {
  const char* const calls[] = {"cuCtxGetCurrent@3",  "cuMemAlloc",         "cuMemHostAlloc",      "cuStreamCreate",
                               "cuEventCreate",      "cuMemcpyHtoDAsync",  "cuEventRecord",       "cuLibraryLoadData",
                               "cuLibraryGetKernel", "cuLaunchKernelEx",   "cuStreamSynchronize", "cuMemcpyDtoHAsync",
                               "cuMemsetD8Async",    "cuKernelGetFunction"};
  for (const std::string name : calls) {
    const std::size_t at = name.find('@');
    start("fail=" + name.substr(0, at) + ":2" + (at == std::string::npos ? "" : name.substr(at)));
    EXPECT_THROW(
        {
          int value = 1;
          const DeviceBuffer buffer(*driver, sizeof(value));
          const PinnedBuffer pinned(*driver, sizeof(value));
          const Stream stream(*driver);
          const Event event(*driver, Event::Kind::kOrdering);
          buffer.fill(0, stream.get());
          buffer.upload(&value, sizeof(value), stream.get());
          event.record(stream.get());
          const Library library(*driver, kImage, false, "scan[test]");
          library.kernel("scan").launch({}, nullptr);
          buffer.download(&value, sizeof(value), stream.get());
          stream.synchronize();
        },
        DriverError)
        << name;
    guard.reset();
    context.reset();
    EXPECT_TRUE(fake.balanced()) << name << "\n" << fake.journal();
  }
}

}  // namespace
}  // namespace mamba_scan::driver
