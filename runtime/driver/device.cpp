#include "driver/device.h"

#include <array>

#include "driver/driver.h"

namespace mamba_scan::driver {
namespace {

int attribute(const Driver& driver, CUdevice device, DeviceAttribute which) {
  int value = 0;
  driver.check(driver.api().cuDeviceGetAttribute(&value, which, device), "Reading an attribute of a CUDA device");
  return value;
}

// For what is only shown: a driver that does not tell gives 0.
int attribute_or_zero(const Driver& driver, CUdevice device, DeviceAttribute which) {
  int value = 0;
  return driver.api().cuDeviceGetAttribute(&value, which, device) == Result::kSuccess ? value : 0;
}

}  // namespace

DeviceReport device_report(const Driver& driver, int ordinal) {
  const DriverTable& api = driver.api();
  CUdevice device = 0;
  const Result result = api.cuDeviceGet(&device, ordinal);
  if (result != Result::kSuccess) {
    driver.fail(result, "Opening CUDA device " + std::to_string(ordinal) + " (the driver shows " +
                            std::to_string(driver.device_count()) + ", counted from 0)");
  }
  std::array<char, 256> name{};
  std::array<char, 32> bus_id{};
  driver.check(api.cuDeviceGetName(name.data(), static_cast<int>(name.size()) - 1, device), "Reading a device's name");
  driver.check(api.cuDeviceGetPCIBusId(bus_id.data(), static_cast<int>(bus_id.size()) - 1, device),
               "Reading a device's bus number");

  DeviceReport report;
  report.ordinal = ordinal;
  report.name = name.data();
  report.pci_bus_id = bus_id.data();
  driver.check(api.cuDeviceTotalMem(&report.total_memory, device), "Reading a device's memory size");

  using A = DeviceAttribute;
  const auto read = [&](A which) { return attribute(driver, device, which); };
  const auto tell = [&](A which) { return attribute_or_zero(driver, device, which); };
  const auto bytes = [&](A which) { return static_cast<std::size_t>(attribute(driver, device, which)); };
  report.major = read(A::kComputeCapabilityMajor);
  report.minor = read(A::kComputeCapabilityMinor);
  report.sm_count = read(A::kMultiprocessorCount);
  report.max_threads_per_sm = read(A::kMaxThreadsPerMultiprocessor);
  report.max_blocks_per_sm = read(A::kMaxBlocksPerMultiprocessor);
  report.registers_per_sm = read(A::kMaxRegistersPerMultiprocessor);
  report.shared_per_block = bytes(A::kMaxSharedMemoryPerBlock);
  report.shared_per_block_optin = bytes(A::kMaxSharedMemoryPerBlockOptin);
  report.shared_per_sm = bytes(A::kMaxSharedMemoryPerMultiprocessor);
  report.l2_bytes = bytes(A::kL2CacheSize);
  report.integrated = read(A::kIntegrated) != 0;
  report.watchdog = read(A::kKernelExecTimeout) != 0;
  report.clock_khz = tell(A::kClockRate);
  report.memory_clock_khz = tell(A::kMemoryClockRate);
  report.memory_bus_bits = tell(A::kGlobalMemoryBusWidth);
  return report;
}

std::vector<DeviceReport> devices(const Driver& driver) {
  std::vector<DeviceReport> reports;
  for (int ordinal = 0; ordinal < driver.device_count(); ++ordinal) {
    reports.push_back(device_report(driver, ordinal));
  }
  return reports;
}

}  // namespace mamba_scan::driver
