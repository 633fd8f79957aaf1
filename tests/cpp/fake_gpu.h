// The whole runtime on the fake driver with kernels that do nothing: for tests of what calls launch.
#pragma once

#include <string>
#include <vector>

#include "../fakes/fake_cuda.h"
#include "driver/memory.h"
#include "empty_kernels.h"
#include "jit_test_support.h"
#include "ops/runtime.h"
#include "ops/selective_scan.h"
#include "platform/environment.h"

namespace mamba_scan::test {

// One for all tests of a program: the runtime, which the first of them starts, keeps what it found. on_launch is called
// in place of every kernel, with its entry and its arguments.
class FakeGpu {
 public:
  FakeGpu(const std::string& devices, FakeCudaKernel on_launch) : cuda_(devices) {
    write_empty_kernels(folder_ / "kernels");
    platform::set_environment_variable("MAMBA_SCAN_KERNEL_DIR", folder_ / "kernels");
    platform::set_environment_variable("MAMBA_SCAN_CACHE_DIR", folder_ / "cache");
    cuda_.on_launch(on_launch);
  }
  ~FakeGpu() { cuda_.on_launch(nullptr); }
  void pass_time(double microseconds) { cuda_.pass_time(microseconds); }
  FakeGpu(const FakeGpu&) = delete;
  FakeGpu& operator=(const FakeGpu&) = delete;

 private:
  ScratchFolder folder_;
  tests::FakeCuda cuda_;
};

struct SeenLaunch {
  std::string entry;
  SelectiveScanForwardParams params{};
};
inline std::vector<SeenLaunch> seen;

inline void remember(const char* entry, void** arguments) {
  seen.push_back({entry, *static_cast<const SelectiveScanForwardParams*>(arguments[0])});
}

// An allocator may take back what it gave before.
struct HostScratch : ops::ScratchAllocator {
  std::vector<char> memory;
  void* allocate(std::size_t bytes) override {
    memory.resize(bytes);
    return memory.data();
  }
};

// Memory of the devices, in which something stands.
struct DeviceScratch : ops::ScratchAllocator {
  driver::DeviceBuffer memory;
  void* allocate(std::size_t bytes) override {
    memory = driver::DeviceBuffer(*ops::runtime().device(0).driver, bytes);
    memory.fill(0xa5, nullptr);
    return memory.pointer();
  }
};

}  // namespace mamba_scan::test
