#include "driver/library.h"

#include <array>
#include <utility>
#include <vector>

namespace mamba_scan::driver {
namespace {

std::string load_remedy(Result result) {
  switch (result) {
    case Result::kNoBinaryForGpu:
    case Result::kInvalidImage:
      return " The driver does not accept this binary on this GPU: update the NVIDIA driver, or install an NVRTC of "
             "the driver's CUDA version (pip install nvidia-cuda-nvrtc-cu12 for CUDA 12); "
             "`mamba-scan cache clear` if the file came from another machine.";
    case Result::kUnsupportedPtxVersion:
      return " The PTX was written by an NVRTC that is newer than the driver: update the NVIDIA driver, or install an "
             "older NVRTC.";
    case Result::kStreamCaptureUnsupported:
    case Result::kStreamCaptureInvalidated:
      return " A CUDA graph is being captured: make the same call once before, which loads its kernels.";
    case Result::kOutOfMemory:
      return " The GPU's memory is full: free some, or close other programs that use it.";
    default:
      return "";
  }
}

}  // namespace

Library::Library(const Driver& driver, std::span<const char> image, bool is_ptx, const std::string& what)
    : driver_(&driver), what_(what) {
  std::vector<char> terminated;
  const char* code = image.data();
  if (is_ptx && (image.empty() || image.back() != '\0')) {  // PTX is a C string to the driver
    terminated.assign(image.begin(), image.end());
    terminated.push_back('\0');
    code = terminated.data();
  }

  std::array<char, 8192> log{};
  std::array<JitOption, 2> options = {JitOption::kErrorLogBuffer, JitOption::kErrorLogBufferSizeBytes};
  // The driver wants small integers in place of the pointers.
  std::array<void*, 2> values = {log.data(), reinterpret_cast<void*>(log.size() - 1)};
  const unsigned option_count = is_ptx ? 2 : 0;  // a cubin is not compiled again: nothing to log

  const DriverTable& api = driver.api();
  const Result result =
      api.cuLibraryLoadData
          ? api.cuLibraryLoadData(&library_, code, options.data(), values.data(), option_count, nullptr, nullptr, 0)
          : api.cuModuleLoadDataEx(&module_, code, option_count, options.data(), values.data());
  if (result == Result::kSuccess) return;
  library_ = nullptr;
  module_ = nullptr;

  std::string message = "Loading " + what + (is_ptx ? " (PTX, compiled by the driver)" : "") +
                        " failed: " + driver.describe(result) + "." + load_remedy(result);
  if (log[0] != '\0') message += "\nThe driver's compiler says:\n" + std::string(log.data());
  throw DriverError(result, message);
}

Library::Library(Library&& other) noexcept
    : driver_(other.driver_),
      what_(std::move(other.what_)),
      library_(std::exchange(other.library_, nullptr)),
      module_(std::exchange(other.module_, nullptr)) {}

Library::~Library() {
  if (library_) driver_->api().cuLibraryUnload(library_);
  if (module_) driver_->api().cuModuleUnload(module_);
}

Kernel Library::kernel(const std::string& entry) const {
  const DriverTable& api = driver_->api();
  CUfunction function = nullptr;
  Result result;
  if (library_) {
    CUkernel handle = nullptr;
    result = api.cuLibraryGetKernel(&handle, library_, entry.c_str());
    if (result == Result::kSuccess) result = api.cuKernelGetFunction(&function, handle);
  } else {
    result = api.cuModuleGetFunction(&function, module_, entry.c_str());
  }
  if (result != Result::kSuccess) driver_->fail(result, "Finding the kernel " + entry + " in " + what_);
  return Kernel(driver_, function);
}

}  // namespace mamba_scan::driver
