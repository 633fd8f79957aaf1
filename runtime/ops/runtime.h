// The one registry of the process: the driver, one primary context per device, the kernel builder and library, the
// recorder. Everything is made on first use, so a machine without a GPU pays nothing and sees no error.
// Functions that answer in JSON, for the programs and Python, are in ops/control.h.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "driver/device.h"
#include "driver/driver.h"
#include "jit/builder.h"
#include "jit/kernel_library.h"
#include "platform/export.h"
#include "trace/recorder.h"

namespace mamba_scan::ops {

// A device with its primary context retained: the context that torch and cudart use too.
struct DeviceContext {
  driver::DeviceReport report;
  driver::CUcontext context = nullptr;
  const driver::Driver* driver = nullptr;
};

class MAMBA_SCAN_API Runtime {
 public:
  Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // Opens the driver the first time. A failure is remembered: DriverUnavailable with the same message each time.
  const driver::Driver& driver();

  // One atomic load once the device has been used. Throws DriverUnavailable, or DriverError for a wrong ordinal.
  const DeviceContext& device(int ordinal) {
    if (ordinal >= 0 && ordinal < kMaxDevices) {
      if (const DeviceContext* ready = ready_[static_cast<std::size_t>(ordinal)].load(std::memory_order_acquire)) {
        return *ready;
      }
    }
    return make_device(ordinal);
  }

  // Kernels for devices; opens the driver.
  jit::KernelLibrary& kernels();

  // Compiles and caches without any driver.
  jit::Builder& builder();

  // Null unless somebody records. A recorder must outlive every call that may still report to it.
  trace::Recorder* recorder() const noexcept { return recorder_.load(std::memory_order_acquire); }
  // Returns the one that was there.
  trace::Recorder* exchange_recorder(trace::Recorder* recorder);

 private:
  static constexpr int kMaxDevices = 64;
  struct Impl;

  ~Runtime() = default;  // never runs: see runtime()
  const DeviceContext& make_device(int ordinal);

  std::array<std::atomic<const DeviceContext*>, kMaxDevices> ready_{};
  std::atomic<trace::Recorder*> recorder_{nullptr};
  Impl* impl_;
};

// Lives until the process ends and is never destroyed: at exit the driver may already be gone, and threads of other
// libraries may still be calling.
MAMBA_SCAN_API Runtime& runtime();

}  // namespace mamba_scan::ops
