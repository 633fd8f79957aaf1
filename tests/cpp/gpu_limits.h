// What a multiprocessor of each architecture holds, as the CUDA programming guide's table of technical specifications
// says, and how many blocks of a kernel that makes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "driver/device.h"

namespace mamba_scan::test {

struct SmLimits {
  int capability;
  int registers;          // 32-bit
  std::int64_t shared;    // bytes
  std::int64_t reserved;  // bytes of it that the system takes for each block
  int blocks;
  int threads;
};

inline const std::vector<SmLimits>& sm_limits() {
  constexpr int kRegisters = 64 << 10;
  static const std::vector<SmLimits> limits = {
      {75, kRegisters, 64 << 10, 0, 16, 1024},     {86, kRegisters, 100 << 10, 1024, 16, 1536},
      {87, kRegisters, 164 << 10, 1024, 16, 1536}, {89, kRegisters, 100 << 10, 1024, 24, 1536},
      {90, kRegisters, 228 << 10, 1024, 32, 2048}, {120, kRegisters, 100 << 10, 1024, 24, 1536},
  };
  return limits;
}

// Null for an architecture that is compiled for and not looked at here.
inline const SmLimits* sm_limits_of(int capability) {
  for (const SmLimits& limits : sm_limits())
    if (limits.capability == capability) return &limits;
  return nullptr;
}

struct Occupancy {
  int by_registers = 0;  // blocks of one SM
  int by_shared = 0;
  int by_slots = 0;
  int by_threads = 0;
  int warps_per_block = 1;

  int blocks() const { return std::min({by_registers, by_shared, by_slots, by_threads}); }
  int warps() const { return blocks() * warps_per_block; }
  std::string limit() const {
    const int least = blocks();
    if (least == by_registers) return "registers";
    if (least == by_shared) return "shared memory";
    return least == by_slots ? "blocks" : "threads";
  }
};

// Registers are dealt out to warps in units of 256, from the 16 K that each of the four schedulers has; shared memory
// to blocks in units of 128 bytes (256 before sm_80).
inline Occupancy occupancy_of(int registers_per_thread, std::int64_t shared_bytes, int block_threads,
                              const SmLimits& limits) {
  const auto round_up = [](std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; };
  const std::int64_t of_warp = round_up(std::max(registers_per_thread, 1) * 32, 256);
  const std::int64_t of_block = round_up(shared_bytes + limits.reserved, limits.capability < 80 ? 256 : 128);
  Occupancy out;
  out.warps_per_block = (block_threads + 31) / 32;
  out.by_registers = static_cast<int>(4 * (limits.registers / 4 / of_warp)) / out.warps_per_block;
  out.by_shared = of_block > 0 ? static_cast<int>(limits.shared / of_block) : limits.blocks;
  out.by_slots = limits.blocks;
  out.by_threads = limits.threads / block_threads;
  return out;
}

// A GPU by its data sheet. The exponential unit evaluates 16 per clock and SM on all of them.
struct GpuModel {
  const char* name;
  int capability;
  int sm_count;
  double ghz;
  double gb_per_s;

  double exps_per_s() const { return 16e9 * sm_count * ghz; }
};

inline const std::vector<GpuModel>& gpu_models() {
  static const std::vector<GpuModel> models = {
      {"Jetson Orin, 8 SMs", 87, 8, 1.02, 102},       {"Jetson AGX Orin, 16 SMs", 87, 16, 1.3, 204.8},
      {"RTX 2070, 36 SMs", 75, 36, 1.62, 448},        {"RTX 4070 laptop, 36 SMs", 89, 36, 2.175, 256},
      {"RTX 5070 laptop, 36 SMs", 120, 36, 2.3, 384}, {"RTX 3090, 82 SMs", 86, 82, 1.695, 936},
      {"RTX 4090, 128 SMs", 89, 128, 2.52, 1008},     {"H200, 132 SMs", 90, 132, 1.98, 4800},
  };
  return models;
}

// Of one of sm_limits().
inline driver::DeviceReport report_of(int capability, int sm_count) {
  const SmLimits& limits = *sm_limits_of(capability);
  driver::DeviceReport device;
  device.major = capability / 10;
  device.minor = capability % 10;
  device.sm_count = sm_count;
  device.max_threads_per_sm = limits.threads;
  device.max_blocks_per_sm = limits.blocks;
  device.registers_per_sm = limits.registers;
  device.shared_per_block = 48 << 10;
  device.shared_per_sm = static_cast<std::size_t>(limits.shared);
  const auto of_block = limits.capability < 70 ? std::int64_t{48} << 10 : limits.shared - limits.reserved;
  device.shared_per_block_optin = static_cast<std::size_t>(of_block);
  return device;
}

inline driver::DeviceReport device_with(int sm_count, int capability = 90) { return report_of(capability, sm_count); }

// With the clock and the memory of an H100, of which the multiprocessors have their share.
inline driver::DeviceReport h100_report(int sm_count = 132, int capability = 90) {
  driver::DeviceReport device = report_of(capability, sm_count);
  device.clock_khz = 1980000;
  device.memory_clock_khz = 2619000 / 132 * sm_count;
  device.memory_bus_bits = 5120;
  device.l2_bytes = std::size_t{50} << 20;
  return device;
}

// The same with faster memory and a larger cache.
inline driver::DeviceReport h200_report() {
  driver::DeviceReport device = h100_report();
  device.memory_clock_khz = 3201000;
  device.memory_bus_bits = 6144;
  device.l2_bytes = std::size_t{60} << 20;
  return device;
}

inline driver::DeviceReport report_of(const GpuModel& model) {
  driver::DeviceReport device = report_of(model.capability, model.sm_count);
  device.name = model.name;
  device.clock_khz = static_cast<int>(model.ghz * 1e6);
  return device;
}

}  // namespace mamba_scan::test
