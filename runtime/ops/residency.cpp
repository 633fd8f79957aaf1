#include "ops/residency.h"

#include <algorithm>

#include "ops/ceil_div.h"
#include "ops/warp_layout.h"

namespace mamba_scan::ops {

std::int16_t blocks_for_registers(const ForwardVariant& v) {
  const bool constant = v.b_order == ProjectionOrder::kConstant || v.c_order == ProjectionOrder::kConstant;
  const bool exchanges_delta = v.softplus && v.lanes > v.channels;  // which takes registers for several steps of it
  if (v.is_complex) return constant || exchanges_delta ? 8 : 12;
  int per_lane = v.channels * v.states;
  if (v.b_order == ProjectionOrder::kConstant) per_lane += v.channels * v.states / 2;
  if (v.c_order == ProjectionOrder::kConstant) per_lane += v.channels * v.states / 2;
  // Sums over many lanes take registers too, and B and C of many states leave shared memory for fewer blocks anyway.
  if (v.dstate > 64 || (per_lane > 16 && exchanges_delta)) return 8;
  // Eight steps of z along the sequence, or of two channels, are in registers together.
  const bool most = per_lane <= 8 && !(v.has_z && (v.seq_contiguous || v.channels > 1));
  const int blocks = per_lane > 32 ? 8 : per_lane > 16 ? 12 : most ? 20 : 16;
  // So do the sums over the slices so far.
  return static_cast<std::int16_t>(v.slice == StateSlice::kAll ? blocks : std::min(blocks, 12));
}

std::int16_t blocks_for_registers(const ForwardVariant& v, const driver::DeviceReport& device) {
  const std::int16_t blocks = blocks_for_registers(v);
  const bool is_tight = v.has_z || v.reads_in_place(v.b_order, v.b_access);
  return device.major >= 8 || v.is_complex || !is_tight ? blocks : std::max<std::int16_t>(8, blocks - 4);
}

int block_slots(const driver::DeviceReport& device) {
  return device.max_blocks_per_sm > 0 ? device.max_blocks_per_sm : 16;  // 0: an old driver
}

int blocks_per_sm(const ForwardVariant& v, const driver::DeviceReport& device) {
  const auto warps = static_cast<std::size_t>(v.block_warps());
  const std::size_t by_shared =
      device.shared_per_sm / (v.table_bytes() + warps * v.shared_bytes() + kReservedPerBlock) * warps;
  const int by_threads = device.max_threads_per_sm / static_cast<int>(kForwardBlockThreads);
  return std::max(1, std::min({static_cast<int>(v.min_blocks), static_cast<int>(by_shared), by_threads,
                               block_slots(device) * v.block_warps()}));
}

Index busy_schedulers(const ForwardVariant& v, const driver::DeviceReport& device) {
  return Index{std::max(device.sm_count, 1)} * std::min(4, blocks_per_sm(v, device));
}

std::int16_t blocks_in_shared_memory(const ForwardVariant& v, const driver::DeviceReport& device) {
  constexpr int kFewest = 8;  // which have all registers
  const int blocks = blocks_per_sm(v, device);
  // As many for every scheduler; long tiles of many states gain from what registers are left, too.
  const int of_scheduler = has_long_windows(v) ? blocks / 4 : ceil_div(blocks, 4);
  return static_cast<std::int16_t>(std::min<int>(v.min_blocks, std::max(4 * of_scheduler, kFewest)));
}

bool fits_dynamic_shared(std::size_t bytes, const driver::DeviceReport& device) {
  return bytes <= std::max(kMostStaticShared, device.shared_per_block_optin);
}

bool fits_shared_memory(const ForwardVariant& v, const driver::DeviceReport& device) {
  if (v.dynamic_shared_bytes() == 0) return v.shared_bytes() <= kMostStaticShared;
  return fits_dynamic_shared(v.dynamic_shared_bytes(), device);
}

bool fits_shared_with_carries(const ForwardVariant& v, const driver::DeviceReport& device) {
  if (!v.cut) return fits_shared_memory(v, device);
  const std::size_t dynamic = v.carry_shared_bytes();
  const bool carries_fit =
      dynamic > 0 ? fits_dynamic_shared(dynamic, device) : carry_variant(v).shared_bytes() <= kMostStaticShared;
  return fits_shared_memory(v, device) && carries_fit;
}

std::int16_t carry_stages_for(const ForwardVariant& v, Index slots, const driver::DeviceReport& device) {
  constexpr std::int16_t kFewest = 2;
  if (v.carry_shared_bytes() > 0) return kFewest;
  ForwardVariant carry = v;
  const Index per_sm = ceil_div<Index>(slots, std::max(device.sm_count, 1));
  for (carry.carry_stages = 6; carry.carry_stages > kFewest; --carry.carry_stages) {
    const ForwardVariant tried = carry_variant(carry);
    if (tried.shared_bytes() <= kMostStaticShared &&
        blocks_per_sm(tried, device) >= std::min<Index>(per_sm, tried.min_blocks))
      break;
  }
  return carry.carry_stages;
}

int blocks_per_sm(const ForwardVariant& v, std::size_t dynamic_shared_bytes, const driver::DeviceReport& device) {
  const std::size_t by_shared = device.shared_per_sm / (dynamic_shared_bytes + kReservedPerBlock);
  return std::max(1, std::min({static_cast<int>(v.min_blocks), static_cast<int>(by_shared), block_slots(device)}));
}

}  // namespace mamba_scan::ops
