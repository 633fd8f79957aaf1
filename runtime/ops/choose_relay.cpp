// Candidates whose warps take turns on a row (relay.cu), and are served by others besides (relay_served.cu).
#include <algorithm>
#include <cstdint>

#include "ops/candidates.h"
#include "ops/ceil_div.h"
#include "ops/residency.h"
#include "ops/warp_layout.h"

namespace mamba_scan::ops {
namespace {

// ---- relay.cu ----

constexpr int kMostWarps = 16;      // each has a named barrier
constexpr int kWarpsOfSm = 16;      // leave a thread 128 registers
constexpr int kUsualElements = 32;  // steps * states * channels that a lane has in registers

// A turn's decays and inputs are in registers together, besides about fifty others.
bool fits_registers(const ForwardVariant& v) {
  const int needed = 2 * v.tile * v.states * v.channels + 50;
  return needed * v.warps * v.min_blocks * 32 <= 65536;
}

// A lane's share of the states, the tile that is usual for it, and what depends on these; false where the kernel cannot
// have them.
bool set_relay_shape(const SelectiveScanProblem& problem, const PlanChoice& wanted, ForwardVariant& v) {
  v.states = static_cast<std::int16_t>(ceil_div<int>(v.dstate, v.lanes));
  const int held = v.states * v.channels;
  if (held > 8 || held != next_power_of_two(held) || v.lanes * v.states > 2 * v.dstate) return false;
  v.tile = wanted.tile > 0 ? wanted.tile : static_cast<std::int16_t>(kUsualElements / held);
  v.unroll = v.tile;
  v.stages = wanted.stages > 0 ? wanted.stages : std::int16_t{2};
  v.min_blocks =
      wanted.min_blocks > 0 ? wanted.min_blocks : static_cast<std::int16_t>(std::max(1, kWarpsOfSm / v.warps));
  if (v.seq_contiguous && v.tile * element_size(v.dtype) % 16 != 0) return false;  // steps are read in such vectors
  set_accesses(problem, v);
  if (v.channels > 1 && is_shifted(v)) return false;
  set_projections(problem, v);
  v.reverse = problem.reverse && has_adjacent_steps(v);
  return fits_registers(v);
}

// If shared memory has room for it.
void consider_relay_rows(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                         const ForwardVariant& v, Best& best) {
  if (!fits_shared_memory(v, device)) return;
  const Index rows = rows_of(problem, v);
  const int resident = blocks_per_sm(v, v.dynamic_shared_bytes(), device);
  const double clocks = clocks_of_relay(v, rows, resident, problem.seqlen, std::max(device.sm_count, 1));
  consider_blocks(problem, device, v, rows, clocks, best);
}

// ---- relay_served.cu ----

// Of a lane, and warps that scan where it has many; steps of a turn.
constexpr std::int16_t kFewTurnStates = 4, kManyTurnStates = 8, kManyTurnWarps = 8, kServedTurn = 8;

// As many blocks as leave a thread the registers that it needs: of 4 states 96 on Hopper, elsewhere more; of 8, 168.
std::int16_t relay_served_blocks(const ForwardVariant& v, const driver::DeviceReport& device) {
  if (v.states == kManyTurnStates) return 1;
  const int blocks = v.warps == 4 ? 3 : 2;
  return static_cast<std::int16_t>(device.major == 9 ? blocks : blocks - 1);
}

bool moves_sequences_in_vectors(const ForwardVariant& v) {
  const auto accesses = {v.u_access, v.delta_access, v.z_access, v.y_access};
  return std::all_of(accesses.begin(), accesses.end(), [](Access access) { return access == Access::kVectors; });
}

// A warp's turn must be over before the slot of its tile is needed again.
bool has_room_for_turns(const ForwardVariant& v) { return v.relay_slots() * v.tile / v.unroll >= 2 * v.warps; }

// Short tiles are ready sooner; but where servers are few, or have delta and gates to evaluate, or move what is no
// vector, they are done sooner with long ones; of fp32 by step these find no shared memory.
void set_relay_served_tile(const SelectiveScanProblem& problem, std::int16_t wanted, ForwardVariant& v) {
  constexpr std::int16_t kShort = 16, kLong = 32;
  constexpr int kFewServers = 2;
  const bool is_busy = v.dtype != DType::kFloat32 && (v.softplus || v.has_z);
  const bool is_long = v.tiles_apart() <= kFewServers || is_busy;
  v.tile = wanted > 0 ? wanted : is_long ? kLong : kShort;
  set_accesses(problem, v);
  const bool are_words_by_step = v.dtype == DType::kFloat32 && v.serves_by_step();
  if (wanted > 0 || is_long || moves_sequences_in_vectors(v) || are_words_by_step) return;
  v.tile = kLong;
  set_accesses(problem, v);
}

// 2 states of a lane measured slower.
bool set_relay_served_shape(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                            const PlanChoice& wanted, ForwardVariant& v) {
  constexpr std::int16_t kStages = 4;
  v.states = static_cast<std::int16_t>(next_power_of_two(ceil_div<int>(v.dstate, v.lanes)));
  if (v.states != kFewTurnStates && (v.states != kManyTurnStates || v.warps != kManyTurnWarps)) return false;
  if (v.lanes * v.states > 2 * v.dstate) return false;
  v.served = true;
  v.unroll = kServedTurn;
  set_relay_served_tile(problem, wanted.tile, v);
  v.stages = wanted.stages > 0 ? wanted.stages : kStages;
  v.min_blocks = wanted.min_blocks > 0 ? wanted.min_blocks : relay_served_blocks(v, device);
  if (v.tile < v.unroll || !has_room_for_turns(v) || v.stages < kStages) return false;
  set_projections(problem, v);
  v.reverse = problem.reverse && has_adjacent_steps(v);
  return true;
}

// Where this was measured to pay: many states, Hopper, 16 bits; adjacent steps, or rows that are moved in vectors, or 8
// states of a lane. Others are for tuning only.
bool is_measured_relay_served(const ForwardVariant& v, const driver::DeviceReport& device) {
  constexpr int kFew = 8;
  const auto are_moved = [&](Access access) {
    return access == Access::kVectors ||
           ((v.seq_contiguous || v.states == kManyTurnStates) && access != Access::kElementwise);
  };
  const bool are_sequences_measured =
      are_moved(v.u_access) && are_moved(v.delta_access) && are_moved(v.z_access) && are_moved(v.y_access);
  const bool is_type_measured = element_size(v.dtype) == 2 ||
                                (v.states == kManyTurnStates && (moves_sequences_in_vectors(v) || v.serves_by_step()));
  return device.major == 9 && v.dstate > kFew && is_type_measured && are_sequences_measured &&
         v.b_access != Access::kWords && v.c_access != Access::kWords && v.b_order != ProjectionOrder::kStrided &&
         v.c_order != ProjectionOrder::kStrided;
}

// Does all that is read and written of channels and steps stay in the L2 cache for as long as it is needed? Where the
// device does not say how large that is, it does not.
bool stays_in_l2(const SelectiveScanProblem& p, const driver::DeviceReport& device) {
  constexpr double kShare = 0.85;
  const double tensors = p.z.data != nullptr ? 4 : 3;
  const double bytes = tensors * static_cast<double>(p.batch * p.seqlen * p.dim * element_size(p.dtype));
  return bytes <= kShare * static_cast<double>(device.l2_bytes);
}

// Fewer rows than multiprocessors run at a time, cut in time: into as many slots as these run, or all rows alike, so
// that none has parts of two. The latter where rows begin anywhere, and share sectors of memory with those beside them,
// unless these stay in the L2 cache: 1, 16384, 767 took 192 us on an H200 where forward.cu took 126; 2, 7019, 561, of
// two thirds of the size, 86 and 91.
void consider_relay_served_cut(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                               ForwardVariant v, Best& best) {
  v.cut = true;
  // Padding takes as long as states: 1, 16384, 768 with 12 states took 98 us on an H200 by forward.cu, and 123.
  if (v.lanes * v.states > v.dstate && !best.wants(v)) return;
  if (!fits_shared_with_carries(v, device)) return;
  const Index rows = rows_of(problem, v), sms = std::max(device.sm_count, 1);
  const Index most = rows * (ceil_div<Index>(problem.seqlen, v.tile) / 2);
  const int resident = blocks_per_sm(v, v.dynamic_shared_bytes(), device);
  const bool is_alike = begins_anywhere(v.u_access) && !v.seq_contiguous && !stays_in_l2(problem, device);
  for (int blocks = resident; blocks >= 1; --blocks) {
    const Index all = std::min(blocks * sms, most), alike = all - all % rows;
    const auto consider = [&](Index slots) {
      if (slots <= rows) return;
      const double clocks = clocks_of_relay_served_cut(v, rows, slots, resident, problem.seqlen, sms);
      consider_blocks(problem, device, v, slots, clocks, best);
    };
    consider(alike);
    if (!is_alike) consider(all);
  }
}

// The same: a block for every row, or as many as multiprocessors run at a time, among which rows are shared out evenly.
// Not where rows beside each other share sectors of memory, which no longer are at the same step then, unless the L2
// cache holds them: in us on an H200, by a block for every row and in even shares, 29, 2120, 186 in bf16 with a gate
// 130 and 142, but 4, 1590, 1135, of a third of the size, 86 and 71.
void consider_relay_served_rows(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                                ForwardVariant v, Best& best) {
  if (!fits_shared_memory(v, device)) return;
  const Index rows = rows_of(problem, v), sms = std::max(device.sm_count, 1);
  const int resident = blocks_per_sm(v, v.dynamic_shared_bytes(), device);
  const auto consider = [&](Index slots) {
    v.wrapped = slots < rows;
    const double clocks = clocks_of_relay_served(v, rows, slots, resident, problem.seqlen, sms);
    consider_blocks(problem, device, v, slots, clocks, best);
  };
  consider(rows);
  if (may_be_cut(problem)) consider_relay_served_cut(problem, device, v, best);
  if (!can_share_out(problem, v) && !stays_in_l2(problem, device)) return;
  for (Index blocks = 1; blocks <= resident && blocks * sms < rows; ++blocks) consider(blocks * sms);
}

}  // namespace

bool can_take_turns(const SelectiveScanProblem& p, const driver::DeviceReport& device) {
  return device.major >= 8 && can_have_blocks_of_rows(p) && p.seqlen > 0;
}

void consider_relay(const SelectiveScanProblem& problem, const driver::DeviceReport& device, const ForwardVariant& base,
                    Best& best) {
  for (int lanes = 1; lanes <= std::min(32, next_power_of_two(base.dstate)); lanes *= 2)
    for (int channels : {1, 2})
      for (int warps = 4; warps <= kMostWarps; warps *= 2) {
        ForwardVariant v = base;
        v.lanes = static_cast<std::int16_t>(lanes);
        v.channels = static_cast<std::int16_t>(channels);
        v.warps = static_cast<std::int16_t>(warps);
        if (!set_relay_shape(problem, best.details(ScanKernel::kRelay), v) || problem.seqlen <= v.tile) continue;
        consider_relay_rows(problem, device, v, best);
      }
}

void consider_relay_served(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                           const ForwardVariant& base, Best& best) {
  const PlanChoice wanted = best.details(ScanKernel::kRelayServed);
  for (int lanes = 2; lanes <= std::min(32, next_power_of_two(base.dstate)); lanes *= 2)
    for (const int warps : {8, 4}) {  // of equals the first
      ForwardVariant v = base;
      v.lanes = static_cast<std::int16_t>(lanes);
      v.channels = 1;
      v.warps = static_cast<std::int16_t>(warps);
      if (!set_relay_served_shape(problem, device, wanted, v) || problem.seqlen <= v.unroll) continue;
      if (!is_measured_relay_served(v, device) && wanted.lanes != v.lanes) continue;
      consider_relay_served_rows(problem, device, v, best);
    }
}

}  // namespace mamba_scan::ops
