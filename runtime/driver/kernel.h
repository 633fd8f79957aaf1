// A loaded kernel function and how to launch it.
#pragma once

#include <cstddef>

#include "driver/cuda_types.h"

namespace mamba_scan::driver {

class Driver;

struct LaunchConfig {
  unsigned grid[3] = {1, 1, 1};
  unsigned block[3] = {1, 1, 1};
  unsigned dynamic_shared_bytes = 0;
  CUstream stream = nullptr;
};

// Non-owning: the Library it came from lives as long as the process.
class Kernel {
 public:
  Kernel() = default;
  Kernel(const Driver* driver, CUfunction function) : driver_(driver), function_(function) {}

  // arguments[i] points at the i-th kernel parameter. The context of the device must be current.
  // Throws DriverError with the kernel's geometry in the message.
  void launch(const LaunchConfig& config, void** arguments) const;

  int max_active_blocks_per_sm(int block_threads, std::size_t dynamic_shared_bytes) const;
  // Raises the dynamic shared memory limit above 48 KB.
  void allow_dynamic_shared(std::size_t bytes) const;
  int attribute(FunctionAttribute attribute) const;  // registers, local memory, ... as the driver loaded it
  CUfunction function() const { return function_; }

 private:
  const Driver* driver_ = nullptr;
  CUfunction function_ = nullptr;
};

}  // namespace mamba_scan::driver
