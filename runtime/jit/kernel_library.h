// From a variant to a launchable kernel: memory table -> disk cache -> NVRTC -> driver.
#pragma once

#include <memory>

#include "driver/device.h"
#include "driver/kernel.h"
#include "jit/binary.h"
#include "jit/variant.h"

namespace mamba_scan::driver {
class Driver;
}
namespace mamba_scan::trace {
class Recorder;
}

namespace mamba_scan::jit {

class Builder;  // jit/builder.h: variant + arch -> Binary, through the disk cache and NVRTC

struct LoadedKernel {
  driver::Kernel kernel;
  BinaryInfo info;
};

// Thread safe. One entry per (variant, device), made once while other variants proceed. That the
// text does not compile or the driver refuses the binary is remembered and thrown again; what may be otherwise the next
// time (a full GPU memory, a missing NVRTC, a CUDA graph that is being captured) is tried again. References stay valid
// for the life of the library. A recorder hears of a kernel found in memory once, not at every call.
class KernelLibrary {
 public:
  KernelLibrary(const driver::Driver& driver, Builder& builder);
  ~KernelLibrary();

  // The device's primary context must be current on this thread. Throws JitError or DriverError.
  const LoadedKernel& get(const Variant& variant, const driver::DeviceReport& device);

  // May be null. Not owned.
  void set_recorder(trace::Recorder* recorder);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mamba_scan::jit
