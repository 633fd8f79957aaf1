#include "ops/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "ops/cost_model.h"
#include "platform/error.h"

namespace mamba_scan::ops {
namespace {

constexpr int kMostComplexOfLane = 8;  // states of all of a lane's channels: more would not fit its registers
constexpr std::size_t kMostStaticShared = 48 << 10;  // of a block, on every device
constexpr std::size_t kReservedPerBlock = 1024;      // by the system, on every architecture since sm_80
constexpr int kMostRelayWarps = 16;                  // each has a named barrier
constexpr std::int16_t kServedStages = 4;            // of served.cu: two tiles ahead, one scanned, one stored
constexpr std::int16_t kServedSteps = 16;            // computed together, by warps that have all registers
constexpr int kMostServedStates = 16;                // of all of a lane's channels; of two blocks at once, half
constexpr int kRelayWarpsOfSm = 16;                  // leave a thread 128 registers
constexpr int kRelaySlots = 4;                       // tiles in use in relay_served.cu
constexpr int kUsualRelayElements = 32;              // steps * states * channels that a lane has in registers

template <class Value>
Value ceil_div(Value value, Value divisor) {
  return (value + divisor - 1) / divisor;
}

// ---- lanes, states and channels ----

// Registers a lane's states, decay rates and everything else fit in without spilling, as blocks of one warp per SM.
// 8 blocks leave 255 registers, 12 leave 168, 16 leave 128, 20 leave 96.
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

// Before sm_80 copies to shared memory pass through registers, those of z too.
std::int16_t blocks_for_registers(const ForwardVariant& v, const driver::DeviceReport& device) {
  const std::int16_t blocks = blocks_for_registers(v);
  return device.major >= 8 || v.is_complex || !v.has_z ? blocks : std::max<std::int16_t>(8, blocks - 4);
}

int block_slots(const driver::DeviceReport& device) {
  return device.max_blocks_per_sm > 0 ? device.max_blocks_per_sm : 16;  // 0: an old driver
}

// Warps of forward.cu, blocks unless they go abreast.
int blocks_per_sm(const ForwardVariant& v, const driver::DeviceReport& device) {
  const auto abreast = static_cast<std::size_t>(v.abreast);
  const std::size_t by_shared = device.shared_per_sm / (abreast * v.shared_bytes() + kReservedPerBlock) * abreast;
  const int by_threads = device.max_threads_per_sm / static_cast<int>(kForwardBlockThreads);
  return std::max(1, std::min({static_cast<int>(v.min_blocks), static_cast<int>(by_shared), by_threads,
                               block_slots(device) * v.abreast}));
}

// Schedulers of the device that have a warp when it is full: a block is one warp, and less than four to an SM, for want
// of shared memory, leave some of its four schedulers idle.
Index busy_schedulers(const ForwardVariant& v, const driver::DeviceReport& device) {
  return Index{std::max(device.sm_count, 1)} * std::min(4, blocks_per_sm(v, device));
}

// Windows of rows of steps, of more states than those for which short ones are worth it (uses_windows()).
constexpr int kStatesOfShortWindows = 10;
bool has_long_windows(const ForwardVariant& v) {
  return v.u_access == Access::kWindows && v.seq_contiguous && v.states > kStatesOfShortWindows;
}

// Where shared memory holds fewer warps than registers do, a warp may have more of these.
std::int16_t blocks_in_shared_memory(const ForwardVariant& v, const driver::DeviceReport& device) {
  constexpr int kFewest = 8;  // which have all registers
  const int blocks = blocks_per_sm(v, device);
  // As many for every scheduler; long tiles of many states gain from what registers are left, too.
  const int of_scheduler = has_long_windows(v) ? blocks / 4 : ceil_div(blocks, 4);
  return static_cast<std::int16_t>(std::min<int>(v.min_blocks, std::max(4 * of_scheduler, kFewest)));
}

struct Candidate {
  ForwardVariant variant;
  Index rows = 0;
  Index slots = 0;
  double clocks = 0;
};

int next_power_of_two(int value) {
  int power = 1;
  while (power < value) power *= 2;
  return power;
}

Index blocks_per_group(const SelectiveScanProblem& problem, const ForwardVariant& v) {
  return ceil_div<Index>(problem.dim / problem.ngroups, v.warp_channels());
}

Index rows_of(const SelectiveScanProblem& problem, const ForwardVariant& v) {
  return problem.batch * problem.ngroups * blocks_per_group(problem, v);
}

// For which blocks have room: those of a group that go abreast may be fewer than a block could have.
Index rows_with_room(const SelectiveScanProblem& problem, const ForwardVariant& v) {
  return problem.batch * problem.ngroups * ceil_div<Index>(blocks_per_group(problem, v), v.abreast) * v.abreast;
}

// A lane holds 16 states of a channel at most.
int fewest_lanes(int dstate) { return std::min(32, next_power_of_two(ceil_div(dstate, 16))); }

// States of a lane that has an odd number of many: these would be read one by one from shared memory, and one more,
// which is only padding, may cost less.
int padded_states(const ForwardVariant& v, int lanes) {
  constexpr int kMany = 9;
  const int states = ceil_div<int>(v.dstate, lanes);
  return !v.is_complex && states >= kMany && states % 2 == 1 ? states + 1 : states;
}

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

// Can rows of `columns` elements be moved in windows?
constexpr int kWindowElements = 8;  // of 16 bits
bool has_windows(int columns, DType dtype) { return element_size(dtype) == 2 && columns % kWindowElements == 0; }

void set_projections(const SelectiveScanProblem& problem, ForwardVariant& v) {
  if (v.prepared) {  // prepare.cu reads any layout
    v.b_order = v.c_order = ProjectionOrder::kStates;
    v.b_access = v.c_access = Access::kVectors;
    return;
  }
  // Windows of B and C take less of a warp's time than words, but registers and shared memory, which only warps that
  // serve others have to spare: relay.cu measured slower with them.
  const auto layout = [&](const ProjectionTensor& tensor) {
    ProjectionLayout layout = layout_of(tensor, problem, v.tile);
    const bool are_words_of_steps = layout.order == ProjectionOrder::kSteps && layout.access == Access::kWords;
    if (v.served && are_words_of_steps && has_windows(v.tile, v.dtype)) layout.access = Access::kWindows;
    // whole_rows.cu reads any layout alike, but for vectors of states.
    const bool are_vectors_of_states = layout.order == ProjectionOrder::kStates && layout.access == Access::kVectors;
    if (v.row_vector > 0 && !are_vectors_of_states) layout = {ProjectionOrder::kStrided, Access::kVectors};
    return layout;
  };
  const ProjectionLayout B = layout(problem.B), C = layout(problem.C);
  v.b_order = B.order, v.b_access = B.access;
  v.c_order = C.order, v.c_access = C.access;
}

// Words or windows: rows that begin anywhere.
bool is_unaligned(Access access) { return access == Access::kWords || access == Access::kWindows; }

// Windows take fewer copies than words, but more shared memory. Those of a lane lie in rows that must be shifted alike:
// as many rows apart as fit 32 lanes, and a multiple of the elements of a window. Short rows of steps, of which a
// window more is half as much again, are worth it where states are few; long ones leave room for fewer warps, which
// short sequences need to have one begin while others go on.
bool uses_windows(const ForwardVariant& v, Index seqlen) {
  constexpr int kMostStates = 16, kLongTile = 32;
  const bool fits = has_windows(v.tile_columns(), v.dtype) && v.channels == 1 && v.tile_columns() <= 32 &&
                    v.tile % kWindowElements == 0;
  if (v.kernel() == ScanKernel::kRelay)
    return fits && v.seq_contiguous && v.lanes > 1 && v.states >= 4;  // whose lanes read few words each
  const bool is_long = v.kernel() == ScanKernel::kForward && v.tile >= kLongTile && seqlen >= 4 * kLongTile;
  const int most = is_long ? kMostStates : kStatesOfShortWindows;
  return fits && (!v.seq_contiguous || (v.lanes <= 2 && v.states <= most));
}

// Do rows of outputs wait for the rest of a sector (sector_outputs.cuh)? Reversed scans would have to wait for what
// comes before it in memory, packed and complex ones have no registers left, many states take longer than memory, and
// whether calls that must agree to the bit end in the middle of one must not make another kernel.
bool stores_sectors(const SelectiveScanProblem& problem, const ForwardVariant& v) {
  constexpr int kMostStates = 12;
  const bool gains = v.states <= kMostStates && v.channels == 1 && v.lanes <= (element_size(v.dtype) == 4 ? 2 : 1);
  return gains && v.kernel() == ScanKernel::kForward && v.seq_contiguous && !problem.reverse && !v.packed &&
         !v.is_complex && !v.chunk_invariant && v.y_access != Access::kElementwise &&
         v.tile * element_size(v.dtype) % kSectorBytes == 0 && !fills_sectors(problem.y, problem, true, v.tile);
}

// Where u is shifted in shared memory, y is not stored from there in vectors.
void set_accesses(const SelectiveScanProblem& problem, ForwardVariant& v) {
  const auto access = [&](const SequenceTensor& x) {
    return access_of(x, problem, v.seq_contiguous, v.tile_columns());
  };
  const auto input_access = [&](const SequenceTensor& x) {
    const Access plain = access(x);
    return plain == Access::kWords && uses_windows(v, problem.seqlen) ? Access::kWindows : plain;
  };
  v.u_access = input_access(problem.u);
  v.delta_access = input_access(problem.delta);
  v.z_access = v.has_z ? input_access(problem.z) : Access::kVectors;
  v.y_access = access(problem.y);
  if (is_unaligned(v.u_access) && v.y_access == Access::kVectors) v.y_access = Access::kWords;
  if (stores_sectors(problem, v)) v.y_access = Access::kWindows;
}

// Are there rows that may begin within a word or window? Only a single channel of a lane can be read from these.
bool is_shifted(const ForwardVariant& v) {
  return element_size(v.dtype) == 2 &&
         (is_unaligned(v.u_access) || is_unaligned(v.delta_access) || is_unaligned(v.z_access));
}

bool has_details(const PlanChoice& choice) {
  return choice.tile > 0 || choice.unroll > 0 || choice.stages > 0 || choice.min_blocks > 0;
}

// Is it the variant's choice but for details?
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

// Can kernels have this tile, unroll, number of stages and of blocks?
bool can_be_compiled(const PlanChoice& choice) {
  const auto is_power = [](int value, int least, int most) {
    return value == 0 || (value >= least && value <= most && value == next_power_of_two(value));
  };
  return is_power(choice.tile, 4, 64) && is_power(choice.unroll, 2, 16) && choice.stages != 1 && choice.stages >= 0 &&
         choice.stages <= 8 && choice.min_blocks >= 0 && choice.min_blocks <= 32;
}

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

// Only then does it matter to a kernel in which direction steps run in memory.
bool has_adjacent_steps(const ForwardVariant& v) {
  return v.seq_contiguous || v.b_order == ProjectionOrder::kSteps || v.c_order == ProjectionOrder::kSteps;
}

// ---- how lanes walk along tensors (tile_copy.cuh) ----

// Rows of `row` adjacent elements, row_stride apart; tiles of `advance` elements.
TileSteps tile_steps(Index row, Index row_stride, Index advance, DType dtype, Access access) {
  const int columns = static_cast<int>(row);
  const int width = access == Access::kWords     ? 4 / element_size(dtype)
                    : access == Access::kWindows ? 16 / element_size(dtype)
                                                 : copy_width(columns, dtype);
  if (access == Access::kElementwise || width == 0 || columns % width != 0 || 32 % (columns / width) != 0)
    return {0, 0};
  return {32 / (columns / width) * row_stride * element_size(dtype), advance * element_size(dtype)};
}

TileSteps sequence_steps(const SequenceTensor& tensor, Access access, const ForwardVariant& v) {
  const Index advance = Index{v.tiles_apart()} * v.tile * tensor.seq_stride;
  const Index row_stride = v.seq_contiguous ? tensor.dim_stride : tensor.seq_stride;
  return tile_steps(v.tile_columns(), row_stride, advance, v.dtype, access);
}

TileSteps projection_steps(const ProjectionTensor& tensor, ProjectionLayout layout, const ForwardVariant& v) {
  const Index advance = Index{v.tiles_apart()} * v.tile * tensor.seq_stride;
  if (layout.access == Access::kWords) return {0, 0};
  if (layout.order == ProjectionOrder::kStates)
    return tile_steps(v.dstate * (v.is_complex ? 2 : 1), tensor.seq_stride, advance, v.dtype, layout.access);
  if (layout.order == ProjectionOrder::kSteps)
    return tile_steps(v.tile, tensor.state_stride, advance, v.dtype, layout.access);
  return {0, 0};
}

void set_tile_steps(const ForwardVariant& v, SelectiveScanForwardParams& params) {
  const SelectiveScanProblem& p = params.problem;
  params.u_steps = sequence_steps(p.u, v.u_access, v);
  params.delta_steps = sequence_steps(p.delta, v.delta_access, v);
  params.z_steps = sequence_steps(p.z, v.z_access, v);
  params.y_steps = sequence_steps(p.y, v.y_access, v);
  params.B_steps = v.prepared ? TileSteps{0, 0} : projection_steps(p.B, {v.b_order, v.b_access}, v);
  params.C_steps = v.prepared ? TileSteps{0, 0} : projection_steps(p.C, {v.c_order, v.c_access}, v);
}

// ---- what forward.cu takes ----

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

// Of one prepared tensor, for every batch, group and step of whole tiles.
std::size_t prepared_floats(const ForwardVariant& v, const SelectiveScanProblem& p) {
  const Index steps = std::max<Index>(1, ceil_div<Index>(p.seqlen, v.tile)) * v.tile;
  return static_cast<std::size_t>(p.batch * p.ngroups * steps * v.lanes * v.states);
}

bool can_be_prepared(const ForwardVariant& v, const SelectiveScanProblem& problem) {
  return v.kernel() == ScanKernel::kForward && problem.seqlen > 0 && !v.is_complex &&
         v.b_order != ProjectionOrder::kConstant && v.c_order != ProjectionOrder::kConstant;
}

// The same with B and C prepared, all in all. Infinite where shared memory would then hold fewer warps.
double clocks_prepared(ForwardVariant v, Index rows, Index slots, const SelectiveScanProblem& problem,
                       const driver::DeviceReport& device) {
  const int blocks = blocks_per_sm(v, device);
  v.prepared = true;
  set_projections(problem, v);
  if (blocks_per_sm(v, device) < blocks) return std::numeric_limits<double>::infinity();
  return clocks_of_forward(v, rows, slots, problem, device) +
         clocks_to_prepare(v, static_cast<double>(prepared_floats(v, problem)), device.sm_count);
}

// The same without: what rows do not divide into is copied as slowly as words.
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

// Whichever is less.
double clocks_prepared_or_not(const ForwardVariant& v, Index rows, Index slots, const SelectiveScanProblem& problem,
                              const driver::DeviceReport& device) {
  const double clocks = clocks_unprepared(v, rows, slots, problem, device);
  if (!can_be_prepared(v, problem)) return clocks;
  return std::min(clocks, clocks_prepared(v, rows, slots, problem, device));
}

bool fits_shared_memory(const ForwardVariant& v, const driver::DeviceReport& device) {
  if (v.dynamic_shared_bytes() == 0) return v.shared_bytes() <= kMostStaticShared;
  return v.dynamic_shared_bytes() <= std::max(kMostStaticShared, device.shared_per_block_optin);
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

int relay_blocks_per_sm(const ForwardVariant& v, const driver::DeviceReport& device) {
  const std::size_t by_shared = device.shared_per_sm / (v.dynamic_shared_bytes() + kReservedPerBlock);
  return std::max(1, std::min({static_cast<int>(v.min_blocks), static_cast<int>(by_shared), block_slots(device)}));
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

// A block for every row, if shared memory has room for it. clocks: of whichever kernel.
void consider_turns(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                    const ForwardVariant& variant, decltype(clocks_of_relay)& clocks, Best& best) {
  if (!fits_shared_memory(variant, device)) return;
  Candidate c;
  c.variant = variant;
  c.rows = c.slots = rows_of(problem, variant);
  if (c.rows > std::numeric_limits<int>::max()) return;
  const double taken =
      clocks(variant, c.rows, relay_blocks_per_sm(variant, device), problem.seqlen, std::max(device.sm_count, 1));
  c.clocks = bounded_by_memory(taken, memory_clocks(variant, c.rows, c.slots, problem, device));
  best.consider(c);
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

// As many blocks as leave a thread the 96 registers that it needs on Hopper; elsewhere it needs more.
std::int16_t relay_served_blocks(const ForwardVariant& v, const driver::DeviceReport& device) {
  const int blocks = v.warps == 4 ? 3 : 2;
  return static_cast<std::int16_t>(device.major == 9 ? blocks : blocks - 1);
}

// 4 states of a lane: 2 measured slower, and 8 spill. A warp's turn must be over before the slot of its tile is needed
// again.
bool set_relay_served_shape(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                            const PlanChoice& wanted, ForwardVariant& v) {
  constexpr std::int16_t kStates = 4, kTile = 32, kStages = 4;
  v.states = static_cast<std::int16_t>(ceil_div<int>(v.dstate, v.lanes));
  if (v.states != kStates || v.lanes * v.states > 2 * v.dstate) return false;
  v.served = true;
  v.tile = wanted.tile > 0 ? wanted.tile : kTile;
  v.unroll = static_cast<std::int16_t>(kUsualRelayElements / v.states);
  v.stages = wanted.stages > 0 ? wanted.stages : kStages;
  v.min_blocks = wanted.min_blocks > 0 ? wanted.min_blocks : relay_served_blocks(v, device);
  if (v.tile < v.unroll || kRelaySlots * v.tile / v.unroll < 2 * v.warps || v.stages < kStages) return false;
  set_accesses(problem, v);
  set_projections(problem, v);
  v.reverse = problem.reverse && has_adjacent_steps(v);
  return true;
}

// Where this was measured to pay: 16 bits, many states, Hopper; adjacent steps, or rows that are moved in vectors.
// Others are for tuning only.
bool is_measured_relay_served(const ForwardVariant& v, const driver::DeviceReport& device) {
  constexpr int kFew = 8;
  const auto sequences = {v.u_access, v.delta_access, v.z_access, v.y_access};
  const bool are_measured = std::all_of(sequences.begin(), sequences.end(), [&](Access access) {
    return access == Access::kVectors || (v.seq_contiguous && access != Access::kElementwise);
  });
  return device.major == 9 && v.dstate > kFew && element_size(v.dtype) == 2 && are_measured &&
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

int whole_rows_per_sm(const ForwardVariant& v, Index seqlen, const driver::DeviceReport& device) {
  const std::size_t by_shared = device.shared_per_sm / (v.whole_rows_bytes(seqlen) + kReservedPerBlock);
  return static_cast<int>(
      std::min({static_cast<std::size_t>(v.min_blocks), static_cast<std::size_t>(block_slots(device)), by_shared}));
}

void consider_whole_rows(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                         const ForwardVariant& base, Best& best) {
  Candidate c;
  c.variant = base;
  ForwardVariant& v = c.variant;
  set_whole_rows_shape(problem, device, best.details(ScanKernel::kWholeRows), v);
  if (v.whole_rows_bytes(problem.seqlen) > std::max(kMostStaticShared, device.shared_per_block_optin)) return;
  // Many states keep a scheduler busy with two warps only, few with one.
  constexpr int kMany = 8;
  const int resident = whole_rows_per_sm(v, problem.seqlen, device), enough = v.states > kMany ? 8 : 4;
  if (resident < enough && !best.wants(v)) return;
  c.rows = c.slots = rows_of(problem, v);
  if (c.rows > std::numeric_limits<int>::max()) return;
  const double taken = clocks_of_whole_rows(v, c.rows, resident, problem.seqlen, std::max(device.sm_count, 1));
  c.clocks = bounded_by_memory(taken, memory_clocks(v, c.rows, c.slots, problem, device));
  best.consider(c);
}

// The one wanted where it is possible, otherwise the fastest by the model. whole_problem: not one slice of it, so that
// all kernels may be used.
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
  const double allowed = is_unaligned(plan.variant.u_access) ? 0.9 : 0.985;
  const int rows = params.tiles / params.tiles_per_row, of_row = params.slots / rows;
  if (of_row < 2 || rows * of_row < allowed * params.slots) return;
  params.slots_per_row = of_row;
  params.slots = rows * of_row;
}

jit::Variant make_variant(const ForwardVariant& v, const char* source, const char* entry) {
  jit::Variant out;
  out.source = source;
  out.entry = entry;
  const auto define = [&](const char* name, int value) { out.defines.emplace_back(name, std::to_string(value)); };
  define("MS_DTYPE", static_cast<int>(v.dtype));
  define("MS_DSTATE", v.dstate);
  define("MS_LANES", v.lanes);
  define("MS_STATES", v.states);
  define("MS_CHANNELS", v.channels);
  define("MS_WARPS", v.warps);
  define("MS_SERVED", v.served);
  define("MS_ABREAST", v.abreast);
  if (v.row_vector > 0) {
    define("MS_ROW_VECTOR", v.row_vector);
    define("MS_BULK", v.bulk);
  }
  define("MS_MIN_BLOCKS", v.min_blocks);
  define("MS_TILE", v.tile);
  define("MS_STAGES", v.stages);
  define("MS_UNROLL", v.unroll);
  define("MS_SEQ_CONTIGUOUS", v.seq_contiguous);
  define("MS_REVERSE", v.reverse);
  define("MS_U_ACCESS", static_cast<int>(v.u_access));
  define("MS_DELTA_ACCESS", static_cast<int>(v.delta_access));
  define("MS_Z_ACCESS", static_cast<int>(v.z_access));
  define("MS_Y_ACCESS", static_cast<int>(v.y_access));
  define("MS_B_ORDER", static_cast<int>(v.b_order));
  define("MS_C_ORDER", static_cast<int>(v.c_order));
  define("MS_B_ACCESS", static_cast<int>(v.b_access));
  define("MS_C_ACCESS", static_cast<int>(v.c_access));
  define("MS_SOFTPLUS", v.softplus);
  define("MS_HAS_BIAS", v.has_bias);
  define("MS_HAS_D", v.has_d);
  define("MS_HAS_Z", v.has_z);
  define("MS_HAS_INITIAL", v.has_initial);
  define("MS_HAS_FINAL", v.has_final);
  define("MS_CUT", v.cut && !v.chunk_invariant);
  define("MS_INVARIANT", v.chunk_invariant);
  define("MS_PACKED", v.packed);
  define("MS_COMPLEX", v.is_complex);
  define("MS_PREPARED", v.prepared);
  define("MS_SLICE", static_cast<int>(v.slice));
  return out;
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

// The constants of carry.cu. What the carries do not depend on must not make another kernel.
ForwardVariant carry_variant(ForwardVariant v) {
  v.c_order = ProjectionOrder::kStates;  // no registers
  v.min_blocks = std::min<std::int16_t>(blocks_for_registers(v), 16);
  v.abreast = 1;
  v.c_order = ProjectionOrder::kConstant;  // nor shared memory
  v.c_access = Access::kVectors;
  v.z_access = v.y_access = Access::kVectors;
  v.has_d = v.has_z = v.has_initial = v.has_final = false;
  v.slice = StateSlice::kAll;
  v.reverse = v.reverse && has_adjacent_steps(v);
  v.unroll = std::min<std::int16_t>(16, v.tile);
  v.stages = v.carry_stages;
  return v;
}

bool fits_shared_with_carries(const ForwardVariant& v, const driver::DeviceReport& device) {
  return fits_shared_memory(v, device) && (!v.cut || carry_variant(v).shared_bytes() <= kMostStaticShared);
}

// A carry pass computes little per tile, so that six tiles must be under way to hide how long copies take; fewer where
// shared memory would then hold fewer warps than there are.
std::int16_t carry_stages_for(const ForwardVariant& v, Index slots, const driver::DeviceReport& device) {
  ForwardVariant carry = v;
  const Index per_sm = ceil_div<Index>(slots, std::max(device.sm_count, 1));
  for (carry.carry_stages = 6; carry.carry_stages > 2; --carry.carry_stages) {
    const ForwardVariant tried = carry_variant(carry);
    if (tried.shared_bytes() <= kMostStaticShared &&
        blocks_per_sm(tried, device) >= std::min<Index>(per_sm, tried.min_blocks))
      break;
  }
  return carry.carry_stages;
}

// ---- prepared B and C -----------------------------------------------------------------------------------------------

// Steps that a block of prepare.cu takes: 2048 elements of one tensor, 8 KB of fp32.
int prepare_steps(const ForwardVariant& v) {
  int steps = 256;
  while (steps > 8 && steps * v.lanes * v.states > 2048) steps /= 2;
  return steps;
}

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

// What lanes share of a tile (step_inputs.cuh).
std::size_t inputs_bytes(const ForwardVariant& v) {
  const int inputs = v.shares_inputs() ? v.warp_channels() * (v.tile / 2 + 1) : 1;  // of two steps and a channel each
  return 4 * sizeof(float) * static_cast<std::size_t>(inputs);
}

// In relay_served.cu, besides what the servers have: what is in the slots beyond B, C and inputs (a number of y for
// every lane and step), a lane's states for every scanning warp and its A, and two events for every slot.
std::size_t relay_served_bytes(const ForwardVariant& v) {
  constexpr std::size_t kEvent = 8;
  const auto of_lane = static_cast<std::size_t>(kRelaySlots * v.tile + (v.warps + 1) * v.states);
  return 32 * sizeof(float) * of_lane + 2 * kRelaySlots * kEvent;
}

}  // namespace

unsigned ForwardVariant::scan_blocks(const SelectiveScanForwardParams& params) const {
  const int of_block = static_cast<int>(scan_slots());
  if (abreast == 1) return static_cast<unsigned>(ceil_div(params.slots, of_block));
  const int of_group = params.blocks_per_group * std::max(params.slots_per_row, 1);  // slots
  const int blocks = ceil_div(params.blocks_per_group, of_block) * std::max(params.slots_per_row, 1);
  return static_cast<unsigned>(params.slots / of_group * blocks);
}

bool ForwardVariant::shares_inputs() const {
  return lanes > 1 && (served || (warps > 1 && !(seq_contiguous && dtype == DType::kFloat32 && lanes <= 4)));
}

std::size_t ForwardVariant::shared_bytes() const {
  const auto aligned = [](int bytes) { return static_cast<std::size_t>((bytes + 15) / 16 * 16); };
  const int element = element_size(dtype), row = tile * (is_complex ? 2 : 1);
  const int padded_steps = (tile * element / 16 | 1) * 16;  // bytes of a row of them
  const auto is_shifted_row = [&](Access access) { return is_unaligned(access) && element == 2; };
  const auto shifted_row = [&](int columns, Access access) {  // kShiftedPitch in warp_tile.cuh
    const int shifts = access == Access::kWindows ? kWindowElements : 2;
    return (columns / shifts + 1) * shifts * element;
  };
  const auto sequence = [&](Access access) {
    const int rows = tile_rows(), columns = tile_columns();
    if (is_shifted_row(access)) return aligned(rows * shifted_row(columns, access));
    return aligned(rows * (seq_contiguous ? padded_steps : columns * element));
  };
  const auto is_raw = [&](ProjectionOrder order, Access access) {
    return warps > 1 && states == 1 && lanes >= 16 && lanes == dstate && order < ProjectionOrder::kStrided &&
           access == Access::kVectors;
  };
  const auto raw = [&](ProjectionOrder order, Access access) {
    if (order == ProjectionOrder::kConstant) return aligned(element);
    if (order == ProjectionOrder::kSteps && is_raw(order, access)) return aligned(dstate * padded_steps);
    if (!is_shifted_row(access)) return aligned(row * dstate * element);
    return aligned(order == ProjectionOrder::kSteps ? dstate * shifted_row(tile, access)
                                                    : tile * shifted_row(dstate, access));
  };
  const auto expanded = [&](ProjectionOrder order, Access access) {
    return aligned(order == ProjectionOrder::kConstant || is_raw(order, access) ? 4 : row * lanes * states * 4);
  };
  const std::size_t sequences = sequence(u_access) + sequence(delta_access) + (has_z ? sequence(z_access) : 16);
  const std::size_t waiting = y_access == Access::kWindows ? static_cast<std::size_t>(tile_rows()) * kSectorBytes : 0;
  const std::size_t piece = (packed ? 48 : 32) + waiting,
                    of_tile = expanded(b_order, b_access) + expanded(c_order, c_access);
  if (prepared) {
    const bool is_carry = c_order == ProjectionOrder::kConstant;  // which reads the states in another order
    const bool reorders = is_carry && lanes > 1 && states > 1;
    return static_cast<std::size_t>(stages) * (sequences + of_tile) + piece + (reorders ? of_tile : 32);
  }
  const std::size_t of_stage = sequences + raw(b_order, b_access) + raw(c_order, c_access);
  if (kernel() == ScanKernel::kRelayServed)
    return static_cast<std::size_t>(tiles_apart()) * (static_cast<std::size_t>(stages) * of_stage + piece) +
           kRelaySlots * (of_tile + inputs_bytes(*this)) + relay_served_bytes(*this);
  if (served) return static_cast<std::size_t>(stages) * of_stage + piece + 2 * (of_tile + inputs_bytes(*this));
  return static_cast<std::size_t>(stages) * of_stage + piece + of_tile;
}

std::size_t ForwardVariant::dynamic_shared_bytes() const {
  if (served || abreast > 1) return scan_slots() * shared_bytes();
  if (warps == 1) return 0;
  const int owned = channels > lanes ? channels / lanes : 1;
  const int deltas = shares_inputs() || (softplus && lanes > 1) ? owned : channels;
  const int of_lane = 2 * channels * states + (has_bias ? deltas : 0) + (has_d ? owned : 0);
  return static_cast<std::size_t>(warps) *
         (shared_bytes() + 32 * sizeof(float) * static_cast<std::size_t>(of_lane) + inputs_bytes(*this));
}

// An event, runs of whole vectors, wherever in the first one they begin, then B and C.
std::size_t ForwardVariant::whole_rows_bytes(Index seqlen) const {
  constexpr std::size_t kVector = 16;
  const auto steps = static_cast<std::size_t>(seqlen), element = static_cast<std::size_t>(element_size(dtype));
  const std::size_t run =
      (steps * static_cast<std::size_t>(warp_channels()) * element + 2 * (kVector - element)) / kVector * kVector;
  const std::size_t projection = ceil_div(steps * static_cast<std::size_t>(states) * sizeof(float), kVector) * kVector;
  return kVector + (has_z ? 3 : 2) * run + 2 * projection;
}

std::size_t ForwardVariant::scan_shared_bytes(const SelectiveScanForwardParams& params) const {
  return kernel() == ScanKernel::kWholeRows ? whole_rows_bytes(params.problem.seqlen) : dynamic_shared_bytes();
}

jit::Variant ForwardVariant::scan() const {
  const auto of = [&](const char* source, const char* entry) { return make_variant(*this, source, entry); };
  const auto of_kernel = [&] {
    switch (kernel()) {
      case ScanKernel::kServed:
        return of("selective_scan/served.cu", "selective_scan_served");
      case ScanKernel::kRelay:
        return of("selective_scan/relay.cu", "selective_scan_relay");
      case ScanKernel::kRelayServed:
        return of("selective_scan/relay_served.cu", "selective_scan_relay_served");
      case ScanKernel::kWholeRows:
        return of("selective_scan/whole_rows.cu", "selective_scan_whole_rows");
      case ScanKernel::kForward:
        break;
    }
    return of("selective_scan/forward.cu", "selective_scan_forward");
  };
  jit::Variant out = of_kernel();
  if (dynamic_shared_bytes() > 0) out.defines.emplace_back("MS_SHARED_BYTES", std::to_string(dynamic_shared_bytes()));
  return out;
}

jit::Variant ForwardVariant::carry() const {
  return make_variant(carry_variant(*this), "selective_scan/carry.cu", "selective_scan_carry");
}

jit::Variant ForwardVariant::compose() const {
  ForwardVariant v = *this;  // where the carries of which states lie is all that matters
  v.b_order = v.c_order = ProjectionOrder::kConstant;
  v.u_access = v.delta_access = v.z_access = v.y_access = v.b_access = v.c_access = Access::kVectors;
  v.softplus = v.has_bias = v.has_d = v.has_z = v.has_initial = v.has_final = v.reverse = v.packed = false;
  v.prepared = false;
  v.abreast = 1;
  v.slice = StateSlice::kAll;
  return make_variant(v, "selective_scan/compose.cu", "selective_scan_compose");
}

jit::Variant ForwardVariant::prepare() const {
  ForwardVariant v;  // how many states lie in which order is all that matters
  v.dtype = dtype;
  v.dstate = dstate;
  v.lanes = lanes;
  v.states = states;
  v.tile = tile;
  v.channels = 1;
  jit::Variant out = make_variant(v, "selective_scan/prepare.cu", "selective_scan_prepare");
  out.defines.emplace_back("MS_PREPARE_STEPS", std::to_string(prepare_steps(v)));
  return out;
}

namespace {

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
  if (v.row_vector == 0) set_accesses(problem, v);
  if (v.cut) v.carry_stages = carry_stages_for(v, chosen.slots, device);
  if (choice != nullptr && has_details(*choice) && (!is_simply(*choice, v) || !fits_shared_with_carries(v, device))) {
    const PlanChoice simple = without_details(*choice);
    return plan_slices(whole, device, wanted_slices, &simple, preparation);
  }

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
  if (plan.variant.cut) {
    const std::size_t lanes = static_cast<std::size_t>(plan.params.slots) * 32 * static_cast<std::size_t>(v.channels);
    plan.carry_state_bytes = lanes * static_cast<std::size_t>(v.states) * sizeof(float);
    plan.carry_delta_bytes = lanes * sizeof(float);
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
