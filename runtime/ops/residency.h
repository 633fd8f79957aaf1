// How many warps of a variant a multiprocessor holds.
#pragma once

#include <cstddef>
#include <cstdint>

#include "driver/device.h"
#include "ops/forward_variant.h"

namespace mamba_scan::ops {

constexpr std::size_t kMostStaticShared = 48 << 10;  // of a block, on every device
constexpr std::size_t kReservedPerBlock = 1024;      // by the system, on every architecture since sm_80

// Registers a lane's states, decay rates and everything else fit in without spilling, as blocks of one warp per SM.
// 8 blocks leave 255 registers, 12 leave 168, 16 leave 128, 20 leave 96.
std::int16_t blocks_for_registers(const ForwardVariant& v);

// Before sm_80 copies to shared memory pass through registers, those of z too. There, what reads B and C in place needs
// one register more than 16 blocks leave.
std::int16_t blocks_for_registers(const ForwardVariant& v, const driver::DeviceReport& device);

// Blocks of a multiprocessor, however small.
int block_slots(const driver::DeviceReport& device);

// Warps of forward.cu, blocks unless they go abreast.
int blocks_per_sm(const ForwardVariant& v, const driver::DeviceReport& device);

// Schedulers of the device that have a warp when it is full: a block is one warp, and less than four to an SM, for want
// of shared memory, leave some of its four schedulers idle.
Index busy_schedulers(const ForwardVariant& v, const driver::DeviceReport& device);

// Where shared memory holds fewer warps than registers do, a warp may have more of these.
std::int16_t blocks_in_shared_memory(const ForwardVariant& v, const driver::DeviceReport& device);

// May a block have that much shared memory?
bool fits_dynamic_shared(std::size_t bytes, const driver::DeviceReport& device);
bool fits_shared_memory(const ForwardVariant& v, const driver::DeviceReport& device);

// And one of carry.cu, where the variant is cut?
bool fits_shared_with_carries(const ForwardVariant& v, const driver::DeviceReport& device);

// A carry pass computes little per tile, so that six tiles must be under way to hide how long copies take; fewer where
// shared memory would then hold fewer warps than there are, or where warps share a slot, whose tiles are read in vain
// once what they add to has decayed.
std::int16_t carry_stages_for(const ForwardVariant& v, Index slots, const driver::DeviceReport& device);

// Blocks of a kernel that has a block for every row: relay.cu, relay_served.cu, whole_rows.cu.
int blocks_per_sm(const ForwardVariant& v, std::size_t dynamic_shared_bytes, const driver::DeviceReport& device);

}  // namespace mamba_scan::ops
