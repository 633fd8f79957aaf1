#include <algorithm>
#include <cstring>

#include "fake_state.h"

using namespace mamba_scan::driver;

FAKE_ENTRY cuInit(unsigned flags) {
  FAKE_CALL("cuInit", kNothing);
  if (flags != 0) return Result::kInvalidValue;
  if (call.s().devices.empty()) return Result::kNoDevice;
  call.s().initialised = true;
  return Result::kSuccess;
}

FAKE_ENTRY cuDriverGetVersion(int* version) {
  FAKE_CALL("cuDriverGetVersion", kNothing);
  *version = call.s().version;
  return Result::kSuccess;
}

namespace {

struct ErrorText {
  Result result;
  const char* name;
  const char* text;
};

const ErrorText kErrors[] = {
    {Result::kSuccess, "CUDA_SUCCESS", "no error"},
    {Result::kInvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {Result::kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {Result::kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {Result::kStubLibrary, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {Result::kNoDevice, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {Result::kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {Result::kInvalidImage, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {Result::kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {Result::kNoBinaryForGpu, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {Result::kInvalidPtx, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {Result::kUnsupportedPtxVersion, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {Result::kOperatingSystem, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS"},
    {Result::kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {Result::kNotFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {Result::kNotReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {Result::kIllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {Result::kLaunchOutOfResources, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {Result::kLaunchTimeout, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {Result::kLaunchFailed, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {Result::kNotPermitted, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {Result::kNotSupported, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {Result::kSystemDriverMismatch, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
     "system has unsupported display driver / cuda driver combination"},
    {Result::kUnknown, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

const ErrorText* find_error(Result result) {
  const auto found =
      std::find_if(std::begin(kErrors), std::end(kErrors), [&](const ErrorText& e) { return e.result == result; });
  return found == std::end(kErrors) ? nullptr : found;
}

}  // namespace

FAKE_ENTRY cuGetErrorName(Result error, const char** text) {
  const ErrorText* found = find_error(error);
  *text = found ? found->name : nullptr;
  return found ? Result::kSuccess : Result::kInvalidValue;
}

FAKE_ENTRY cuGetErrorString(Result error, const char** text) {
  const ErrorText* found = find_error(error);
  *text = found ? found->text : nullptr;
  return found ? Result::kSuccess : Result::kInvalidValue;
}

FAKE_ENTRY cuDeviceGetCount(int* count) {
  FAKE_CALL("cuDeviceGetCount", kInit);
  *count = static_cast<int>(call.s().devices.size());
  return Result::kSuccess;
}

FAKE_ENTRY cuDeviceGet(CUdevice* device, int ordinal) {
  FAKE_CALL("cuDeviceGet", kInit);
  if (ordinal < 0 || ordinal >= static_cast<int>(call.s().devices.size())) return Result::kInvalidDevice;
  *device = ordinal;
  return Result::kSuccess;
}

FAKE_ENTRY cuDeviceGetName(char* name, int length, CUdevice device) {
  FAKE_CALL("cuDeviceGetName", kInit);
  std::strncpy(name, call.s().devices.at(static_cast<std::size_t>(device)).name.c_str(),
               static_cast<std::size_t>(length));
  return Result::kSuccess;
}

FAKE_ENTRY cuDeviceGetPCIBusId(char* id, int length, CUdevice device) {
  FAKE_CALL("cuDeviceGetPCIBusId", kInit);
  const std::string text = "0000:0" + std::to_string(device + 1) + ":00.0";
  std::strncpy(id, text.c_str(), static_cast<std::size_t>(length));
  return Result::kSuccess;
}

FAKE_ENTRY cuDeviceTotalMem_v2(std::size_t* bytes, CUdevice) {
  FAKE_CALL("cuDeviceTotalMem", kInit);
  *bytes = call.s().memory;
  return Result::kSuccess;
}

FAKE_ENTRY cuDeviceGetAttribute(int* value, DeviceAttribute attribute, CUdevice ordinal) {
  FAKE_CALL("cuDeviceGetAttribute", kInit);
  const fake::Device& device = call.s().devices.at(static_cast<std::size_t>(ordinal));
  switch (attribute) {
    case DeviceAttribute::kComputeCapabilityMajor:
      *value = device.capability / 10;
      break;
    case DeviceAttribute::kComputeCapabilityMinor:
      *value = device.capability % 10;
      break;
    case DeviceAttribute::kMultiprocessorCount:
      *value = device.sm_count;
      break;
    case DeviceAttribute::kIntegrated:
      *value = device.integrated;
      break;
    case DeviceAttribute::kKernelExecTimeout:
      *value = device.watchdog;
      break;
    case DeviceAttribute::kMaxThreadsPerMultiprocessor:
      *value = 2048;
      break;
    case DeviceAttribute::kMaxBlocksPerMultiprocessor:
      *value = 32;
      break;
    case DeviceAttribute::kMaxRegistersPerMultiprocessor:
      *value = 65536;
      break;
    case DeviceAttribute::kMaxSharedMemoryPerBlock:
      *value = 48 * 1024;
      break;
    case DeviceAttribute::kMaxSharedMemoryPerBlockOptin:
      *value = 227 * 1024;
      break;
    case DeviceAttribute::kMaxSharedMemoryPerMultiprocessor:
      *value = 228 * 1024;
      break;
    case DeviceAttribute::kL2CacheSize:
      *value = 50 << 20;
      break;
    case DeviceAttribute::kClockRate:
      *value = device.clock_khz;
      break;
    case DeviceAttribute::kMemoryClockRate:
      *value = 3201000;
      break;
    case DeviceAttribute::kGlobalMemoryBusWidth:
      *value = 6144;
      break;
    default:
      return Result::kInvalidValue;
  }
  return Result::kSuccess;
}
