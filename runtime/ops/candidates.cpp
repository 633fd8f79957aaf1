#include "ops/candidates.h"

#include <algorithm>
#include <limits>

#include "ops/memory_layout.h"
#include "ops/warp_layout.h"

namespace mamba_scan::ops {
namespace {

// Bytes that memory moves in a clock of the multiprocessors; 0: the device does not say.
double memory_bytes_per_clock(const driver::DeviceReport& device) {
  return device.clock_khz == 0 ? 0 : 2.0 * device.memory_clock_khz * device.memory_bus_bits / 8 / device.clock_khz;
}

}  // namespace

void Best::consider(const Candidate& c) {
  const bool is_wanted = wants(c.variant);
  if (best_.slots == 0 || (is_wanted && !found_) || (is_wanted == found_ && c.clocks < best_.clocks)) best_ = c;
  found_ = found_ || is_wanted;
}

double memory_clocks(const ForwardVariant& v, Index rows, Index slots, const SelectiveScanProblem& problem,
                     const driver::DeviceReport& device) {
  // How long a call's rows of steps are, and where they begin, must not matter to an invariant scan.
  const bool sectors =
      v.row_vector > 0 || (v.chunk_invariant ? v.tile_columns() * element_size(v.dtype) % kSectorBytes == 0
                                             : fills_sectors(problem.y, problem, v.seq_contiguous, v.tile_columns()));
  return clocks_of_memory(v, sectors, rows, slots, problem.seqlen,
                          {std::max(device.sm_count, 1), memory_bytes_per_clock(device)});
}

bool can_have_blocks_of_rows(const SelectiveScanProblem& p) {
  return !p.is_complex && !p.chunk_invariant && p.cu_seqlens == nullptr && !p.B.constant && !p.C.constant;
}

bool can_share_out(const SelectiveScanProblem& problem, const ForwardVariant& v) {
  constexpr int kMemoryBytes = 64;
  if (v.seq_contiguous) return true;
  const int columns = v.kernel() == ScanKernel::kRelayServed ? v.tile_columns() : kMemoryBytes / element_size(v.dtype);
  return v.tile_columns() % columns == 0 && fills_sectors(problem.y, problem, false, v.tile_columns());
}

void consider_blocks(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                     const ForwardVariant& variant, Index slots, double clocks, Best& best) {
  Candidate c;
  c.variant = variant;
  c.rows = rows_of(problem, variant);
  c.slots = slots;
  if (c.rows > std::numeric_limits<int>::max()) return;
  c.clocks = bounded_by_memory(clocks, memory_clocks(variant, c.rows, c.slots, problem, device));
  best.consider(c);
}

}  // namespace mamba_scan::ops
