#include "ops/cost_model.h"

#include <algorithm>
#include <cmath>

namespace mamba_scan::ops {
namespace {

Index ceil_div(Index value, Index divisor) { return (value + divisor - 1) / divisor; }

// 1/1 + 1/2 + ... + 1/n
double harmonic(double n) { return n < 1 ? 0 : std::log(n) + 0.5772 + 1 / (2 * n); }

// How many of the states count on average over the last `steps` steps. At Mamba's own initialisation (delta about
// 0.0215, A = -1 .. -N) state n has decayed below 2^-32 after 22 / (0.0215 n) steps.
double states_alive(double dstate, double steps) {
  const double remembered = 1030 / steps;  // share of the steps that state 1 counts for; state n, an n-th of it
  const double always = std::min(std::floor(remembered), dstate);
  return always + remembered * (harmonic(dstate) - harmonic(always));
}

constexpr double kNextLaunch = 8000;  // about 4 us: its start, its cold instructions
// Of B or C of 16 states, a step of one warp: what it takes to bring them to shared memory as fp32, less what it takes
// to copy them when that is prepared. Measured on an H100 for vectors and words.
double clocks_to_expand(const ForwardVariant& v, ProjectionOrder order, Access access) {
  if (order == ProjectionOrder::kStrided) return 50;
  if (access == Access::kWords) return 24;
  if (order == ProjectionOrder::kSteps) return 4.5;
  if (v.lanes * v.states != v.dstate || v.states % 4 != 0) return 4;  // states go to places of their own, one by one
  return v.lanes >= 4 ? 1.25 : 0.5;                                   // of few states the other warps hide it
}

constexpr double kPiece = 3000;  // of a warp, in both kernels: rates, pointers, first copies
constexpr double kCarry = 350;   // 1 x 1024 x 256 of 32 slots a row takes 19.5 us

}  // namespace

// The exponential unit takes 8 clocks per state of a lane and reaches 87 % of that; issue slots bind when a lane has
// few states, sums over lanes taking some of them; what a step waits for is hidden by other warps only.
double clocks_per_step(const ForwardVariant& v, int warps) {
  if (warps == 0) return 0;
  const double states = static_cast<double>(v.channels) * v.states;
  if (v.is_complex) return 100.0 / warps + warps * (38 * states + 55);  // counted, not fitted: complex_lane.cuh
  return (40 + 3 * states) / warps +
         warps * std::max(9.2 * states, v.lanes > 1 ? 7 * states + 10 + 14 * std::log2(v.lanes) : 5.6 * states + 20);
}

// Measured with two warps of 1 x 16 x 1: 84 clocks per warp with 3.5 states alive, 45 with one; where lanes share a
// channel, about 10 more. With all states alive no slower than the forward pass, which does more.
double carry_clocks_per_step(const ForwardVariant& v, int warps, double steps) {
  const double alive = states_alive(v.dstate, steps) / v.lanes;
  const double running = std::min(1.0, 1030 / steps);  // until the last state is forgotten
  const double of_step = v.lanes > 1 ? 40 : 30;
  return warps * std::min(v.channels * (of_step * running + 15.6 * alive), clocks_per_step(v, 1));
}

double clocks_uncut(const ForwardVariant& v, Index rows, int resident, Index seqlen, Index schedulers) {
  const Index per_scheduler = ceil_div(rows, schedulers);
  const double waves = static_cast<double>(per_scheduler / resident);
  const double per_step =
      waves * clocks_per_step(v, resident) + clocks_per_step(v, static_cast<int>(per_scheduler % resident));
  return per_step * static_cast<double>(seqlen);
}

double clocks_cut(const ForwardVariant& v, Index rows, Index slots, int warps, Index seqlen) {
  const double tiles = static_cast<double>(rows) * static_cast<double>(ceil_div(seqlen, v.tile));
  const double steps = std::ceil(tiles / static_cast<double>(slots)) * v.tile;
  // Carries that a piece's first state is composed of, read one group after another, back to the row's begin or until
  // the last state is forgotten.
  const double carries = std::min(static_cast<double>(slots) / static_cast<double>(rows), 1 + 1030 / steps);
  return steps * (clocks_per_step(v, warps) + carry_clocks_per_step(v, warps, steps)) + kNextLaunch + warps * kPiece +
         carries * kCarry;
}

// Instructions bind: of a step 7.5 for each state and 15 for the rest, of a turn 150 for copies, expanding, handing on
// and storing. A scheduler with w warps issues in w / (w + 1.3) of its clocks. The state comes round to a warp long
// before its next turn, so that handing on costs nothing besides. 11000 clocks pass before the first turn and at the
// end.
double clocks_of_relay(const ForwardVariant& v, Index rows, int resident, Index seqlen, Index sms) {
  constexpr double kExponential = 8, kOfState = 7.5, kOfStep = 15, kOfTurn = 150, kIdle = 1.3, kOnce = 11000;
  const double states = static_cast<double>(v.channels) * v.states;
  const double turn = v.tile * std::max(kExponential * states, kOfState * states + kOfStep) + kOfTurn;
  const auto round = [&](Index blocks) {  // in which every warp has a turn
    return blocks == 0 ? 0.0 : (static_cast<double>(blocks) * v.warps / 4 + kIdle) * turn;
  };
  const Index of_sm = ceil_div(rows, sms), tiles = ceil_div(seqlen, v.tile);
  const double rounds = static_cast<double>(ceil_div(tiles, v.warps));
  return kOnce + rounds * (static_cast<double>(of_sm / resident) * round(resident) + round(of_sm % resident));
}

double clocks_in_segments(const ForwardVariant& v, Index slots, int resident, Index steps, Index schedulers) {
  const Index warps = ceil_div(slots, schedulers);
  const int together = static_cast<int>(std::min<Index>(warps, resident));
  const double carries = carry_clocks_per_step(v, together, static_cast<double>(steps)) / together;
  return clocks_uncut(v, slots, resident, steps, schedulers) +
         static_cast<double>(warps) * (static_cast<double>(steps) * carries + kPiece) + 2 * kNextLaunch;
}

// Nothing is added for the carries, which forget most steps.
double clocks_saved_by_preparing(const ForwardVariant& v, double warps, double steps) {
  const double each = clocks_to_expand(v, v.b_order, v.b_access) + clocks_to_expand(v, v.c_order, v.c_access);
  return warps * steps * each * v.dstate / 16;
}

// Bound by memory: elements are read and fp32 numbers written, at about 2.5 TB/s where 132 multiprocessors share it,
// less some for its begin and end: 1024 bytes a clock.
double clocks_to_prepare(const ForwardVariant& v, double floats, int sm_count) {
  constexpr double kBytesPerClock = 1024.0 / 132;  // of a multiprocessor
  const double bytes = 2 * floats * (4 + (v.dtype == DType::kFloat32 ? 4 : 2));
  return kNextLaunch + bytes / (kBytesPerClock * std::max(sm_count, 1));
}

}  // namespace mamba_scan::ops
