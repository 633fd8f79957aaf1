// What a CUDA device is and can do, as the driver reports it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace mamba_scan::driver {

class Driver;

struct DeviceReport {
  int ordinal = 0;  // as CUDA_VISIBLE_DEVICES leaves them; equals torch's device index
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int sm_count = 0;
  int max_threads_per_sm = 0;
  int max_blocks_per_sm = 0;
  int registers_per_sm = 0;
  std::size_t shared_per_block = 0;        // without opting in
  std::size_t shared_per_block_optin = 0;  // with
  std::size_t shared_per_sm = 0;
  std::size_t l2_bytes = 0;
  std::size_t total_memory = 0;
  std::size_t free_memory = 0;  // 0 where a context could not be made
  int clock_khz = 0;
  int memory_clock_khz = 0;
  int memory_bus_bits = 0;
  bool integrated = false;  // shares memory with the CPU (Jetson)
  bool watchdog = false;    // launches are killed after about 2 s: a display hangs on this GPU
  std::string pci_bus_id;

  int capability() const { return 10 * major + minor; }  // 90 for sm_90
};

// Every device the process may see, in the driver's order. Makes no context, so free_memory is 0.
std::vector<DeviceReport> devices(const Driver& driver);
DeviceReport device_report(const Driver& driver, int ordinal);

}  // namespace mamba_scan::driver
