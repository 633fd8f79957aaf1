#include "ops/choose.h"

#include <algorithm>
#include <string>

#include "ops/candidates.h"
#include "ops/ceil_div.h"
#include "ops/warp_layout.h"
#include "platform/error.h"

namespace mamba_scan::ops {
namespace {

// Calls visit(shape) for all ways to share a channel's states among lanes and channels among warps.
template <class Visit>
void for_each_shape(const ForwardVariant& base, const Visit& visit) {
  const int dstate = base.dstate;
  const int most_lanes = std::min(32, next_power_of_two(dstate));
  for (int lanes = fewest_lanes(dstate); lanes <= most_lanes; lanes *= 2)
    for (int channels : {1, 2})
      for (int states = ceil_div(dstate, lanes); states <= padded_states(base, lanes); ++states) {
        ForwardVariant shape = base;
        shape.lanes = static_cast<std::int16_t>(lanes);
        shape.channels = static_cast<std::int16_t>(channels);
        shape.states = static_cast<std::int16_t>(states);
        visit(shape);
      }
}

}  // namespace

bool has_details(const PlanChoice& choice) {
  return choice.tile > 0 || choice.unroll > 0 || choice.stages > 0 || choice.min_blocks > 0;
}

PlanChoice simple_choice(const ForwardVariant& v, std::int16_t slices) {
  return {.lanes = v.lanes,
          .channels = v.channels,
          .cut = v.cut,
          .warps = v.warps,
          .slices = slices,
          .served = v.served,
          .abreast = v.abreast,
          .whole_rows = v.row_vector > 0,
          .wrapped = v.wrapped,
          .together = v.together > 1};
}

bool is_simply(const PlanChoice& choice, const ForwardVariant& v) {
  return without_details(choice) == simple_choice(v, choice.slices);
}

Candidate choose(const SelectiveScanProblem& problem, const driver::DeviceReport& device, const ForwardVariant& base,
                 bool whole_problem, const PlanChoice* wanted) {
  Best best(wanted);
  const bool may_cut = may_be_cut(problem);
  const bool may_serve = whole_problem && can_be_served(problem, device);
  for_each_shape(base, [&](const ForwardVariant& shape) {
    consider_forward(problem, device, shape, may_cut, best);
    if (may_serve) consider_served(problem, device, shape, best);
  });
  if (whole_problem && can_have_whole_rows(problem)) consider_whole_rows(problem, device, base, best);
  if (whole_problem && can_take_turns(problem, device)) {
    consider_relay(problem, device, base, best);
    consider_relay_served(problem, device, base, best);
  }
  if (best.get().slots == 0)
    throw ArgumentError("batch * dim: got " + std::to_string(problem.batch) + " * " + std::to_string(problem.dim) +
                        ", which needs more than 2^31 - 1 blocks; split the batch");
  return best.get();
}

}  // namespace mamba_scan::ops
