// cuGetProcAddress, with the versions in which NVIDIA introduced each function: written down here a second time, on
// purpose, so that a wrong row in the runtime's table shows.
#include "fake_state.h"

using namespace mamba_scan::driver;

// Only the addresses matter here; the signatures are where the functions are defined.
extern "C" {
void cuInit();
void cuDriverGetVersion();
void cuGetErrorName();
void cuGetErrorString();
void cuDeviceGetCount();
void cuDeviceGet();
void cuDeviceGetName();
void cuDeviceGetAttribute();
void cuDeviceTotalMem_v2();
void cuDeviceGetPCIBusId();
void cuDevicePrimaryCtxRetain();
void cuDevicePrimaryCtxRelease_v2();
void cuCtxGetCurrent();
void cuCtxPushCurrent_v2();
void cuCtxPopCurrent_v2();
void cuCtxSynchronize();
void cuMemGetInfo_v2();
void cuMemAlloc_v2();
void cuMemFree_v2();
void cuMemHostAlloc();
void cuMemFreeHost();
void cuMemcpyHtoDAsync_v2();
void cuMemcpyDtoHAsync_v2();
void cuMemcpyDtoDAsync_v2();
void cuMemsetD8Async();
void cuStreamCreate();
void cuStreamDestroy_v2();
void cuStreamSynchronize();
void cuStreamQuery();
void cuStreamWaitEvent();
void cuEventCreate();
void cuEventDestroy_v2();
void cuEventRecord();
void cuEventQuery();
void cuEventSynchronize();
void cuEventElapsedTime();
void cuModuleLoadDataEx();
void cuModuleGetFunction();
void cuModuleUnload();
void cuLibraryLoadData();
void cuLibraryUnload();
void cuLibraryGetKernel();
void cuKernelGetFunction();
void cuFuncGetAttribute();
void cuFuncSetAttribute();
void cuOccupancyMaxActiveBlocksPerMultiprocessor();
void cuLaunchKernel();
void cuLaunchKernelEx();
}

namespace {

struct Proc {
  const char* name;
  void* address;
  int introduced;
};

void* address(void (*function)()) { return reinterpret_cast<void*>(function); }

const Proc kProcs[] = {
    {"cuInit", address(cuInit), 2000},
    {"cuDriverGetVersion", address(cuDriverGetVersion), 2020},
    {"cuGetErrorName", address(cuGetErrorName), 6000},
    {"cuGetErrorString", address(cuGetErrorString), 6000},
    {"cuDeviceGetCount", address(cuDeviceGetCount), 2000},
    {"cuDeviceGet", address(cuDeviceGet), 2000},
    {"cuDeviceGetName", address(cuDeviceGetName), 2000},
    {"cuDeviceGetAttribute", address(cuDeviceGetAttribute), 2000},
    {"cuDeviceTotalMem", address(cuDeviceTotalMem_v2), 3020},
    {"cuDeviceGetPCIBusId", address(cuDeviceGetPCIBusId), 4010},
    {"cuDevicePrimaryCtxRetain", address(cuDevicePrimaryCtxRetain), 7000},
    {"cuDevicePrimaryCtxRelease", address(cuDevicePrimaryCtxRelease_v2), 11000},
    {"cuCtxGetCurrent", address(cuCtxGetCurrent), 4000},
    {"cuCtxPushCurrent", address(cuCtxPushCurrent_v2), 4000},
    {"cuCtxPopCurrent", address(cuCtxPopCurrent_v2), 4000},
    {"cuCtxSynchronize", address(cuCtxSynchronize), 2000},
    {"cuMemGetInfo", address(cuMemGetInfo_v2), 3020},
    {"cuMemAlloc", address(cuMemAlloc_v2), 3020},
    {"cuMemFree", address(cuMemFree_v2), 3020},
    {"cuMemHostAlloc", address(cuMemHostAlloc), 2020},
    {"cuMemFreeHost", address(cuMemFreeHost), 2000},
    {"cuMemcpyHtoDAsync", address(cuMemcpyHtoDAsync_v2), 3020},
    {"cuMemcpyDtoHAsync", address(cuMemcpyDtoHAsync_v2), 3020},
    {"cuMemcpyDtoDAsync", address(cuMemcpyDtoDAsync_v2), 3020},
    {"cuMemsetD8Async", address(cuMemsetD8Async), 3020},
    {"cuStreamCreate", address(cuStreamCreate), 2000},
    {"cuStreamDestroy", address(cuStreamDestroy_v2), 4000},
    {"cuStreamSynchronize", address(cuStreamSynchronize), 2000},
    {"cuStreamQuery", address(cuStreamQuery), 2000},
    {"cuStreamWaitEvent", address(cuStreamWaitEvent), 3020},
    {"cuEventCreate", address(cuEventCreate), 2000},
    {"cuEventDestroy", address(cuEventDestroy_v2), 4000},
    {"cuEventRecord", address(cuEventRecord), 2000},
    {"cuEventQuery", address(cuEventQuery), 2000},
    {"cuEventSynchronize", address(cuEventSynchronize), 2000},
    {"cuEventElapsedTime", address(cuEventElapsedTime), 2000},
    {"cuModuleLoadDataEx", address(cuModuleLoadDataEx), 2010},
    {"cuModuleGetFunction", address(cuModuleGetFunction), 2000},
    {"cuModuleUnload", address(cuModuleUnload), 2000},
    {"cuLibraryLoadData", address(cuLibraryLoadData), 12000},
    {"cuLibraryUnload", address(cuLibraryUnload), 12000},
    {"cuLibraryGetKernel", address(cuLibraryGetKernel), 12000},
    {"cuKernelGetFunction", address(cuKernelGetFunction), 12000},
    {"cuFuncGetAttribute", address(cuFuncGetAttribute), 2020},
    {"cuFuncSetAttribute", address(cuFuncSetAttribute), 9000},
    {"cuOccupancyMaxActiveBlocksPerMultiprocessor", address(cuOccupancyMaxActiveBlocksPerMultiprocessor), 6050},
    {"cuLaunchKernel", address(cuLaunchKernel), 4000},
    {"cuLaunchKernelEx", address(cuLaunchKernelEx), 11060},
};

constexpr int kSymbolNotFound = 1;
constexpr int kVersionNotSufficient = 2;

Result look_up(const char* name, void** function, int version, int* status) {
  FAKE_CALL("cuGetProcAddress", kNothing);
  *function = nullptr;
  *status = kSymbolNotFound;
  if (call.s().no_get_proc_address) return Result::kNotSupported;
  if (version > call.s().version) return Result::kInvalidValue;
  for (const Proc& proc : kProcs) {
    if (std::string(proc.name) != name || call.s().hidden.count(name) != 0) continue;
    if (proc.introduced > version) {
      *status = kVersionNotSufficient;
      return Result::kNotFound;
    }
    *function = proc.address;
    ++call.s().calls["resolved"];
    *status = 0;
    return Result::kSuccess;
  }
  return Result::kNotFound;
}

}  // namespace

FAKE_ENTRY cuGetProcAddress(const char* name, void** function, int version, std::uint64_t) {
  int status = 0;
  return look_up(name, function, version, &status);
}

FAKE_ENTRY cuGetProcAddress_v2(const char* name, void** function, int version, std::uint64_t, int* status) {
  int ignored = 0;
  return look_up(name, function, version, status ? status : &ignored);
}

// Private to NVIDIA's libraries: NVRTC asks any driver that is loaded in the process for one and takes no for an
// answer, but does not survive that there is nobody to ask.
FAKE_ENTRY cuGetExportTable(const void** table, const void*) {
  *table = nullptr;
  return Result::kNotFound;
}
