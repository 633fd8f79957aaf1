// Candidates that have whole short rows lying side by side (whole_rows.cu).
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ops/candidates.h"
#include "ops/memory_layout.h"
#include "ops/residency.h"
#include "ops/warp_layout.h"

namespace mamba_scan::ops {
namespace {

// As many steps together, and as many warps, as registers suffice for: 64, 196, 1536 with one state took 38.6 us on an
// H200 with 8 steps and 37.1 with 16; 64, 49, 6144 with 16 states 114 with 4 and with 8.
void set_whole_rows_shape(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                          const PlanChoice& wanted, ForwardVariant& v) {
  constexpr int kFew = 2, kMany = 8;
  v.lanes = v.channels = 1;
  v.states = static_cast<std::int16_t>(padded_states(v, 1));
  const std::int16_t steps = v.states <= kFew ? 16 : v.states <= kMany ? 8 : 4;
  v.tile = wanted.tile > 0 ? wanted.tile : steps;
  v.unroll = v.tile;
  v.stages = 2;
  const int blocks = v.states <= 2 * kFew ? 20 : 16;
  v.min_blocks = wanted.min_blocks > 0 ? wanted.min_blocks : static_cast<std::int16_t>(blocks);
  v.row_vector = static_cast<std::int16_t>(std::min<int>(adjacent_rows_vector(problem), v.tile));
  v.bulk = device.major >= 9;
  set_projections(problem, v);
  v.reverse = problem.reverse;
}

}  // namespace

bool can_have_whole_rows(const SelectiveScanProblem& p) {
  constexpr Index kMostStates = 16;
  return p.dstate <= kMostStates && can_have_blocks_of_rows(p) && is_seq_contiguous(p) && adjacent_rows_vector(p) > 0;
}

void consider_whole_rows(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                         const ForwardVariant& base, Best& best) {
  ForwardVariant v = base;
  set_whole_rows_shape(problem, device, best.details(ScanKernel::kWholeRows), v);
  const std::size_t bytes = v.whole_rows_bytes(problem.seqlen);
  if (!fits_dynamic_shared(bytes, device)) return;
  // Many states keep a scheduler busy with two warps only, few with one.
  constexpr int kMany = 8;
  const int resident = blocks_per_sm(v, bytes, device), enough = v.states > kMany ? 8 : 4;
  if (resident < enough && !best.wants(v)) return;
  const Index rows = rows_of(problem, v);
  const double clocks = clocks_of_whole_rows(v, rows, resident, problem.seqlen, std::max(device.sm_count, 1));
  consider_blocks(problem, device, v, rows, clocks, best);
}

}  // namespace mamba_scan::ops
