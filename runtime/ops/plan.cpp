#include "ops/plan.h"

#include <algorithm>
#include <limits>
#include <string>

#include "ops/ceil_div.h"
#include "ops/choose.h"
#include "ops/cost_model.h"
#include "ops/residency.h"
#include "ops/warp_layout.h"
#include "platform/error.h"

namespace mamba_scan::ops {
namespace {

// Can kernels have this tile, unroll, number of stages and of blocks?
bool can_be_compiled(const PlanChoice& choice) {
  const auto is_power = [](int value, int least, int most) {
    return value == 0 || (value >= least && value <= most && value == next_power_of_two(value));
  };
  return is_power(choice.tile, 4, 64) && is_power(choice.unroll, 2, 16) && choice.stages != 1 && choice.stages >= 0 &&
         choice.stages <= 8 && choice.min_blocks >= 0 && choice.min_blocks <= 32;
}

// ---- chunk_invariant ------------------------------------------------------------------------------------------------

// Of a call; how long it really is must not matter. Streams, which alone are always invariant, come in long chunks.
constexpr Index kTypicalSteps = 65536;

// The fastest plan for calls of a typical length. Packed sequences begin anywhere in the row, and segments counted from
// there would be known to the device only: they are not cut, and in one pass the state is the same wherever it is
// handed over.
Candidate choose_invariant(SelectiveScanProblem problem, const driver::DeviceReport& device, ForwardVariant base) {
  // Nor must it matter how a call's tensors lie in memory.
  for (ProjectionOrder* order : {&base.b_order, &base.c_order})
    if (*order != ProjectionOrder::kConstant) *order = ProjectionOrder::kStates;
  base.b_access = base.c_access = Access::kVectors;
  const double share = static_cast<double>(problem.seqlen) / kTypicalSteps;
  problem.seqlen = kTypicalSteps;
  Candidate chosen = choose(problem, device, base, false, nullptr);
  chosen.clocks *= share;
  return chosen;
}

// Steps of a segment: a divisor of kInvariantSteps, the largest that gives a typical call about two warps per
// scheduler. More would make the segments shorter, and the carries dearer, than they make the scan faster.
Index segment_steps(const Candidate& chosen, const driver::DeviceReport& device) {
  constexpr Index kFewest = 256;
  const Index wanted = 2 * busy_schedulers(chosen.variant, device);
  Index steps = kInvariantSteps;
  while (steps > kFewest && 4 * chosen.rows * (kTypicalSteps / steps) < 3 * wanted) steps /= 2;
  return steps;
}

// Deals rows out to slots by segments.
void use_segments(const Candidate& chosen, const driver::DeviceReport& device, ForwardPlan& plan) {
  auto& params = plan.params;
  params.segment_tiles = params.tiles_per_row;
  if (chosen.variant.cut) params.segment_tiles = static_cast<int>(segment_steps(chosen, device) / chosen.variant.tile);
  params.slots_per_row = ceil_div(params.tiles_per_row, params.segment_tiles);
  params.slots = static_cast<int>(chosen.rows) * params.slots_per_row;
  const Index whole = params.problem.seqlen / (Index{params.segment_tiles} * chosen.variant.tile);
  plan.variant.cut = chosen.variant.cut && whole > 0;
  if (plan.variant.cut) {
    const ForwardVariant& v = plan.variant;
    plan.clocks = clocks_in_segments(v, params.slots, blocks_per_sm(v, device), Index{params.segment_tiles} * v.tile,
                                     std::max(device.sm_count, 1));
  }
}

// Every row for itself, unless that leaves too many schedulers without a slot. Rows that begin anywhere share sectors
// of memory with the rows beside them.
void deal_out_rows_alike(ForwardPlan& plan) {
  auto& params = plan.params;
  const double allowed = begins_anywhere(plan.variant.u_access) ? 0.9 : 0.985;
  const int rows = params.tiles / params.tiles_per_row, of_row = params.slots / rows;
  if (of_row < 2 || rows * of_row < allowed * params.slots) return;
  params.slots_per_row = of_row;
  params.slots = rows * of_row;
}

// ---- slices of the states -------------------------------------------------------------------------------------------

// The problem with `count` states only, the first of them being state `first`. D, z and y remain the whole's.
SelectiveScanProblem some_states(const SelectiveScanProblem& problem, Index first, Index count) {
  SelectiveScanProblem p = problem;
  p.dstate = count;
  p.A += first * p.A_state_stride;
  for (ProjectionTensor* tensor : {&p.B, &p.C}) {
    const Index element = tensor->constant ? Index{sizeof(float)} : element_size(p.dtype);
    tensor->data = static_cast<char*>(tensor->data) + first * tensor->state_stride * element;
  }
  for (StateTensor* tensor : {&p.initial_state, &p.final_state})
    if (tensor->data != nullptr) tensor->data += first * tensor->state_stride;
  return p;
}

// A tile is 32 bytes of a channel where steps are adjacent, a whole sector of memory, and about as many steps
// otherwise; less where B and C of many states would leave shared memory for fewer than four warps.
std::int16_t tile_for(const SelectiveScanProblem& problem, ForwardVariant v, const driver::DeviceReport& device) {
  constexpr int kShortest = 4;
  v.lanes = static_cast<std::int16_t>(fewest_lanes(v.dstate));
  v.states = static_cast<std::int16_t>(ceil_div<int>(v.dstate, v.lanes));
  v.channels = 1;
  v.min_blocks = 8;
  int steps = 32 / element_size(problem.dtype);
  if (problem.is_complex && problem.dstate > 32) steps /= 2;
  // Few states are scanned so quickly that what a tile costs besides its steps shows.
  if (!problem.is_complex && problem.dstate > 1 && problem.dstate <= 8) steps *= 2;
  v.tile = static_cast<std::int16_t>(steps);
  while (v.tile > kShortest && blocks_per_sm(v, device) < 4) v.tile /= 2;
  return v.tile;
}

// ---- prepared B and C -----------------------------------------------------------------------------------------------

// The plan with B and C prepared.
ForwardPlan with_preparation(ForwardPlan plan, const SelectiveScanProblem& slice, const driver::DeviceReport& device) {
  ForwardVariant& v = plan.variant;
  v.prepared = true;
  set_projections(slice, v);
  v.reverse = slice.reverse && has_adjacent_steps(v);
  if (v.cut) v.carry_stages = carry_stages_for(v, plan.params.slots, device);
  set_tile_steps(v, plan.params);
  plan.prepared_bytes = ceil_div<std::size_t>(prepared_floats(v, slice) * sizeof(float), 256) * 256;
  return plan;
}

// Slices begin at multiples of 8 states, so that B and C can be copied in vectors as if they began there.
Index states_of_slice(const SelectiveScanProblem& problem, Index slices) {
  return slices == 1 ? problem.dstate : ceil_div<Index>(ceil_div(problem.dstate, slices), 8) * 8;
}

// The fastest by the model, of `wanted_slices` slices or one less if that is enough.
ForwardPlan plan_slices(const SelectiveScanProblem& whole, const driver::DeviceReport& device, Index wanted_slices,
                        const PlanChoice* choice, Preparation preparation) {
  const Index slice_states = states_of_slice(whole, wanted_slices);
  const int slices = static_cast<int>(ceil_div<Index>(whole.dstate, slice_states));
  const SelectiveScanProblem problem = some_states(whole, 0, slice_states);  // all slices are dealt out alike

  ForwardVariant v;
  v.dtype = problem.dtype;
  v.dstate = static_cast<std::int16_t>(problem.dstate);
  v.has_z = problem.z.data != nullptr;
  v.is_complex = problem.is_complex;
  v.packed = problem.cu_seqlens != nullptr;
  if (slices > 1) v.slice = StateSlice::kLast;
  v.tile = choice && choice->tile > 0 && choice->warps == 1 ? choice->tile : tile_for(problem, v, device);
  v.seq_contiguous = is_seq_contiguous(problem);
  set_projections(problem, v);
  v.reverse = problem.reverse && has_adjacent_steps(v);
  v.softplus = problem.delta_softplus;
  v.has_bias = problem.delta_bias != nullptr;
  v.has_d = problem.D != nullptr;
  v.chunk_invariant = problem.chunk_invariant;
  v.has_initial = problem.initial_state.data != nullptr || v.chunk_invariant;
  v.has_final = problem.final_state.data != nullptr || v.chunk_invariant;

  const Candidate chosen =
      v.chunk_invariant ? choose_invariant(problem, device, v) : choose(problem, device, v, slices == 1, choice);
  v = chosen.variant;
  set_projections(problem, v);
  set_accesses(problem, v);
  if (v.cut) v.carry_stages = carry_stages_for(v, chosen.slots, device);
  if (choice != nullptr && has_details(*choice) && (!is_simply(*choice, v) || !fits_shared_with_carries(v, device))) {
    const PlanChoice simple = without_details(*choice);
    return plan_slices(whole, device, wanted_slices, &simple, preparation);
  }

  if (problem.dim > std::numeric_limits<int>::max())
    throw ArgumentError("dim: got " + std::to_string(problem.dim) + ", needed at most 2^31 - 1 on a GPU");
  const Index tiles_per_row = std::max<Index>(1, ceil_div<Index>(problem.seqlen, v.tile));
  const Index tiles = chosen.rows * tiles_per_row;
  if (tiles > std::numeric_limits<int>::max())
    throw ArgumentError("batch * seqlen * dim: got " + std::to_string(problem.batch) + " * " +
                        std::to_string(problem.seqlen) + " * " + std::to_string(problem.dim) +
                        ", which is more than 2^31 - 1 tiles of " + std::to_string(v.tile) + " steps and " +
                        std::to_string(v.warp_channels()) + " channels; split the batch or the sequence");

  ForwardPlan plan;
  plan.variant = v;
  plan.clocks = chosen.clocks;
  plan.params.problem = whole;
  plan.params.channels_per_group = static_cast<int>(problem.dim / problem.ngroups);
  plan.params.blocks_per_group = static_cast<int>(blocks_per_group(problem, v));
  plan.params.tiles_per_row = static_cast<int>(tiles_per_row);
  plan.params.tiles = static_cast<int>(tiles);
  plan.params.slots = static_cast<int>(chosen.slots);
  plan.params.carry_state = nullptr;
  plan.params.carry_delta = nullptr;
  plan.params.carry_ready = nullptr;
  plan.params.partial_sum = nullptr;
  plan.params.first_slice = false;
  plan.params.prepared_B = plan.params.prepared_C = nullptr;
  plan.params.segment_tiles = 0;
  plan.params.slots_per_row = 0;
  set_tile_steps(v, plan.params);
  if (v.chunk_invariant) {
    use_segments(chosen, device, plan);
  } else if (v.cut) {
    deal_out_rows_alike(plan);
  }
  if (plan.variant.cut || v.wrapped) {
    const auto slots = static_cast<std::size_t>(plan.params.slots);
    const std::size_t lanes = slots * 32 * static_cast<std::size_t>(v.channels);
    plan.carry_state_bytes = lanes * static_cast<std::size_t>(v.states) * sizeof(float);
    if (v.wrapped) {
      plan.carry_ready_bytes = slots * sizeof(unsigned);
    } else {
      plan.carry_delta_bytes = lanes * sizeof(float);
    }
  }
  if (slices > 1) {
    plan.slices = slices;
    plan.slice_states = slice_states;
    plan.partial_sum_bytes = static_cast<std::size_t>(tiles) * static_cast<std::size_t>(v.tile) *
                             static_cast<std::size_t>(v.warp_channels()) * sizeof(float);
  }
  if (preparation == Preparation::kNever || !can_be_prepared(plan.variant, problem)) return plan;
  const Index slots = plan.params.slots;
  const bool wanted =
      preparation == Preparation::kAlways || clocks_prepared(plan.variant, chosen.rows, slots, problem, device) <
                                                 clocks_unprepared(plan.variant, chosen.rows, slots, problem, device);
  if (!wanted) return plan;
  const ForwardPlan prepared = with_preparation(plan, problem, device);
  return fits_shared_with_carries(prepared.variant, device) ? prepared : plan;
}

}  // namespace

PlanChoice without_details(PlanChoice choice) {
  choice.tile = choice.unroll = choice.stages = choice.min_blocks = 0;
  return choice;
}

Index usual_slices(const SelectiveScanProblem& problem) {
  return std::max<Index>(1, ceil_div(problem.dstate, kUsualStatesOfSlice));
}

// What an invariant scan adds up, and in which order, must not depend on how long it is.
Index fewest_slices(const SelectiveScanProblem& problem) {
  if (problem.is_complex || problem.chunk_invariant) return usual_slices(problem);
  return std::max<Index>(1, ceil_div(problem.dstate, kMostStatesOfSlice));
}

Index fewer_slices(Index slices) { return ceil_div<Index>(slices, 2); }

Index most_states_at_once(const SelectiveScanProblem& problem) {
  return states_of_slice(problem, fewest_slices(problem));
}

// Slices of the usual size take the fewest clocks for each state, but every one is several launches: few and short
// sequences are scanned sooner in fewer slices, which share a channel among more lanes.
ForwardPlan plan_forward(const SelectiveScanProblem& as_stored, const driver::DeviceReport& device,
                         const PlanChoice* choice, Preparation preparation) {
  if (choice != nullptr && as_stored.chunk_invariant) choice = nullptr;
  if (choice != nullptr && !can_be_compiled(*choice)) {
    const PlanChoice simple = without_details(*choice);
    return plan_forward(as_stored, device, &simple, preparation);
  }
  // What so many lanes of a channel read from shared memory, which the model does not count, is left to these. Of 15
  // scans on an H100 it takes fewer slices for that much too fast: 1.1 times on average where rows are whole (0.8 to
  // 1.3), 1.3 times where they are cut (1.1 to 1.7).
  constexpr double kOfManyLanes = 1.1, kOfManyLanesCut = 1.4;
  const SelectiveScanProblem whole = in_scan_order(as_stored);
  Index slices = usual_slices(whole);
  if (choice != nullptr && choice->slices > 0) {
    slices = std::clamp<Index>(choice->slices, fewest_slices(whole), slices);
    return plan_slices(whole, device, slices, choice, preparation);
  }
  ForwardPlan best = plan_slices(whole, device, slices, choice, preparation);
  while (slices > fewest_slices(whole)) {
    slices = fewer_slices(slices);
    const ForwardPlan plan = plan_slices(whole, device, slices, choice, preparation);
    const double factor = plan.variant.cut ? kOfManyLanesCut : kOfManyLanes;
    const bool is_faster = factor * plan.clocks_of_slices() < best.clocks_of_slices();
    if (is_faster && fits_shared_with_carries(plan.variant, device)) best = plan;
  }
  return best;
}

SlicePlan slice_of(const ForwardPlan& plan, int slice) {
  SlicePlan out{plan.variant, plan.params};
  if (plan.slices == 1) return out;
  const Index first = slice * plan.slice_states;
  SelectiveScanProblem& problem = out.params.problem;
  problem = some_states(problem, first, std::min(plan.slice_states, problem.dstate - first));
  ForwardVariant& v = out.variant;
  v.dstate = static_cast<std::int16_t>(problem.dstate);
  v.states = static_cast<std::int16_t>(std::min<int>(v.states, padded_states(v, v.lanes)));
  set_projections(problem, v);
  v.reverse = problem.reverse && has_adjacent_steps(v);
  out.params.first_slice = slice == 0;
  set_tile_steps(v, out.params);
  if (slice + 1 < plan.slices) {
    v.slice = StateSlice::kPartial;
    v.has_d = v.has_z = false;
    v.z_access = v.y_access = Access::kVectors;
  } else {
    v.slice = StateSlice::kLast;
  }
  return out;
}

std::vector<jit::Variant> kernels_of(const ForwardPlan& plan) {
  std::vector<jit::Variant> kernels;
  for (int i = 0; i < plan.slices; ++i) {
    const ForwardVariant variant = slice_of(plan, i).variant;
    if (variant.prepared) kernels.push_back(variant.prepare());
    kernels.push_back(variant.scan());
    if (variant.cut) kernels.push_back(variant.carry());
    if (variant.cut && variant.chunk_invariant) kernels.push_back(variant.compose());
  }
  return kernels;
}

SelectiveScanForwardParams carry_params(const ForwardVariant& scan, SelectiveScanForwardParams params) {
  set_tile_steps(carry_variant(scan), params);
  return params;
}

unsigned compose_blocks(const SlicePlan& plan) {
  const int rows = plan.params.slots / plan.params.slots_per_row;
  return static_cast<unsigned>(rows * plan.variant.channels * plan.variant.states);
}

unsigned prepare_blocks(const SlicePlan& plan) {
  const ForwardVariant& v = plan.variant;
  const SelectiveScanProblem& p = plan.params.problem;
  const Index steps = Index{plan.params.tiles_per_row} * v.tile;
  return static_cast<unsigned>(2 * p.batch * p.ngroups * ceil_div<Index>(steps, prepare_steps(v)));
}

}  // namespace mamba_scan::ops
