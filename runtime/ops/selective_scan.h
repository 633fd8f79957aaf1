// The selective scan for whoever holds pointers: checks the problem, plans, gets the kernel, launches it;
// or hands it to the CPU backend. Used by the torch bindings, the command line program and the tests.
#pragma once

#include <cstddef>

#include "platform/export.h"
#include "selective_scan/problem.h"

namespace mamba_scan::ops {

// Throws ArgumentError for anything no backend serves (negative sizes, dim % ngroups, missing pointers, ...).
MAMBA_SCAN_API void check(const SelectiveScanProblem& problem);
// The values of cu_seqlens, which must lie in host memory; nothing when not packed.
MAMBA_SCAN_API void check_sequences(const SelectiveScanProblem& problem);

// Runs on the host, returns when done. threads = 0: MAMBA_SCAN_NUM_THREADS, else all cores.
MAMBA_SCAN_API void selective_scan_cpu(const SelectiveScanProblem& problem, int threads = 0);

// Device memory that a launch needs while it runs. Whoever owns the stream knows how to get it: torch from its caching
// allocator, a program from the driver.
class MAMBA_SCAN_API ScratchAllocator {
 public:
  virtual ~ScratchAllocator() = default;
  // At least `bytes` of memory of the launch's device, aligned to 256 bytes, that stays valid for work enqueued on the
  // launch's stream before it is given back.
  virtual void* allocate(std::size_t bytes) = 0;
};

// Enqueues on `stream` (a CUstream; null is the default stream) of the device with this ordinal and returns.
// The device's primary context is used; the caller's current context is restored.
MAMBA_SCAN_API void selective_scan_cuda(const SelectiveScanProblem& problem, int device_ordinal, void* stream,
                                        ScratchAllocator& scratch);

}  // namespace mamba_scan::ops
