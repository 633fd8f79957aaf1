// cuGetProcAddress, with the versions in which NVIDIA introduced each function: written down here a second time, on
// purpose, so that a wrong row in the runtime's table shows.
#include "fake_state.h"

using namespace mamba_scan::driver;

#define FAKE_PROCS(X)                                                                                                  \
  X(cuInit, cuInit, 2000)                                                                                              \
  X(cuDriverGetVersion, cuDriverGetVersion, 2020)                                                                      \
  X(cuGetErrorName, cuGetErrorName, 6000) X(cuGetErrorString, cuGetErrorString, 6000) X(                               \
      cuDeviceGetCount, cuDeviceGetCount, 2000) X(cuDeviceGet, cuDeviceGet, 2000) X(cuDeviceGetName, cuDeviceGetName,  \
                                                                                    2000)                              \
      X(cuDeviceGetAttribute, cuDeviceGetAttribute, 2000) X(cuDeviceTotalMem, cuDeviceTotalMem_v2, 3020) X(            \
          cuDeviceGetPCIBusId, cuDeviceGetPCIBusId, 4010) X(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, 7000)  \
          X(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, 11000) X(cuCtxGetCurrent, cuCtxGetCurrent, 4000)  \
              X(cuCtxPushCurrent, cuCtxPushCurrent_v2, 4000) X(cuCtxPopCurrent, cuCtxPopCurrent_v2, 4000)              \
                  X(cuCtxSynchronize, cuCtxSynchronize, 2000) X(cuMemGetInfo, cuMemGetInfo_v2, 3020) X(                \
                      cuMemAlloc, cuMemAlloc_v2, 3020) X(cuMemFree, cuMemFree_v2, 3020) X(cuMemHostAlloc,              \
                                                                                          cuMemHostAlloc, 2020)        \
                      X(cuMemFreeHost, cuMemFreeHost, 2000) X(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, 3020) X(        \
                          cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2,                                                     \
                          3020) X(cuMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2, 3020)                                       \
                          X(cuMemsetD8Async, cuMemsetD8Async, 3020) X(cuStreamCreate, cuStreamCreate, 2000) X(         \
                              cuStreamDestroy, cuStreamDestroy_v2, 4000)                                               \
                              X(cuStreamSynchronize, cuStreamSynchronize, 2000) X(cuStreamQuery, cuStreamQuery, 2000)  \
                                  X(cuStreamWaitEvent, cuStreamWaitEvent, 3020) X(cuEventCreate, cuEventCreate, 2000)  \
                                      X(cuEventDestroy, cuEventDestroy_v2, 4000) X(cuEventRecord, cuEventRecord, 2000) \
                                          X(cuEventQuery, cuEventQuery, 2000)                                          \
                                              X(cuEventSynchronize, cuEventSynchronize, 2000)                          \
                                                  X(cuEventElapsedTime, cuEventElapsedTime, 2000) X(                   \
                                                      cuModuleLoadDataEx, cuModuleLoadDataEx, 2010)                    \
                                                      X(cuModuleGetFunction, cuModuleGetFunction, 2000) X(             \
                                                          cuModuleUnload, cuModuleUnload, 2000)                        \
                                                          X(cuLibraryLoadData, cuLibraryLoadData, 12000) X(            \
                                                              cuLibraryUnload, cuLibraryUnload, 12000)                 \
                                                              X(cuLibraryGetKernel, cuLibraryGetKernel, 12000) X(      \
                                                                  cuKernelGetFunction, cuKernelGetFunction, 12000)     \
                                                                  X(cuFuncGetAttribute, cuFuncGetAttribute, 2020) X(   \
                                                                      cuFuncSetAttribute, cuFuncSetAttribute, 9000)    \
                                                                      X(cuOccupancyMaxActiveBlocksPerMultiprocessor,   \
                                                                        cuOccupancyMaxActiveBlocksPerMultiprocessor,   \
                                                                        6050) X(cuLaunchKernel, cuLaunchKernel, 4000)  \
                                                                          X(cuLaunchKernelEx, cuLaunchKernelEx, 11060)

// Only the addresses matter here; the signatures are where the functions are defined.
extern "C" {
#define FAKE_DECLARE(name, symbol, version) void symbol();
FAKE_PROCS(FAKE_DECLARE)
#undef FAKE_DECLARE
}

namespace {

struct Proc {
  const char* name;
  void* address;
  int introduced;
};

const Proc kProcs[] = {
#define FAKE_ROW(name, symbol, version) {#name, reinterpret_cast<void*>(&symbol), version},
    FAKE_PROCS(FAKE_ROW)
#undef FAKE_ROW
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
