// Candidates that forward.cu scans.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "ops/candidates.h"
#include "ops/ceil_div.h"
#include "ops/residency.h"
#include "ops/warp_layout.h"

namespace mamba_scan::ops {
namespace {

constexpr int kMostComplexOfLane = 8;  // states of all of a lane's channels: more would not fit its registers

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

// The same with tiles of so many steps, and what that changes of how they are moved.
ForwardVariant with_tile(const SelectiveScanProblem& problem, ForwardVariant v, int steps) {
  v.tile = static_cast<std::int16_t>(steps);
  set_projections(problem, v);
  set_accesses(problem, v);
  return v;
}

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
  const ForwardVariant longer = with_tile(problem, v, 2 * v.tile);
  const int blocks = blocks_per_sm(v, device), enough = has_long_windows(longer) ? kEnoughOfWindows : kEnough;
  if (blocks_per_sm(longer, device) >= (is_fp32 ? blocks : std::min(blocks, enough))) v = longer;
}

// Are tiles twice as long worth fewer warps? fp32 ones of adjacent channels are where rows are cut, which have fewer
// warps anyway: 1, 131072, 2048 took 1526 us on an H200 by tiles of 8 steps and 1507 by 16.
bool may_have_longer_tile(const ForwardVariant& v) {
  return v.dtype == DType::kFloat32 && v.tile * 4 == 32 && !v.seq_contiguous && !v.chunk_invariant && !v.is_complex &&
         v.lanes == 1 && v.channels == 1;
}

// Of what is moved directly: two groups of 16 steps or, of many states, of 8, each read while the other is computed,
// and as many warps as leave registers for that.
void set_direct_shape(const SelectiveScanProblem& problem, const PlanChoice& wanted, ForwardVariant& v) {
  constexpr int kMany = 8, kFew = 6;
  const bool is_many = v.states > kMany;
  if (wanted.tile == 0) v = with_tile(problem, v, is_many ? 16 : 32);
  const int blocks = is_many ? 12 : 16 - (v.has_z ? 4 : 0) - (v.states > kFew ? 4 : 0);
  if (wanted.min_blocks == 0) v.min_blocks = static_cast<std::int16_t>(std::min<int>(v.min_blocks, blocks));
}

// What forward.cu takes with its carries, but not what prepares its B and C.
double clocks_of_forward(const ForwardVariant& v, Index rows, Index slots, const SelectiveScanProblem& problem,
                         const driver::DeviceReport& device) {
  const Index room = rows_with_room(problem, v), shares = ceil_div(slots, rows);
  const Index taken = v.abreast > 1 ? room * shares : slots;
  const int warps = static_cast<int>(ceil_div(taken, busy_schedulers(v, device)));
  const double clocks =
      v.wrapped ? clocks_wrapped(v, rows, slots, warps, problem.seqlen)
      : v.cut   ? clocks_cut(v, rows, slots, warps, problem.seqlen)
                : clocks_uncut(v, room, blocks_per_sm(v, device), problem.seqlen, std::max(device.sm_count, 1));
  return bounded_by_memory(clocks, memory_clocks(v, rows, slots, problem, device));
}

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
         v.u_access != Access::kDirectly && problem.seqlen > 0;
}

// May rows that are more than all schedulers take at a time be shared out evenly? Before Volta a warp cannot say to
// another that something is there.
bool can_be_wrapped(const ForwardVariant& v, const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  return device.major >= 7 && v.kernel() == ScanKernel::kForward && v.abreast == 1 && !v.is_complex && !v.packed &&
         !v.chunk_invariant && problem.seqlen > 0 && can_share_out(problem, v);
}

// Tiles of 16 bits twice as long where a scheduler has no more than two warps, which hide less of what a tile costs
// besides its steps: 8, 2048, 5120 took 434 us on an H100 by tiles of 16 steps and 422 by 32, 8, 1024, 2560 with
// everything 155 and 145.
ForwardVariant with_few_warps(const SelectiveScanProblem& problem, const driver::DeviceReport& device, int warps,
                              const PlanChoice& wanted, const ForwardVariant& v) {
  constexpr int kFew = 2, kUsualTile = 16;
  if (warps > kFew || wanted.tile > 0 || element_size(v.dtype) != 2 || v.tile != kUsualTile) return v;
  ForwardVariant longer = with_tile(problem, v, 2 * v.tile);
  if (wanted.min_blocks == 0) longer.min_blocks = std::min<std::int16_t>(v.min_blocks, 4 * kFew);
  if (wanted.unroll == 0) longer.unroll = unroll_for(longer);
  return blocks_per_sm(longer, device) >= 4 * warps ? longer : v;
}

// May softplus and gates come from a table? It is off by more than fp32 should be. Rows that lanes move themselves gain
// nothing.
bool can_be_tabulated(const ForwardVariant& v) {
  return (v.softplus || v.has_z) && element_size(v.dtype) == 2 && v.lanes == 1 && v.u_access != Access::kDirectly &&
         !v.packed && v.slice == StateSlice::kAll;
}

// Puts all warps of a multiprocessor into one block, if they run all at once, are three or four to a scheduler, and
// leave next to none idle: a scheduler of Hopper lets the warp of the oldest block go first whenever it can, but is
// fair to the warps of one block. Of two warps the second one fills the gaps of the first, and nothing is gained, but
// for what a block may have in common: 8, 2048, 5120 with gate, softplus and bias took 490 us on an H200 apart, and 480
// by a table. Where there are rows for four, four take less.
bool put_together(const SelectiveScanProblem& problem, const driver::DeviceReport& device, Index rows, Index slots,
                  ForwardVariant& variant) {
  constexpr Index kSchedulers = 4, kMost = 4;  // of a multiprocessor; warps of a scheduler
  ForwardVariant v = variant;
  if (device.major != 9 || v.kernel() != ScanKernel::kForward || v.abreast > 1 || v.is_complex || v.chunk_invariant ||
      problem.seqlen == 0)
    return false;
  constexpr double kFilled = 0.9;
  const Index schedulers = kSchedulers * std::max(device.sm_count, 1), of_scheduler = ceil_div(slots, schedulers);
  const Index warps = kSchedulers * of_scheduler;
  if (of_scheduler > kMost || warps > blocks_per_sm(v, device)) return false;
  if (static_cast<double>(slots) < kFilled * static_cast<double>(of_scheduler * schedulers)) return false;
  v.together = v.min_blocks = static_cast<std::int16_t>(warps);
  const auto fits = [&] { return fits_shared_memory(v, device) && blocks_per_sm(v, device) >= warps; };
  v.tabulated = can_be_tabulated(v);
  if (v.tabulated && !fits()) v.tabulated = false;
  const Index fewest = v.tabulated && rows < 2 * slots ? 2 : 3;
  if (!fits() || of_scheduler < fewest) return false;
  variant = v;
  return true;
}

// Does memory hold up warps that are put together? All of them being about as far, more rows are under way at once than
// when the first ones hurry ahead, and of what is read of two sectors at once the second may be gone before it is
// needed. In us by a block for every warp, and put together, on an H200, whose memory moves 4.2 bytes in the time that
// an H100's takes for 3, and there: 16, 2048, 5120 in (b, d, l) with everything 956 and 897, 954 and 1016; 64, 2048,
// 1536 in fp32 1055 and 1036, 1024 and 1093.
bool is_held_up(const Candidate& c, const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  constexpr double kMostOfTime = 0.75, kReadTwice = 1.9;
  constexpr int kMemoryBytes = 64;
  const ForwardVariant& v = c.variant;
  const bool reads_twice = v.seq_contiguous && v.tile * element_size(v.dtype) < kMemoryBytes;
  const double memory = memory_clocks(v, c.rows, c.slots, problem, device);
  return memory * (reads_twice ? kReadTwice : 1) > kMostOfTime * c.clocks;
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
    const ForwardVariant apart = v;
    if (!put_together(problem, device, c.rows, c.slots, v)) return;
    c.clocks = clocks_prepared_or_not(v, c.rows, c.slots, problem, device);
    if (best.wants(v) || !is_held_up(c, problem, device)) best.consider(c);
    v = apart;
  };
  c.slots = c.rows;
  consider();
  if (can_be_wrapped(v, problem, device)) {
    const ForwardVariant whole = v;
    for (int warps = 1; warps <= resident && schedulers * warps < c.rows; ++warps) {
      v = with_few_warps(problem, device, warps, best.details(ScanKernel::kForward), whole);
      v.wrapped = true;
      c.slots = schedulers * warps;
      consider();
    }
    v = whole;
  }

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
  if (!v.chunk_invariant) {  // where B and C lie must not matter to an invariant scan
    v.b_access = access(problem.B, v.b_order, v.b_access);
    v.c_access = access(problem.C, v.c_order, v.c_access);
  }
  return clocks_of_forward(v, rows, slots, problem, device);
}

void consider_forward(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
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
  if (v.u_access == Access::kDirectly) {
    set_direct_shape(problem, wanted, v);
  } else if (wanted.tile == 0) {
    use_longer_tile(problem, device, v);
  }
  consider_tile(problem, device, v, may_cut, best);
  if (wanted.tile == 0 && may_have_longer_tile(v))
    consider_tile(problem, device, with_tile(problem, v, 2 * v.tile), may_cut, best);
  constexpr int kShortest = 32;  // bytes of a row of steps
  if (wanted.tile > 0 || v.chunk_invariant || v.is_complex || v.tile * element_size(v.dtype) <= kShortest) return;
  if (!is_crowded(problem, device, v) || has_long_windows(v)) return;
  v = with_tile(problem, v, v.tile / 2);
  if (v.channels > 1 && is_shifted(v)) return;
  consider_tile(problem, device, v, may_cut, best);
}

bool may_be_cut(const SelectiveScanProblem& problem) {
  const bool in_place = problem.initial_state.data != nullptr && problem.initial_state.data == problem.final_state.data;
  return !problem.is_complex && (problem.chunk_invariant ? problem.cu_seqlens == nullptr : !in_place);
}

}  // namespace mamba_scan::ops
