#include "ops/cost_model.h"

#include <algorithm>
#include <cmath>

#include "ops/ceil_div.h"
#include "ops/warp_layout.h"

namespace mamba_scan::ops {
namespace {

// 1/1 + 1/2 + ... + 1/n
double harmonic(double n) { return n < 1 ? 0 : std::log(n) + 0.5772 + 1 / (2 * n); }

// How many of the states count on average over the last `steps` steps, of which state 1 counts for `remembered`. At
// Mamba's own initialisation (A = -1 .. -N) state n does so for an n-th of them.
double states_alive(double dstate, double steps, double remembered) {
  const double share = remembered / steps;
  const double always = std::min(std::floor(share), dstate);
  return always + share * (harmonic(dstate) - harmonic(always));
}

// At Mamba's own initialisation, where delta is 0.0215 on average: until 2^-bits is left of a state.
double steps_remembered(const ForwardVariant& v) {
  return (v.dtype == DType::kFloat32 ? kRememberedBitsOfFp32 : kRememberedBits) * 0.693 / 0.0215;
}

// What takes turns on a scheduler takes about as long as the longest of its parts, and longer where two are nearly so.
double together(double a, double b, double c = 0) { return std::cbrt(a * a * a + b * b * b + c * c * c); }

// What `total` blocks or warps of a multiprocessor take, `resident` of them at a time; of(n): what n do together.
template <class Of>
double in_waves(Index total, Index resident, const Of& of) {
  return static_cast<double>(total / resident) * of(resident) + of(total % resident);
}

// ---- instructions, and what else keeps a warp's next one waiting, of one step ----

constexpr double kStart = 10400;         // of a launch, until its first tile has come, and from its last one
constexpr double kClearingFlags = 7000;  // of wrapped slots: a launch of its own
constexpr double kNextPiece = 6000;      // of theirs
constexpr double kNextLaunch = 8000;     // about 4 us: its start, its cold instructions

// Chunks that a lane copies of a tile of u, delta, z or y, which are moved as `access` says.
double chunks_of_lane(const ForwardVariant& v, Access access) {
  const int elements = v.tile_rows() * v.tile_columns();
  if (access == Access::kElementwise) return elements / 32.0;
  if (access == Access::kWords) return std::max(1.0, elements * element_size(v.dtype) / 128.0);
  return std::max(1.0, elements / (32.0 * std::max(1, copy_width(v.tile_columns(), v.dtype))));
}

double copies_of_tile(const ForwardVariant& v, Access access) {
  if (access == Access::kElementwise) return 100 * chunks_of_lane(v, access);
  if (access == Access::kVectors) return 17.5 * chunks_of_lane(v, access);
  if (access == Access::kDirectly) return 8.5 * v.tile;  // no copies, but reads or writes of every step
  if (access == Access::kWindows) return 17.5 * (chunks_of_lane(v, access) + 1);     // the last windows of rows besides
  return 25.5 * (chunks_of_lane(v, access) + (v.dtype == DType::kFloat32 ? 0 : 1));  // the last halves of rows besides
}

// B or C from the order they come in to that of the lanes.
double expansion(const ForwardVariant& v, ProjectionOrder order, Access access) {
  const double of_lane = v.dstate / 32.0;
  if (v.prepared || order == ProjectionOrder::kConstant || v.reads_in_place(order, access)) return 0;
  if (order == ProjectionOrder::kStrided) return 100 * of_lane;
  if (access == Access::kWords) return 46 * of_lane;
  if (access == Access::kWindows) return 20 * of_lane;
  if (order == ProjectionOrder::kStates && v.lanes * v.states == v.dstate && v.states % 4 == 0)
    return (v.lanes >= 4 ? 5 : 1) * of_lane;  // of few states the other warps hide it
  return 11 * of_lane;
}

// Softplus or gate, of the channels and steps that a lane has to itself.
double owned(const ForwardVariant& v) {
  return static_cast<double>(v.channels) / std::min<int>(v.lanes, v.channels * v.unroll);
}

// Reading rows that may begin in the middle of a word.
double shifted(const ForwardVariant& v) {
  if (v.u_access == Access::kWindows) return 23;
  return v.u_access == Access::kWords && v.dtype != DType::kFloat32 ? 19 : 0;
}

// Are all of these moved in vectors?
bool moves_vectors(const ForwardVariant& v) {
  return v.u_access == Access::kVectors && v.b_access == Access::kVectors && v.c_access == Access::kVectors;
}

// A step's share of what moves a tile.
double moving(const ForwardVariant& v) {
  double tile = copies_of_tile(v, v.u_access) + copies_of_tile(v, v.delta_access) + copies_of_tile(v, v.y_access);
  if (v.has_z) tile += copies_of_tile(v, v.z_access);
  return expansion(v, v.b_order, v.b_access) + expansion(v, v.c_order, v.c_access) + tile / v.tile;
}

// Channels, as far as a lane has them in common with others, which then add up or exchange something.
double shared_by_lanes(const ForwardVariant& v) { return v.channels * (1 - 1.0 / v.lanes); }

// All but what states take.
double besides_states(const ForwardVariant& v) {
  double step = 4.9 * shared_by_lanes(v) + v.channels * shifted(v);
  if (v.softplus) step += (v.tabulated ? 11 : 14) * owned(v) + (v.shares_inputs() ? 0 : 7 * shared_by_lanes(v));
  if (v.has_z) step += (v.tabulated ? 13 : 4) * owned(v);
  return step + moving(v);
}

// States, and what all lanes read of a step.
double of_states(const ForwardVariant& v) {
  const double states = static_cast<double>(v.channels) * v.states;
  const double loads = 2.0 * v.states / (v.states % 4 == 0 ? 4 : v.states % 2 == 0 ? 2 : 1);
  return 5 * states + 1.2 * loads + 12;
}

// What a step's states, softplus and gate take of the exponential unit.
double exponentials(const ForwardVariant& v) {
  double clocks = 8.0 * v.channels * v.states;
  if (v.softplus && !v.tabulated) clocks += 8 * owned(v);
  if (v.has_z && !v.tabulated) clocks += 12 * owned(v);
  return clocks;
}

constexpr double kOfTile = 225;  // waiting for its copies, its begin and end

// Of served.cu: tiles of 16 bits, twice as many steps as those of fp32, of channels that lanes share.
bool has_long_shared_tiles(const ForwardVariant& v) { return v.shares_inputs() && v.dtype != DType::kFloat32; }

// Of a warp that has a scheduler to itself, but for the one that serves it; that one keeps up unless it moves much.
double served_clocks_per_step(const ForwardVariant& v) {
  const bool shares_inputs = v.shares_inputs();  // which the other warp evaluates
  double instructions = of_states(v) + 4.9 * shared_by_lanes(v) + v.channels * shifted(v);
  if (shares_inputs) instructions -= 4 * v.channels;
  if (v.softplus && !shares_inputs) instructions += 14 * v.channels;
  if (v.has_z) instructions += shares_inputs ? 17 * owned(v) : 4 * v.channels;
  // Of more states than these the steps computed together are more instructions than stay close to the scheduler.
  constexpr int kClose = 8;
  const double scanner = (v.states * v.channels > kClose ? 2.05 : 1.85) * instructions;
  constexpr double kMade = 430, kMoved = 7, kFew = 9.4, kMovedOfMany = 2.5, kMovedOfLongTiles = 1.5;
  const double moves = moving(v);
  double server = kMade / v.tile;
  if (has_long_shared_tiles(v)) {
    server += kMovedOfLongTiles * moves;
  } else {
    server += kMoved * std::min(moves, kFew) + kMovedOfMany * std::max(0.0, moves - kFew);
  }
  if (shares_inputs) server += v.warp_channels() / 32.0 * (v.softplus ? 69 : 10);
  return std::max(scanner, server);
}

// Bytes that would take as long as what memory does besides for a row of a tile of y whose ends are other warps'
// sectors too: when one of them has written its part, memory reads the sector. Warps that have a scheduler each stay in
// step for long enough; those of rows that are cut do not, above all where shares of adjacent rows do not begin alike.
double written_in_parts(const ForwardVariant& v, Index rows, Index slots, Index sms) {
  const bool in_turns = v.warps > 1;  // in relay.cu tiles of a row follow one another at once
  if (v.y_access == Access::kWindows || (v.seq_contiguous && in_turns)) return 0;
  const double warps = static_cast<double>(slots) / (4.0 * static_cast<double>(sms));  // of a scheduler
  const double in_step = v.u_access == Access::kDirectly ? 2 : 1;                      // that stay in step
  return (!v.cut ? 100 : slots < 2 * rows ? 450 : 300) * std::clamp(warps - in_step, 0.0, 1.0);
}

// As a factor of all else. Warps that go abreast wait for one another twice a tile; those of shares of rows gain more
// where one alone would write less than a sector at once.
double waiting_abreast(const ForwardVariant& v) {
  if (v.abreast == 1) return 1;
  const bool is_narrow = v.cut && !v.seq_contiguous && v.tile_columns() * element_size(v.dtype) < kSectorBytes;
  if (is_narrow && !v.has_z) return 0.97;
  constexpr int kFew = 8;  // states, which wait for memory anyway
  return v.y_access == Access::kVectors && v.dstate <= kFew ? 1.08 : 1.12;
}

// Of what memory could do: less by short rows of few states, which memory holds up most.
double reached_of_memory(const ForwardVariant& v) {
  constexpr int kShort = 64, kFew = 8;
  if (v.abreast > 1) return 0.9;
  if (v.kernel() != ScanKernel::kForward || v.dstate > kFew) return 0.8;
  if (v.tile_columns() * element_size(v.dtype) > kShort) return 0.8;
  return v.seq_contiguous ? 0.65 : 0.7;
}

// Is no warp of a scheduler alone at the end? Of two in a block either is held up as long.
bool has_equal_warps(const ForwardVariant& v) { return v.together > 8; }

// As a factor of steps: what warps of one block gain over those of several, whose last ones are alone at the end. Of 10
// scans on an H200, three warps of a scheduler 0.94 to 0.96, four 0.91 to 0.95.
double of_equal_warps(const ForwardVariant& v) {
  constexpr int kThree = 12;
  return !has_equal_warps(v) ? 1 : v.together <= kThree ? 0.955 : 0.92;
}

// Of each row that is moved in windows, or piece of one: its last tile, which is hardly ever whole, and the first of
// the next one. Fitted to three scans on an H200, all of one lane.
double clocks_of_row(const ForwardVariant& v) { return v.u_access == Access::kWindows ? 13000.0 / v.lanes : 0; }

}  // namespace

double clocks_per_step(const ForwardVariant& v, int warps) {
  if (warps == 0) return 0;
  const double states = static_cast<double>(v.channels) * v.states;
  if (v.is_complex) return 100.0 / warps + warps * (38 * states + 55);  // counted, not fitted: complex_lane.cuh
  double instructions = of_states(v) + besides_states(v) + kOfTile / v.tile;
  if (v.lanes == 1 && states > 16) instructions *= 1.3;  // such steps cannot be unrolled as far
  return waiting_abreast(v) * together(1.58 * instructions, warps * exponentials(v), 1.02 * warps * instructions);
}

double carry_clocks_per_step(const ForwardVariant& v, int warps, double steps) {
  if (warps == 0) return 0;
  const double remembered = steps_remembered(v);
  const double alive = states_alive(v.dstate, steps, remembered) / v.lanes;
  const double running = std::min(1.0, remembered / steps);  // until the last state is forgotten
  const ForwardVariant carry = carry_variant(v);
  const double copies = (copies_of_tile(v, carry.u_access) + copies_of_tile(v, carry.delta_access)) / v.tile;
  const double clocks = v.channels * ((42 + copies + shifted(carry)) * running + 10.3 * alive);
  return std::min(together(1.5 * clocks, warps * clocks), warps * clocks_per_step(v, 1));
}

double clocks_uncut(const ForwardVariant& v, Index rows, int resident, Index seqlen, Index sms) {
  const auto step_of = [&](Index warps) {
    return of_equal_warps(v) * clocks_per_step(v, static_cast<int>(ceil_div(warps, 4)));
  };
  const Index of_sm = ceil_div(rows, sms * v.abreast) * v.abreast;
  const double per_step = in_waves(of_sm, resident, step_of);
  const double of_row = has_long_windows(v) && v.lanes == 1 ? clocks_of_row(v) : 0;
  return per_step * static_cast<double>(seqlen) + static_cast<double>(ceil_div(of_sm, resident)) * of_row + kStart;
}

// Fitted to 21 scans on an H100. Where rows run whole, those that are through make room for others one by one; here the
// more warps a scheduler has, the longer the last one is alone at the end, unless they are of one block. One that is
// alone from the begin waits for all by itself.
double clocks_wrapped(const ForwardVariant& v, Index rows, Index slots, int warps, Index seqlen) {
  constexpr double kAlone = 1.1, kOfWarp = 0.025;
  const double of_slot = static_cast<double>(rows) / static_cast<double>(slots);
  const double longer = warps == 1 ? kAlone : has_equal_warps(v) ? 1 : 1 + kOfWarp * warps;
  const double steps = longer * static_cast<double>(seqlen) * clocks_per_step(v, warps);
  return of_slot * (steps + kNextPiece) + (of_slot + 1) * clocks_of_row(v) + kStart + kClearingFlags;
}

double clocks_cut(const ForwardVariant& v, Index rows, Index slots, int warps, Index seqlen) {
  constexpr double kCarry = 300, kOfLargeBlock = 6000;
  const double tiles = static_cast<double>(rows) * static_cast<double>(ceil_div(seqlen, v.tile));
  const double steps = std::ceil(tiles / static_cast<double>(slots)) * v.tile;
  // Carries that a piece's first state is composed of, read one group after another, back to the row's begin or until
  // the last state is forgotten.
  const double carries =
      std::min(static_cast<double>(slots) / static_cast<double>(rows), 1 + steps_remembered(v) / steps);
  // Of words, one by one, both passes copy more than was fitted: 5, 7959, 1488 with 6 states took 821 us on an H200
  // where 566 were expected, and 3, 6001, 520 with 8 states 175 and 136.
  const bool copies_words =
      v.dtype == DType::kFloat32 && v.seq_contiguous && v.lanes == 1 && v.u_access == Access::kWords;
  const double of_step = of_equal_warps(v) * clocks_per_step(v, warps) + carry_clocks_per_step(v, warps, steps);
  return (copies_words ? 1.35 : 1) * steps * of_step + 2 * kStart + carries * kCarry +
         (v.together > 1 ? kOfLargeBlock : 0);
}

double clocks_served(const ForwardVariant& v, Index rows, Index slots, Index seqlen, Index sms) {
  constexpr double kOfTwo = 1.7;     // blocks at once, in the time of one
  constexpr double kWithMore = 1.1;  // where other kernels have enough warps too, and take less than the model says
  const Index enough = has_long_shared_tiles(v) ? 6 : 2;  // blocks
  const auto of = [&](Index blocks) { return blocks < 2 ? static_cast<double>(blocks) : kOfTwo; };
  if (v.wrapped) {  // fitted to 16 scans on an H100
    constexpr double kAllBusy = 1.07;
    const double of_slot = static_cast<double>(rows) / static_cast<double>(slots);
    const double steps = kAllBusy * static_cast<double>(seqlen) * of(v.min_blocks) * served_clocks_per_step(v);
    return of_slot * (steps + kNextPiece) + kStart + kClearingFlags;
  }
  const Index blocks = ceil_div(ceil_div(rows, Index{v.scan_slots()}), sms);
  const double rounds = in_waves(blocks, v.min_blocks, of) * (blocks > enough ? kWithMore : 1);
  return rounds * static_cast<double>(seqlen) * served_clocks_per_step(v) + kStart;
}

// The state comes round to a warp long before its next turn, so that handing on costs nothing besides. A block starts
// anew with its first tile; others that run meanwhile hide some of that.
double clocks_of_relay(const ForwardVariant& v, Index rows, int resident, Index seqlen, Index sms) {
  constexpr double kOfState = 9.2, kOfTurn = 66, kIdle = 2.4, kOnce = 10000;
  const double next_blocks = resident == 1 ? 3100 : 1400;
  const double states = static_cast<double>(v.channels) * v.states;
  // Measured; what holds them up is not known.
  const bool is_slow =
      v.seq_contiguous && v.dtype == DType::kFloat32 && v.u_access == Access::kVectors && v.tile >= 8 && v.states > 1;
  const double turn = (is_slow ? 1.2 : 1) * (v.tile * (kOfState * states + 0.55 * besides_states(v)) + kOfTurn);
  const auto round = [&](Index blocks) {  // in which every warp has a turn
    return blocks == 0 ? 0.0 : (static_cast<double>(blocks) * v.warps / 4 + kIdle) * turn;
  };
  const double rounds = static_cast<double>(ceil_div(ceil_div(seqlen, v.tile), v.warps));
  const Index blocks = ceil_div(rows, sms);
  const double starts = kOnce + next_blocks * static_cast<double>(ceil_div(blocks, resident) - 1);
  return starts + rounds * in_waves(blocks, resident, round);
}

// Servers make tiles ready, for each block its own, and schedulers take turns on those of all blocks. Fitted on an H200
// to 196 plans of 78 scans, 4.5 % off on average; then, for many states of a lane, whose steps are joined since
// (kJoined in relay_served.cu), to 38 more, 3 % off.
double clocks_of_relay_served(const ForwardVariant& v, Index rows, Index slots, int resident, Index seqlen, Index sms) {
  constexpr double kOnce = 7390, kOnceOfOption = 1046, kNextBlocks = 1300;
  constexpr double kNextRound = 4150, kNextRoundAlone = 2000, kNextRoundOfStep = 119;
  constexpr double kOfTile = 656, kElement = 14;
  constexpr double kOwned = 66.5, kOwnedOfMany = 105, kOwnedByStep = 20.4, kOfOption = 25.4;  // of a step and channel
  constexpr double kOfTurnOfFew = 610, kOfTurnOfMany = 802, kOfTurnOption = 45;
  constexpr double kUnaligned = 1315, kUnalignedChannels = 1400, kUnalignedFp32 = 1080, kOnceUnaligned = 2000;
  const bool is_many = v.states > 4, is_by_step = v.serves_by_step();
  const int options = is_many ? v.softplus + v.has_z : 0;
  const double of_turn = (is_many ? kOfTurnOfMany : kOfTurnOfFew) + kOfTurnOption * options;
  const double next_round = resident == 1 ? kNextRoundAlone + kNextRoundOfStep * v.tile : kNextRound;
  const double expanding = 2 * v.tile / 32.0 * v.dstate * kElement;
  const double own = static_cast<double>(v.tile) / v.lanes;  // steps of a channel that a lane of a server has
  const double owned = is_by_step ? kOwnedByStep : is_many ? kOwnedOfMany : kOwned;
  const double unaligned = moves_vectors(v)             ? 0
                           : v.seq_contiguous           ? kUnaligned
                           : v.dtype == DType::kFloat32 ? kUnalignedFp32
                                                        : kUnalignedChannels;
  const double tile = (is_many && !is_by_step ? 0 : kOfTile) + unaligned + expanding +
                      own * (owned + kOfOption * v.softplus + kOfOption * v.has_z);
  const double server = tile / v.tiles_apart(), turns = of_turn / 4 * v.tile / v.unroll;
  const auto round = [&](Index blocks) {
    if (blocks == 0) return 0.0;
    const auto all = static_cast<double>(blocks);
    return together(server * (0.98 + 0.02 * all), turns * all);
  };
  const Index blocks = ceil_div(slots, sms);
  const auto more = static_cast<double>(std::min<Index>(blocks, resident) - 1);  // that start at once
  const double starts =
      kOnce + kOnceOfOption * options + (moves_vectors(v) ? 0 : kOnceUnaligned) + kNextBlocks * more * more;
  const auto tiles = static_cast<double>(ceil_div(seqlen, v.tile));
  if (v.wrapped) {
    constexpr double kAllBusy = 1.05;  // multiprocessors. Fitted to 23 scans on an H200, 4 % off

    const double of_slot = static_cast<double>(rows) / static_cast<double>(slots);
    return kClearingFlags + starts + kAllBusy * (next_round * of_slot + tiles * of_slot * round(blocks));
  }
  const double rounds = static_cast<double>(ceil_div(blocks, resident) - 1);
  return starts + next_round * rounds + tiles * in_waves(blocks, resident, round);
}

// Fitted to 12 scans on an H200. Rounds of carries wait more than they compute, whatever the options.
double clocks_of_relay_served_cut(const ForwardVariant& v, Index rows, Index slots, int resident, Index seqlen,
                                  Index sms) {
  constexpr double kAllBusy = 1.09, kCarryOnce = 7000, kCarryOfStep = 17, kUnaligned = 6, kComposing = 6000;
  constexpr double kOfNextRow = 5000;  // where slots begin in one row and end in another
  const Index tiles = ceil_div(rows * ceil_div(seqlen, v.tile), slots), steps = tiles * v.tile;
  const Index round = Index{carry_variant(v).warps} * v.tile;
  const Index remembered = ceil_div(static_cast<Index>(steps_remembered(v)), round) * round;
  const double carries = kCarryOnce + static_cast<double>(std::min(steps, remembered)) *
                                          (kCarryOfStep + (moves_vectors(v) ? 0 : kUnaligned));
  return kAllBusy * clocks_of_relay_served(v, slots, slots, resident, steps, sms) + carries + kComposing +
         (slots % rows == 0 ? 0 : kOfNextRow);
}

// Fitted to 20 scans on an H200.
double clocks_of_whole_rows(const ForwardVariant& v, Index rows, int resident, Index seqlen, Index sms) {
  constexpr double kOnce = 7000;                   // a launch
  constexpr double kOfRow = 500, kFewestRows = 8;  // a row's copies and the states of a lane, at least of so many rows
  constexpr int kFew = 4;                          // states, whose steps have more in parallel
  const double states = v.states, vectors = 2.0 / v.row_vector;
  double step = 5 * states + 8 + 3 * vectors;
  if (v.softplus) step += 14;
  if (v.has_z) step += 6 + vectors;
  const double alone = (v.states > kFew ? 2.2 : 1.58) * step;
  const auto row_of = [&](Index warps) {  // that a multiprocessor has at a time
    if (warps == 0) return 0.0;
    const double each = std::ceil(static_cast<double>(warps) / 4);
    const double of_step = together(alone, each * exponentials(v), 1.02 * each * step);
    return static_cast<double>(seqlen) * of_step + kOfRow * std::max(kFewestRows, each);
  };
  constexpr double kInParts = 1.15;  // copies that are not made in bulk
  return (v.bulk ? 1 : kInParts) * in_waves(ceil_div(rows, sms), resident, row_of) + kOnce;
}

double clocks_in_segments(const ForwardVariant& v, Index slots, int resident, Index steps, Index sms) {
  const auto carries_of = [&](Index warps) {
    return carry_clocks_per_step(v, static_cast<int>(ceil_div(warps, 4)), static_cast<double>(steps));
  };
  const double carries = in_waves(ceil_div(slots, sms), resident, carries_of);
  return clocks_uncut(v, slots, resident, steps, sms) + static_cast<double>(steps) * carries + 2 * kNextLaunch;
}

double clocks_of_memory(const ForwardVariant& v, bool fills_sectors, Index rows, Index slots, Index seqlen,
                        const DeviceMemory& memory) {
  if (memory.bytes_per_clock <= 0) return 0;
  const int tensors = v.has_z ? 4 : 3, element = element_size(v.dtype);
  double bytes = tensors * element * v.tile_columns();  // of a row of the tile
  if (!fills_sectors)
    bytes += (tensors * (kSectorBytes - element) + written_in_parts(v, rows, slots, memory.sms)) / v.abreast;
  const double steps = static_cast<double>(rows) * static_cast<double>(seqlen);
  return bytes * v.tile_rows() / v.tile * steps / (reached_of_memory(v) * memory.bytes_per_clock);
}

double bounded_by_memory(double clocks, double memory) {
  return std::sqrt(std::hypot(clocks * clocks, memory * memory));
}

// Elements are read and fp32 numbers written: 580 bytes a clock where 132 multiprocessors share the memory.
double clocks_to_prepare(const ForwardVariant& v, double floats, int sm_count) {
  constexpr double kBytesPerClock = 580.0 / 132;  // of a multiprocessor
  const double bytes = 2 * floats * (4 + (v.dtype == DType::kFloat32 ? 4 : 2));
  return kNextLaunch + bytes / (kBytesPerClock * std::max(sm_count, 1));
}

}  // namespace mamba_scan::ops
