#include "ops/choose.h"

#include <algorithm>
#include <limits>
#include <string>

#include "ops/ceil_div.h"
#include "ops/cost_model.h"
#include "ops/residency.h"
#include "ops/warp_layout.h"
#include "platform/error.h"

namespace mamba_scan::ops {
namespace {

constexpr int kMostComplexOfLane = 8;      // states of all of a lane's channels: more would not fit its registers
constexpr int kMostRelayWarps = 16;        // each has a named barrier
constexpr std::int16_t kServedStages = 4;  // of served.cu: two tiles ahead, one scanned, one stored
constexpr std::int16_t kServedSteps = 16;  // computed together, by warps that have all registers
constexpr int kMostServedStates = 16;      // of all of a lane's channels; of two blocks at once, half
constexpr int kRelayWarpsOfSm = 16;        // leave a thread 128 registers
constexpr int kUsualRelayElements = 32;    // steps * states * channels that a lane has in registers

// As many as the compiler can keep in registers, so that the waits of many steps for shared memory overlap: most of few
// states, where warps are few enough to have many registers. Where steps are adjacent, u and delta of all of them are
// in registers besides.
std::int16_t unroll_for(const ForwardVariant& v) {
  const bool reads_many_words = v.seq_contiguous && v.dtype == DType::kFloat32;
  int steps = v.is_complex || v.channels * v.states > (reads_many_words ? 8 : 16) ? 4 : 8;
  constexpr int kFew = 8, kWithRegisters = 16;
  if (v.channels * v.states <= kFew && v.min_blocks <= kWithRegisters && !v.is_complex) steps = 16;
  return static_cast<std::int16_t>(std::min<int>(steps, v.tile));
}

}  // namespace

bool has_details(const PlanChoice& choice) {
  return choice.tile > 0 || choice.unroll > 0 || choice.stages > 0 || choice.min_blocks > 0;
}

bool is_simply(const PlanChoice& choice, const ForwardVariant& v) {
  const PlanChoice simple{.lanes = v.lanes,
                          .channels = v.channels,
                          .cut = v.cut,
                          .warps = v.warps,
                          .slices = choice.slices,
                          .served = v.served,
                          .abreast = v.abreast,
                          .whole_rows = v.row_vector > 0};
  return without_details(choice) == simple;
}

namespace {

// ---- choices ----

// The one wanted where it is among those considered, otherwise the fastest by the model.
class Best {
 public:
  explicit Best(const PlanChoice* wanted) : wanted_(wanted) {}

  void consider(const Candidate& c) {
    const bool is_wanted = wants(c.variant);
    if (best_.slots == 0 || (is_wanted && !found_) || (is_wanted == found_ && c.clocks < best_.clocks)) best_ = c;
    found_ = found_ || is_wanted;
  }
  bool wants(const ForwardVariant& v) const { return wanted_ != nullptr && is_simply(*wanted_, v); }
  // Details wanted of this kernel's candidates; 0 where nothing is.
  PlanChoice details(ScanKernel kernel) const {
    return wanted_ != nullptr && wanted_->kernel() == kernel ? *wanted_ : PlanChoice{};
  }
  const Candidate& get() const { return best_; }

 private:
  const PlanChoice* wanted_;
  Candidate best_;
  bool found_ = false;
};

// ---- forward.cu ----

// Of rows that begin anywhere, those of a tile reach into one sector of memory more. A tile of 32 bytes is twice as
// long then: in fp32, where it has few steps, if as many warps find shared memory; in 16 bits, where steps are adjacent
// and each channel is a row, if enough do. Of adjacent channels, whose rows are no longer for it, fp32 tiles are twice
// as long wherever they begin: 8, 2048, 5120 took 502 us on an H200 by tiles of 8 steps and 483 by 16.
void use_longer_tile(const SelectiveScanProblem& problem, const driver::DeviceReport& device, ForwardVariant& v) {
  constexpr int kEnough = 12, kEnoughOfWindows = 8;
  const bool is_fp32 = v.dtype == DType::kFloat32;
  if (v.is_complex || v.tile * element_size(v.dtype) != 32) return;
  if (!is_unaligned(v.u_access) && (!is_fp32 || v.seq_contiguous || v.chunk_invariant)) return;
  if (!is_fp32 && (!v.seq_contiguous || v.lanes > 2)) return;
  ForwardVariant longer = v;
  longer.tile *= 2;
  set_projections(problem, longer);
  set_accesses(problem, longer);
  const int blocks = blocks_per_sm(v, device), enough = has_long_windows(longer) ? kEnoughOfWindows : kEnough;
  if (blocks_per_sm(longer, device) >= (is_fp32 ? blocks : std::min(blocks, enough))) v = longer;
}

// Bytes that memory moves in a clock of the multiprocessors; 0: the device does not say.
double memory_bytes_per_clock(const driver::DeviceReport& device) {
  return device.clock_khz == 0 ? 0 : 2.0 * device.memory_clock_khz * device.memory_bus_bits / 8 / device.clock_khz;
}

// What memory takes for u, delta, z and y.
double memory_clocks(const ForwardVariant& v, Index rows, Index slots, const SelectiveScanProblem& problem,
                     const driver::DeviceReport& device) {
  const bool sectors = v.row_vector > 0 || fills_sectors(problem.y, problem, v.seq_contiguous, v.tile_columns());
  return clocks_of_memory(v, sectors, rows, slots, problem.seqlen,
                          {std::max(device.sm_count, 1), memory_bytes_per_clock(device)});
}

// What forward.cu takes with its carries, but not what prepares its B and C.
double clocks_of_forward(const ForwardVariant& v, Index rows, Index slots, const SelectiveScanProblem& problem,
                         const driver::DeviceReport& device) {
  const Index room = rows_with_room(problem, v), shares = ceil_div(slots, rows);
  const Index taken = v.abreast > 1 ? room * shares : slots;
  const int warps = static_cast<int>(ceil_div(taken, busy_schedulers(v, device)));
  const double clocks =
      v.cut ? clocks_cut(v, rows, slots, warps, problem.seqlen)
            : clocks_uncut(v, room, blocks_per_sm(v, device), problem.seqlen, std::max(device.sm_count, 1));
  return bounded_by_memory(clocks, memory_clocks(v, rows, slots, problem, device));
}

}  // namespace

std::size_t prepared_floats(const ForwardVariant& v, const SelectiveScanProblem& p) {
  const Index steps = std::max<Index>(1, ceil_div<Index>(p.seqlen, v.tile)) * v.tile;
  return static_cast<std::size_t>(p.batch * p.ngroups * steps * v.lanes * v.states);
}

bool can_be_prepared(const ForwardVariant& v, const SelectiveScanProblem& problem) {
  return v.kernel() == ScanKernel::kForward && problem.seqlen > 0 && !v.is_complex &&
         v.b_order != ProjectionOrder::kConstant && v.c_order != ProjectionOrder::kConstant;
}

double clocks_prepared(ForwardVariant v, Index rows, Index slots, const SelectiveScanProblem& problem,
                       const driver::DeviceReport& device) {
  const int blocks = blocks_per_sm(v, device);
  v.prepared = true;
  set_projections(problem, v);
  if (blocks_per_sm(v, device) < blocks) return std::numeric_limits<double>::infinity();
  return clocks_of_forward(v, rows, slots, problem, device) +
         clocks_to_prepare(v, static_cast<double>(prepared_floats(v, problem)), device.sm_count);
}

double clocks_unprepared(ForwardVariant v, Index rows, Index slots, const SelectiveScanProblem& problem,
                         const driver::DeviceReport& device) {
  const auto access = [&](const ProjectionTensor& tensor, ProjectionOrder order, Access access) {
    const bool in_vectors = access == Access::kVectors && order != ProjectionOrder::kConstant;
    return in_vectors && projection_steps(tensor, {order, access}, v).advance == 0 ? Access::kWords : access;
  };
  v.b_access = access(problem.B, v.b_order, v.b_access);
  v.c_access = access(problem.C, v.c_order, v.c_access);
  return clocks_of_forward(v, rows, slots, problem, device);
}

namespace {

// Whichever is less.
double clocks_prepared_or_not(const ForwardVariant& v, Index rows, Index slots, const SelectiveScanProblem& problem,
                              const driver::DeviceReport& device) {
  const double clocks = clocks_unprepared(v, rows, slots, problem, device);
  if (!can_be_prepared(v, problem)) return clocks;
  return std::min(clocks, clocks_prepared(v, rows, slots, problem, device));
}

// Rows whose channels lie side by side may go abreast.
bool can_go_abreast(const ForwardVariant& v, const SelectiveScanProblem& problem) {
  return v.kernel() == ScanKernel::kForward && !v.is_complex && !v.packed && !v.chunk_invariant && !v.seq_contiguous &&
         problem.seqlen > 0;
}

// Such rows whole or, where that is possible, cut in time into as many shares as fill all schedulers alike.
void consider_rows(const SelectiveScanProblem& problem, const driver::DeviceReport& device, Candidate c, bool may_cut,
                   Best& best) {
  ForwardVariant& v = c.variant;
  const Index schedulers = busy_schedulers(v, device);
  const int resident = std::max(1, blocks_per_sm(v, device) / 4);
  const auto consider = [&] {
    // What schedulers have to themselves, or nearly, waits for nobody and goes on faster.
    constexpr double kEnough = 1.75;  // warps of a scheduler
    const double warps = static_cast<double>(c.slots) / (4.0 * std::max(device.sm_count, 1));
    if (v.abreast > 1 && warps < kEnough && !best.wants(v)) return;
    c.clocks = clocks_prepared_or_not(v, c.rows, c.slots, problem, device);
    best.consider(c);
  };
  c.slots = c.rows;
  consider();

  // Of two channels the carries cost more than twice as much, unless a scheduler holds one warp anyway. Few states
  // are bound by memory, which carries read once more: when nearly every scheduler has a row, only those that go
  // abreast make up for it.
  const bool is_bound = v.dstate <= 8 && v.abreast == 1 && 10 * c.rows >= 9 * schedulers;
  if (!may_cut || (v.channels > 1 && resident > 1) || is_bound) return;
  v.cut = true;
  const Index tiles_per_row = ceil_div<Index>(problem.seqlen, v.tile);
  for (int warps = resident; warps >= 1; --warps) {
    const Index wanted = schedulers * warps;
    c.slots = v.abreast == 1
                  ? std::min<Index>(wanted, c.rows * tiles_per_row / 2)
                  : c.rows * std::min<Index>(wanted / rows_with_room(problem, v), tiles_per_row / 2);  // shares alike
    if (c.slots <= c.rows) break;
    consider();
  }
}

// Rows of this shape: of lanes, channels, states and tile.
void consider_tile(const SelectiveScanProblem& problem, const driver::DeviceReport& device, const ForwardVariant& shape,
                   bool may_cut, Best& best) {
  Candidate c;
  c.variant = shape;
  ForwardVariant& v = c.variant;
  const PlanChoice wanted = best.details(ScanKernel::kForward);
  if (wanted.min_blocks == 0) v.min_blocks = blocks_in_shared_memory(v, device);
  v.unroll = wanted.unroll > 0 ? std::min(wanted.unroll, v.tile) : unroll_for(v);
  const int blocks = blocks_per_sm(v, device);
  if (v.channels > 1 && blocks < 4) return;  // fewer channels take less shared memory
  // Where steps are adjacent, those of u, delta and y are in registers besides 16 states.
  if (v.channels > 1 && v.lanes == 1 && v.seq_contiguous) return;
  c.rows = rows_of(problem, v);
  if (c.rows > std::numeric_limits<int>::max()) return;
  consider_rows(problem, device, c, may_cut, best);
  if (!can_go_abreast(v, problem)) return;
  constexpr int kMostStepBytes = 512;  // that a warp stores at once (block_outputs.cuh)
  // Where a step's outputs lie takes registers that the gate's steps would have had.
  if (v.has_z && wanted.min_blocks == 0) v.min_blocks = std::min<std::int16_t>(v.min_blocks, 16);
  for (const std::int16_t abreast : {2, 4}) {
    v.abreast = abreast;
    const int step_bytes = abreast * v.warp_channels() * element_size(v.dtype);
    if (blocks_per_group(problem, v) > abreast / 2 && blocks >= abreast && step_bytes <= kMostStepBytes &&
        fits_shared_memory(v, device))
      consider_rows(problem, device, c, may_cut, best);
  }
}

// Does shared memory hold fewer warps than there are rows and registers for? Shorter tiles may be better then.
bool is_crowded(const SelectiveScanProblem& problem, const driver::DeviceReport& device, const ForwardVariant& v) {
  const Index rows = ceil_div<Index>(rows_of(problem, v), std::max(device.sm_count, 1));
  return blocks_per_sm(v, device) < std::min<Index>(rows, v.min_blocks);
}

// Rows of this shape: of lanes, channels and states.
void consider_shape(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                    const ForwardVariant& shape, bool may_cut, Best& best) {
  const PlanChoice wanted = best.details(ScanKernel::kForward);
  ForwardVariant v = shape;
  if (!v.chunk_invariant) set_accesses(problem, v);
  if (v.channels > 1 && (is_shifted(v) || (v.chunk_invariant && element_size(v.dtype) == 2))) return;
  if (v.is_complex && v.states * v.channels > kMostComplexOfLane) return;
  v.stages = v.states * v.channels == 1 ? 4 : 2;  // one state waits for memory only
  if (wanted.stages > 0) v.stages = wanted.stages;
  const int most_blocks = wanted.min_blocks > 0 ? wanted.min_blocks : blocks_for_registers(v, device);
  v.min_blocks = static_cast<std::int16_t>(std::min(most_blocks, block_slots(device)));
  if (wanted.tile == 0) use_longer_tile(problem, device, v);
  consider_tile(problem, device, v, may_cut, best);
  constexpr int kShortest = 32;  // bytes of a row of steps
  if (wanted.tile > 0 || v.chunk_invariant || v.is_complex || v.tile * element_size(v.dtype) <= kShortest) return;
  if (!is_crowded(problem, device, v) || has_long_windows(v)) return;
  v.tile /= 2;
  set_projections(problem, v);
  set_accesses(problem, v);
  if (v.channels > 1 && is_shifted(v)) return;
  consider_tile(problem, device, v, may_cut, best);
}

// Complex states: see complex_lane.cuh. Where the final state replaces the initial one, a slot that still needs the
// initial one may run after the slot that writes the final one; of invariant scans compose.cu has read it by then.
// Invariant packed ones: see choose_invariant().
bool may_be_cut(const SelectiveScanProblem& problem, const ForwardVariant& base) {
  const bool in_place = problem.initial_state.data != nullptr && problem.initial_state.data == problem.final_state.data;
  return !base.is_complex && (base.chunk_invariant ? !base.packed : !in_place);
}

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

// ---- warps that take turns (relay.cu) ----

// A turn's decays and inputs are in registers together, besides about fifty others.
bool fits_registers(const ForwardVariant& v) {
  const int needed = 2 * v.tile * v.states * v.channels + 50;
  return needed * v.warps * v.min_blocks * 32 <= 65536;
}

// Before Ampere copies go through registers, of which a turn leaves none.
bool is_served_by_relay(const SelectiveScanProblem& p, const driver::DeviceReport& device) {
  return device.major >= 8 && !p.is_complex && !p.chunk_invariant && p.cu_seqlens == nullptr && !p.B.constant &&
         !p.C.constant && p.seqlen > 0;
}

// A lane's share of the states, the tile that is usual for it, and what depends on these; false where the kernel cannot
// have them.
bool set_relay_shape(const SelectiveScanProblem& problem, const PlanChoice& wanted, ForwardVariant& v) {
  v.states = static_cast<std::int16_t>(ceil_div<int>(v.dstate, v.lanes));
  const int held = v.states * v.channels;
  if (held > 8 || held != next_power_of_two(held) || v.lanes * v.states > 2 * v.dstate) return false;
  v.tile = wanted.tile > 0 ? wanted.tile : static_cast<std::int16_t>(kUsualRelayElements / held);
  v.unroll = v.tile;
  v.stages = wanted.stages > 0 ? wanted.stages : std::int16_t{2};
  v.min_blocks =
      wanted.min_blocks > 0 ? wanted.min_blocks : static_cast<std::int16_t>(std::max(1, kRelayWarpsOfSm / v.warps));
  if (v.seq_contiguous && v.tile * element_size(v.dtype) % 16 != 0) return false;  // steps are read in such vectors
  set_accesses(problem, v);
  if (v.channels > 1 && is_shifted(v)) return false;
  set_projections(problem, v);
  v.reverse = problem.reverse && has_adjacent_steps(v);
  return fits_registers(v);
}

// A block for every row, `resident` of them at a time on a multiprocessor. clocks: of whichever kernel.
void consider_blocks(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                     const ForwardVariant& variant, int resident, decltype(clocks_of_relay)& clocks, Best& best) {
  Candidate c;
  c.variant = variant;
  c.rows = c.slots = rows_of(problem, variant);
  if (c.rows > std::numeric_limits<int>::max()) return;
  const double taken = clocks(variant, c.rows, resident, problem.seqlen, std::max(device.sm_count, 1));
  c.clocks = bounded_by_memory(taken, memory_clocks(variant, c.rows, c.slots, problem, device));
  best.consider(c);
}

// If shared memory has room for it.
void consider_turns(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                    const ForwardVariant& variant, decltype(clocks_of_relay)& clocks, Best& best) {
  if (!fits_shared_memory(variant, device)) return;
  consider_blocks(problem, device, variant, blocks_per_sm(variant, variant.dynamic_shared_bytes(), device), clocks,
                  best);
}

void consider_relay(const SelectiveScanProblem& problem, const driver::DeviceReport& device, const ForwardVariant& base,
                    Best& best) {
  for (int lanes = 1; lanes <= std::min(32, next_power_of_two(base.dstate)); lanes *= 2)
    for (int channels : {1, 2})
      for (int warps = 4; warps <= kMostRelayWarps; warps *= 2) {
        ForwardVariant v = base;
        v.lanes = static_cast<std::int16_t>(lanes);
        v.channels = static_cast<std::int16_t>(channels);
        v.warps = static_cast<std::int16_t>(warps);
        if (!set_relay_shape(problem, best.details(ScanKernel::kRelay), v) || problem.seqlen <= v.tile) continue;
        consider_turns(problem, device, v, clocks_of_relay, best);
      }
}

// ---- the same, served by others (relay_served.cu) ----

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

// Short tiles are ready sooner; where servers are few they are too short, and what is no vector is moved better in long
// ones.
void set_relay_served_tile(const SelectiveScanProblem& problem, std::int16_t wanted, ForwardVariant& v) {
  constexpr std::int16_t kShort = 16, kLong = 32;
  v.tile = wanted > 0 ? wanted : v.states == kManyTurnStates ? kShort : kLong;
  set_accesses(problem, v);
  if (wanted > 0 || (has_room_for_turns(v) && moves_sequences_in_vectors(v))) return;
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
  const bool is_type_measured =
      element_size(v.dtype) == 2 || (v.states == kManyTurnStates && moves_sequences_in_vectors(v));
  return device.major == 9 && v.dstate > kFew && is_type_measured && are_sequences_measured &&
         v.b_access != Access::kWords && v.c_access != Access::kWords && v.b_order != ProjectionOrder::kStrided &&
         v.c_order != ProjectionOrder::kStrided;
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
      consider_turns(problem, device, v, clocks_of_relay_served, best);
    }
}

// ---- warps that others move tiles for (served.cu) ----

// Before Ampere copies go through registers, and what a scheduler has besides its one warp is no faster then. B and C
// of many states keep the serving warp busy for longer than the other one.
bool can_be_served(const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  constexpr Index kMostStates = 16;
  return device.major >= 8 && problem.dstate <= kMostStates && !problem.is_complex && problem.cu_seqlens == nullptr &&
         problem.seqlen > 0;
}

// Of aligned rows of 16 bits the tile that measured fastest: where steps are adjacent, rows as long as few states leave
// room for; otherwise as many steps as are computed together, once states are not so few that a tile shows.
std::int16_t usual_served_tile(const SelectiveScanProblem& problem, const ForwardVariant& v) {
  constexpr int kFew = 4;
  constexpr std::int16_t kLongServedTile = 32;
  const bool is_aligned = access_of(problem.u, problem, v.seq_contiguous, v.tile_columns()) == Access::kVectors &&
                          element_size(v.dtype) == 2;
  if (!is_aligned) return has_windows(v.tile, v.dtype) && v.seq_contiguous && v.lanes > 1 ? kLongServedTile : v.tile;
  if (v.seq_contiguous) return v.dstate <= kFew ? std::max<std::int16_t>(v.tile, 64) : v.tile;
  return v.states > kFew ? std::min(v.tile, kServedSteps) : v.tile;
}

// With the longest tile, up to v's own, with which so many blocks find shared memory on a multiprocessor. False where
// there is none.
bool set_served_tile(const SelectiveScanProblem& problem, const driver::DeviceReport& device, bool may_shorten,
                     ForwardVariant& v) {
  constexpr int kShortest = 32;  // bytes of a row of steps
  for (;; v.tile /= 2) {
    v.unroll = std::min(kServedSteps, v.tile);
    set_projections(problem, v);
    set_accesses(problem, v);
    const auto blocks = static_cast<std::size_t>(v.min_blocks);
    const std::size_t needed = blocks * (v.dynamic_shared_bytes() + kReservedPerBlock);
    if (fits_shared_memory(v, device) && needed <= device.shared_per_sm) return true;
    if (!may_shorten || v.tile * element_size(v.dtype) <= kShortest) return false;
  }
}

// Rows of this shape, a scheduler having one warp that scans, or two. Of few states two are no faster than forward.cu.
// Fewer than these in lanes that share a channel, or two channels of a lane, gain nothing either: for tuning only.
void consider_served_shape(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
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
    v.stages = kServedStages;
    v.min_blocks = static_cast<std::int16_t>(blocks);
    if (wanted.tile == 0) v.tile = usual_served_tile(problem, shape);
    c.rows = c.slots = rows_of(problem, v);
    if (v.states * v.channels > kMostServedStates / blocks || c.rows > std::numeric_limits<int>::max()) return;
    if (blocks == 2 && (c.rows <= 4 * sms || v.states <= kFew)) return;
    if (!set_served_tile(problem, device, wanted.tile == 0, v)) return;
    if (wanted.unroll > 0) v.unroll = std::min(wanted.unroll, v.tile);
    if (v.channels > 1 && is_shifted(v)) return;
    c.clocks = bounded_by_memory(clocks_served(v, c.rows, problem.seqlen, sms),
                                 memory_clocks(v, c.rows, c.slots, problem, device));
    best.consider(c);
  }
}

// ---- short rows that lie side by side (whole_rows.cu) ----

bool can_have_whole_rows(const SelectiveScanProblem& p) {
  constexpr Index kMostStates = 16;
  return p.dstate <= kMostStates && !p.is_complex && !p.chunk_invariant && p.cu_seqlens == nullptr && !p.B.constant &&
         !p.C.constant && is_seq_contiguous(p) && adjacent_rows_vector(p) > 0;
}

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
  consider_blocks(problem, device, v, resident, clocks_of_whole_rows, best);
}

}  // namespace

Candidate choose(const SelectiveScanProblem& problem, const driver::DeviceReport& device, const ForwardVariant& base,
                 bool whole_problem, const PlanChoice* wanted) {
  Best best(wanted);
  const bool may_cut = may_be_cut(problem, base);
  const bool may_serve = whole_problem && can_be_served(problem, device);
  for_each_shape(base, [&](const ForwardVariant& shape) {
    consider_shape(problem, device, shape, may_cut, best);
    if (may_serve) consider_served_shape(problem, device, shape, best);
  });
  if (whole_problem && can_have_whole_rows(problem)) consider_whole_rows(problem, device, base, best);
  if (whole_problem && is_served_by_relay(problem, device)) {
    consider_relay(problem, device, base, best);
    consider_relay_served(problem, device, base, best);
  }
  if (best.get().slots == 0)
    throw ArgumentError("batch * dim: got " + std::to_string(problem.batch) + " * " + std::to_string(problem.dim) +
                        ", which needs more than 2^31 - 1 blocks; split the batch");
  return best.get();
}

}  // namespace mamba_scan::ops
