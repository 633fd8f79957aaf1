// Candidates whose warps others move tiles for (served.cu).
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "ops/candidates.h"
#include "ops/memory_layout.h"
#include "ops/residency.h"
#include "ops/warp_layout.h"

namespace mamba_scan::ops {
namespace {

constexpr std::int16_t kStages = 4;  // two tiles ahead, one scanned, one stored
constexpr std::int16_t kSteps = 16;  // computed together, by warps that have all registers
constexpr int kMostStates = 16;      // of all of a lane's channels; of two blocks at once, half

// Of aligned rows of 16 bits the tile that measured fastest: where steps are adjacent, rows as long as few states leave
// room for; otherwise as many steps as are computed together, once states are not so few that a tile shows.
std::int16_t usual_served_tile(const SelectiveScanProblem& problem, const ForwardVariant& v) {
  constexpr int kFew = 4;
  constexpr std::int16_t kLongTile = 32;
  const bool is_aligned = access_of(problem.u, problem, v.seq_contiguous, v.tile_columns()) == Access::kVectors &&
                          element_size(v.dtype) == 2;
  if (!is_aligned) return has_windows(v.tile, v.dtype) && v.seq_contiguous && v.lanes > 1 ? kLongTile : v.tile;
  if (v.seq_contiguous) return v.dstate <= kFew ? std::max<std::int16_t>(v.tile, 64) : v.tile;
  return v.states > kFew ? std::min(v.tile, kSteps) : v.tile;
}

// With the longest tile, up to v's own, with which so many blocks find shared memory on a multiprocessor. False where
// there is none.
bool set_served_tile(const SelectiveScanProblem& problem, const driver::DeviceReport& device, bool may_shorten,
                     ForwardVariant& v) {
  constexpr int kShortest = 32;  // bytes of a row of steps
  for (;; v.tile /= 2) {
    v.unroll = std::min(kSteps, v.tile);
    set_projections(problem, v);
    set_accesses(problem, v);
    const auto blocks = static_cast<std::size_t>(v.min_blocks);
    const std::size_t needed = blocks * (v.dynamic_shared_bytes() + kReservedPerBlock);
    if (fits_shared_memory(v, device) && needed <= device.shared_per_sm) return true;
    if (!may_shorten || v.tile * element_size(v.dtype) <= kShortest) return false;
  }
}

// Where it was measured to. Rows that begin anywhere are moved too slowly by two blocks at once, or of 32 channels: in
// us on an H100, where forward.cu took 174 and 90, 8, 1001, 2560 with everything took 227, and 62, 306, 405 129. It
// besides has outputs wait for whole sectors of memory, which binds few states.
bool gains_by_sharing_out(const SelectiveScanProblem& problem, const ForwardVariant& v) {
  constexpr int kFewOfChannel = 8;
  if (is_unaligned(v.u_access) && (v.min_blocks == 2 || v.lanes == 1)) return false;
  return v.dstate > kFewOfChannel || fills_sectors(problem.y, problem, v.seq_contiguous, v.tile_columns());
}

}  // namespace

bool can_be_served(const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  constexpr Index kMostOfChannel = 16;
  return device.major >= 8 && problem.dstate <= kMostOfChannel && !problem.is_complex &&
         problem.cu_seqlens == nullptr && problem.seqlen > 0;
}

void consider_served(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                     const ForwardVariant& shape, Best& best) {
  const PlanChoice wanted = best.details(ScanKernel::kServed);
  const Index sms = std::max(device.sm_count, 1);
  constexpr int kFew = 4;
  const bool is_measured = shape.channels == 1 && (shape.lanes == 1 || shape.states >= kFew);
  if (!is_measured && (wanted.lanes != shape.lanes || wanted.channels != shape.channels)) return;
  for (const int blocks : {1, 2}) {
    Candidate c;
    c.variant = shape;
    ForwardVariant& v = c.variant;
    v.served = true;
    v.stages = kStages;
    v.min_blocks = static_cast<std::int16_t>(blocks);
    if (wanted.tile == 0) v.tile = usual_served_tile(problem, shape);
    c.rows = c.slots = rows_of(problem, v);
    if (v.states * v.channels > kMostStates / blocks || c.rows > std::numeric_limits<int>::max()) return;
    if (blocks == 2 && (c.rows <= 4 * sms || v.states <= kFew)) return;
    if (!set_served_tile(problem, device, wanted.tile == 0, v)) return;
    if (wanted.unroll > 0) v.unroll = std::min(wanted.unroll, v.tile);
    if (v.channels > 1 && is_shifted(v)) return;
    const auto consider = [&] {
      c.clocks = bounded_by_memory(clocks_served(v, c.rows, c.slots, problem.seqlen, sms),
                                   memory_clocks(v, c.rows, c.slots, problem, device));
      best.consider(c);
    };
    consider();
    const Index at_a_time = v.scan_slots() * blocks * sms;
    v.wrapped = true;
    c.slots = at_a_time;
    if (at_a_time < c.rows && can_share_out(problem, v) && (best.wants(v) || gains_by_sharing_out(problem, v)))
      consider();
  }
}

}  // namespace mamba_scan::ops
