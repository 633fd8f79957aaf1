// Selective scan, forward, of few and short sequences: relay.cu, whose warps take turns on one row, with others that
// bring them what they need. In relay.cu more than a third of a turn's instructions copy a few steps, expand B and C,
// evaluate delta, add up over lanes and store; a warp that does that for several turns at once needs a third of them.
//
// Grid: a block for every row (batch, group, channels of a warp) or, with MS_WRAPPED or MS_CUT, for every slot: a range
// of rows that may begin and end inside one (forward_params.h). Block: MS_WARPS warps that scan and kServers that serve
// them, in turns. A tile holds the steps of kGroups turns; it is in one of kSlots slots until all are over:
//
//   server   await t, done(t - kSlots) | sums, gate, stores of t - kSlots | B, C, delta, u of t | ready(t) | copy ahead
//   scanner  ready(t) | decays and inputs of a turn | wait, take its steps, hand on | outputs | done(t)
//
// ready and done are events; a tile is done when all of its turns are. relay.cu sums up what a turn makes of any state,
// so that handing on takes one fma. Here turns are short, and of many states only some steps are joined (kJoined).
//
// Measured on an H200, a block of 8 warps that scan 16 channels, 8 states of a lane, and 4 that serve them; 1, 1024,
// 2048 in us, fp16 without options:
//
//   sums of turns, the row's A read once a turn                                      21.4
//   steps taken, servers' copies before what they need of the row                    19.3
//   A in registers, inputs and outputs by step (kByStep), not by channel             18.3
//   steps joined by four                                                             17.7
//
// and on another one, with 1, 16384, 768 beside it:
//
//   the same                                                                         18.0  107.1
//   two joined, states handed on before all else, the next tile looked for ahead     18.0  104.1
//   a tile served in 195 instructions rather than 245                                17.3  102.9
//
// Before the last of these a step took 27.1 clocks, in which a scheduler issued 18 instructions and the exponential
// unit was busy for 16. No one thing binds it: without waiting for one another the warps took 26.9, reading B and C
// once a turn 26.1, without exponentials no less, but without what servers do 23.5; their copies are 1.2 of it, what
// they make ready 2.2. Of no use: two channels of a lane and half of their states; twice as many warps with half of a
// lane's states each (29.4: more instructions) or half of the channels (B and C are read twice as often); addresses
// kept in registers from turn to turn; one turn's outputs summed up among the next one's exponentials (20.5: what a
// warp holds of the next tile is missing to the servers).
//
// Fewer rows than multiprocessors are cut in time. A block then has its first turn after 5400 clocks, and where its
// slot goes on in another row, 4100 pass between the last turn of the one and the first of the other.
//
// Constants: see warp_tile.cuh. MS_UNROLL steps are a turn. MS_SHARED_BYTES is the dynamic shared memory that the
// launch provides. Real states that one launch holds, of one channel of a lane, two lanes or more to a channel; B and C
// that vary; sequences that are neither packed nor empty.
#include "selective_scan/compose_state.cuh"
#include "selective_scan/lane.cuh"
#include "selective_scan/relay_turn.cuh"
#include "selective_scan/tile_copy.cuh"
#include "selective_scan/tile_outputs.cuh"
#include "selective_scan/tile_values.cuh"
#include "selective_scan/wrapped.cuh"

namespace mamba_scan {
namespace {

static_assert(kServed && kWarps > 1 && kSharesInputs && kChannels == 1, "left to relay.cu");
static_assert(!MS_COMPLEX && !MS_INVARIANT && !MS_PACKED && !MS_SLICE && !kBConstant && !kCConstant && !kReadsRawB &&
                  !kReadsRawC,
              "left to forward.cu and relay.cu");

// Does a block scan pieces of rows, one after another, rather than a row?
constexpr bool kInPieces = kWrapped || MS_CUT;

constexpr int kGroups = kTile / kSteps;  // turns of a tile
constexpr int kServers = kTilesApart;
constexpr int kSlots = 2 * kServers;
constexpr int kHeldStages = kSlots / kServers - 1;  // u and z of a server's tile are needed until its outputs are there
static_assert(kStages > 1 + kHeldStages, "a tile is copied while others are in use");
static_assert(kSteps % 4 == 0, "a lane leaves its shares of y in vectors");

// Where channels are adjacent and lie in shared memory in vectors, however they are shifted in these, a serving lane
// has adjacent channels of one step, which it reads together, rather than steps of one channel.
constexpr int kAdjacent = 8;  // channels
template <int ACCESS>
constexpr bool kInVectors = ACCESS == kVectors || ACCESS == kWindows || (ACCESS == kWords && !kShifted<ACCESS>);
constexpr bool kByStep = !kSeqContiguous && kInVectors<MS_U_ACCESS> && kInVectors<MS_DELTA_ACCESS> &&
                         (!MS_HAS_Z || kInVectors<MS_Z_ACCESS>) && (MS_Y_ACCESS == kVectors || MS_Y_ACCESS == kWords) &&
                         kWarpChannels % kAdjacent == 0 && kWarpChannels <= 2 * kAdjacent &&
                         kTile * kWarpChannels % (32 * kAdjacent) == 0;
constexpr int kStepsAtOnce = 32 * kAdjacent / kWarpChannels;

// Shares of y of a tile: by step those of all lanes, so far apart that what is read together lies in different banks;
// or else of every lane those of four steps, in vectors.
constexpr int kSharesPitch = kSeqContiguous ? 32 : 32 + kLanes;

struct __align__(16) Shares {
  float of_step[4];
};

struct __align__(16) Slot {
  ExpandedTile expanded;
  StepInputs inputs[kTileInputs];
  __align__(16) float shares[kTile * kSharesPitch];
};

struct __align__(16) Block {
  Shared shared[kServers];
  Slot slot[kSlots];
  __align__(16) float handed[kWarps][kHeld * 32];  // to warp w: the state that its next turn begins with
  __align__(16) float A[kHeld * 32];
  __align__(16) Piece piece;  // where there are several, for the scanning warps, which have no registers for it
  Event ready[kSlots], done[kSlots];
};
static_assert(sizeof(Block) == MS_SHARED_BYTES, "the plan has counted otherwise");

// Tiles of the piece at hand.
__device__ __forceinline__ int tiles_of_piece(const SelectiveScanForwardParams& params, const Block& block) {
  return kInPieces ? block.piece.end - block.piece.begin : params.tiles_per_row;
}

// Until what either kind of warp does first is done.
__device__ __forceinline__ void wait_for_block() { barrier_wait<32 * (kWarps + kServers)>(0); }

// Until nobody needs what belongs to the piece any more. Some may still hand states on, by the barriers of less than
// this number.
__device__ __forceinline__ void leave_piece() { barrier_wait<32 * (kWarps + kServers)>(kWarps); }

// ---- the scanning warps ----

// What scanning warps do before anyone waits for them: the first, what the piece starts from, which it reads while
// others are still busy with the piece before; the second, what servers need. first: of the block's pieces.
__device__ __forceinline__ void enter_piece(const SelectiveScanForwardParams& params, const Piece& piece, bool first,
                                            Block& block, int warp, LaneId id) {
  const SelectiveScanProblem& p = params.problem;
  States A;
  Lane self;
  if (kInPieces)
    set_zero(A), set_zero(self.state);  // what only some warps set would live in all of them, from piece to piece
  if (warp == 0) {
    const Row& row = piece.row;
    load_decay_rates(p, row, id, A);
    if (kWrapped && piece.begin > 0) {
      await_state(params, static_cast<int>(blockIdx.x), id, self.state);
    } else if (MS_CUT && piece.begin > 0) {
#pragma unroll
      for (int s = 0; s < kStates; ++s) self.rate[0][s] = A[0][s];
      compose_state(params, piece, 0, row.batch, id, self);
    } else {
      start_state(p, row, row.batch, id, self);
    }
  }
  if (!first) leave_piece();
  if (warp == 0) {
    write_handed(block.A, id, A);
    write_handed(block.handed[0], id, self.state);
  } else if (warp == 1) {
    if (id.lane == 0) {
      if (kInPieces) block.piece = piece;
#pragma unroll
      for (int i = 0; i < kSlots; ++i) {
        if (!first) event_end(block.ready[i]), event_end(block.done[i]);
        event_init(block.ready[i], 1), event_init(block.done[i], kGroups);
      }
    }
#pragma unroll
    for (int i = 0; i < kSlots; ++i) clear_padding(block.slot[i].expanded, id.lane);
  }
}

// Has a scheduler but two warps that scan, which hide little of what each other waits for? Of few states there are
// more.
constexpr bool kIsAlone = kStates > 4;

// B or C of a turn, for the lane's states. at: place of the first of them, of which the compiler knows nothing, and so
// adds up the address once, not for every step.
__device__ __forceinline__ void read_step(const float* projection, int at, int t, float (&to)[kStates]) {
  read_states(projection + at + t * kPaddedStates, 0, 0, to);
}

// The last steps of a turn are joined while they are evaluated: what they make of the state before them is known before
// the wait, and fewer fmas stand between waiting and handing on. Each state of each of them takes two more
// instructions, so no more than two steps are.
constexpr int kJoined = kIsAlone ? 2 : 1;
constexpr int kFirstJoined = kSteps - kJoined;
static_assert(kFirstJoined > 0, "a step comes before those that are joined");

// Until it is known what the turn begins with, the state after a joined step is decay * before + state, `before` being
// the state before them all, and after any other the same of the step before it; then it is `state`.
struct Steps {
  States decay[kSteps];
  States state[kSteps];
};

__device__ __forceinline__ void evaluate_steps(const States& A, const Slot& slot, int at, const Inputs& inputs,
                                               Steps& steps) {
#pragma unroll
  for (int t = 0; t < kSteps; ++t) {
    float B[kStates];
    read_step(slot.expanded.B, at, t, B);
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      steps.decay[t][0][s] = exp2_fast(inputs.delta[t][0] * A[0][s]);
      steps.state[t][0][s] = inputs.delta_u[t][0] * B[s];
      if (t <= kFirstJoined) continue;
      steps.state[t][0][s] += steps.decay[t][0][s] * steps.state[t - 1][0][s];
      steps.decay[t][0][s] *= steps.decay[t - 1][0][s];
    }
  }
}

// From the state before the turn to the one after it, and those after the steps that are not joined.
__device__ __forceinline__ void pass_steps(const States& before, Steps& steps) {
#pragma unroll
  for (int t = 0; t < kFirstJoined; ++t)
#pragma unroll
    for (int s = 0; s < kStates; ++s)
      steps.state[t][0][s] += steps.decay[t][0][s] * (t == 0 ? before[0][s] : steps.state[t - 1][0][s]);
#pragma unroll
  for (int s = 0; s < kStates; ++s)
    steps.state[kSteps - 1][0][s] += steps.decay[kSteps - 1][0][s] * steps.state[kFirstJoined - 1][0][s];
}

// After that, to those after all other steps.
__device__ __forceinline__ void fill_steps(Steps& steps) {
#pragma unroll
  for (int t = kFirstJoined; t < kSteps - 1; ++t)
#pragma unroll
    for (int s = 0; s < kStates; ++s)
      steps.state[t][0][s] += steps.decay[t][0][s] * steps.state[kFirstJoined - 1][0][s];
}

// Waits for the state that the turn begins with, hands on the state that it ends with, and takes the steps. This is
// what all turns of a row wait for, one after another, so it stands in a loop of a single round: the compiler moves
// nothing into a loop, and would do part of what comes before it after the wait, and of what comes after it before
// handing on. The first and the last turn are no exceptions (announce_first(), await_last()).
__device__ __forceinline__ void take_steps(const SelectiveScanForwardParams& params, Block& block, int warp, LaneId id,
                                           Steps& steps) {
  const int next = (warp + 1) % kWarps;
#pragma unroll 1
  do {
    barrier_wait<kOfTwoWarps>(warp);
    States before;
    read_handed(block.handed[warp], id, before);
    pass_steps(before, steps);
    write_handed(block.handed[next], id, steps.state[kSteps - 1]);
    barrier_arrive<kOfTwoWarps>(next);
  } while (params.segment_tiles != 0);  // never: there are no segments
  fill_steps(steps);
}

// y before the gate, of every lane its share.
__device__ __forceinline__ void leave_shares(Slot& slot, const Steps& steps, int first, int at, LaneId id) {
  constexpr int kTogether = kIsAlone ? kSteps : 4;  // before they are stored: what is read after that waits
  float* by_step = slot.shares + first * kSharesPitch + id.lane;
  auto* of_four = reinterpret_cast<Shares*>(slot.shares) + first / 4 * 32 + id.lane;
#pragma unroll
  for (int base = 0; base < kSteps; base += kTogether) {
    Shares sums[kTogether / 4] = {};
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      float C[kStates];
      read_step(slot.expanded.C, at, base + k, C);
#pragma unroll
      for (int s = 0; s < kStates; ++s) sums[k / 4].of_step[k % 4] += steps.state[base + k][0][s] * C[s];
    }
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if constexpr (kByStep) {
        by_step[(base + k) * kSharesPitch] = sums[k / 4].of_step[k % 4];
      } else if (k % 4 == 0) {
        of_four[(base + k) / 4 * 32] = sums[k / 4];
      }
    }
  }
}

// From the state after the last turn.
__device__ __forceinline__ void leave_row(const SelectiveScanForwardParams& params, const Block& block, int warp,
                                          LaneId id) {
  Lane self;
  read_handed(block.handed[warp], id, self.state);
  if (!kInPieces) {
    store_state(params.problem, block.shared[0], id, self);
  } else if (block.piece.end == params.tiles_per_row) {
    store_state(params.problem, block.piece.row, block.piece.row.batch, id, self);
  } else if (kWrapped) {
    leave_state(params, static_cast<int>(blockIdx.x), id, self.state);
  }
}

__device__ __forceinline__ void scan(const SelectiveScanForwardParams& params, Block& block) {
  const int thread = static_cast<int>(threadIdx.x);
  const auto turns = [&] { return static_cast<unsigned>(tiles_of_piece(params, block)) * kGroups; };
  announce_first(thread / 32);
  States A;
  read_handed(block.A, lane_id(), A);
  unsigned turn = threadIdx.x / 32, all = turns();
  bool is_ready = false;
  while (turn < all) {
    const unsigned warp = static_cast<unsigned>(opaque(thread)) / 32;
    const LaneId id = lane_id(lane_anew(thread));
    const unsigned tile = turn / kGroups;
    const int first = static_cast<int>(turn % kGroups * kSteps);
    const int at = opaque(first * kPaddedStates + place_of_state(id.part, 0));
    Slot& slot = block.slot[tile % kSlots];
    if (!is_ready) event_wait(block.ready[tile % kSlots], tile / kSlots % 2);
    Steps steps;
    {
      Inputs inputs;
      read_inputs(slot.inputs + opaque(first / 2), 0, id, inputs);
      evaluate_steps(A, slot, at, inputs, steps);
    }
    take_steps(params, block, static_cast<int>(warp), id, steps);
    turn += kWarps;
    if constexpr (kIsAlone) {  // what the next turn begins with, as long as there is something else to do
      all = turns();
      is_ready = event_happened(block.ready[turn / kGroups % kSlots], turn / kGroups / kSlots % 2);
    }
    leave_shares(slot, steps, first, at, id);
    __syncwarp();
    if (id.lane == 0) event_signal(block.done[tile % kSlots]);
    if constexpr (!kIsAlone) all = turns();
  }
  // Anew, so that no registers keep them all the while.
  const int warp = static_cast<int>(static_cast<unsigned>(opaque(thread)) / 32);
  const bool is_last = await_last(warp, turns());
  if ((kWrapped || MS_HAS_FINAL) && is_last) leave_row(params, block, warp, lane_id(lane_anew(thread)));
}

// ---- the serving warps ----

// Lanes that read together read from different banks: which lanes' shares one adds up first.
__device__ __forceinline__ int first_part(LaneId id) {
  constexpr int kQuadsOfBanks = kLanes < 8 ? 8 / kLanes : 1;
  return (id.quad / kQuadsOfBanks * (kSteps / 4) + id.first_step / 4) % kLanes;
}

// y of the group from step `first` on, before the gate: the sums over lanes, of the steps that the lane owns.
__device__ __forceinline__ void add_lanes(const Slot& slot, int first, LaneId id, Outputs& y) {
  const int rotation = first_part(id);
  constexpr int kTogether = kOwnedSteps < 4 ? kOwnedSteps : 4;
#pragma unroll
  for (int t = 0; t < kOwnedSteps; ++t) y[0][t] = 0.0f;
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    const int lane = id.quad * kLanes + (i ^ rotation);
#pragma unroll
    for (int t = 0; t < kOwnedSteps; t += kTogether) {
      const int four = first / 4 + (id.first_step + t) / 4;  // steps; first is a multiple of it
      float some[kTogether];
      read_floats(slot.shares + (four * 32 + lane) * 4 + (id.first_step + t) % 4, some);
#pragma unroll
      for (int k = 0; k < kTogether; ++k) y[0][t + k] += some[k];
    }
  }
}

struct StepLane {
  int step, channel;  // its first ones

  // Lanes that write together have 16 different steps, and those that read together lie in different banks: of 16-bit
  // elements, four steps of both halves of the channels, or in windows, whose rows are longer, eight of one half.
  explicit __device__ __forceinline__ StepLane(int lane) {
    if constexpr (kWarpChannels == kAdjacent) {
      step = lane, channel = 0;
    } else {
      step = lane % 16, channel = (lane / 16 ^ (MS_U_ACCESS == kVectors ? lane / 4 & 1 : 0)) * kAdjacent;
    }
    // Of bits that are known to be zero the compiler makes use, and adds up every address by itself.
    step = opaque(step), channel = opaque(channel);
  }
};

// What a lane keeps of its channels, and of its steps, which in all tiles are shifted alike.
struct OfChannels {
  StepLane at;
  float bias[kAdjacent], D[kAdjacent];
  int u_shift, delta_shift, z_shift;

  explicit __device__ __forceinline__ OfChannels(int lane) : at(lane) {}

  __device__ __forceinline__ void load(const SelectiveScanProblem& p, const Row& row) {
    u_shift = shift_of<MS_U_ACCESS>(p.u, row, {}).of_step(at.step);
    delta_shift = shift_of<MS_DELTA_ACCESS>(p.delta, row, {}).of_step(at.step);
    z_shift = shift_of<MS_Z_ACCESS>(p.z, row, {}).of_step(at.step);
    const int first = at.channel;
#pragma unroll
    for (int i = 0; i < kAdjacent; ++i) {
      const bool exists = first + i < row.channels;
      const int channel = row.first_channel + first + i;
      bias[i] = MS_HAS_BIAS && exists ? p.delta_bias[channel] : 0.0f;
      D[i] = MS_HAS_D && exists ? p.D[channel] : 0.0f;
    }
  }
};

// A lane's channels at one of its steps.
template <int ACCESS>
__device__ __forceinline__ Elements<kAdjacent> read_channels(const Element* tile, int step, int first, int shift) {
  static_assert(!kShifted<ACCESS> || kStepsAtOnce % kShifts<ACCESS> == 0, "a lane's steps are shifted alike");
  return read_row<ACCESS, kAdjacent>(tile + step * kPitch<ACCESS>, first, shift);
}

__device__ __forceinline__ void make_inputs_by_step(const Stage& stage, int existing, const OfChannels& of_channels,
                                                    StepInputs* to) {
  const StepLane& at = of_channels.at;
#pragma unroll
  for (int first = 0; first < kTile; first += kStepsAtOnce) {
    const int step = first + at.step;
    const auto raw_delta = read_channels<MS_DELTA_ACCESS>(stage.delta, step, at.channel, of_channels.delta_shift);
    const auto raw_u = read_channels<MS_U_ACCESS>(stage.u, step, at.channel, of_channels.u_shift);
#pragma unroll
    for (int i = 0; i < kAdjacent; ++i) {
      const float delta = delta_of(to_float(raw_delta.value[i]), of_channels.bias[i], step < existing);
      to[(at.channel + i) * kInputsPitch + step / 2].of_step[step % 2] = {delta * kDeltaFactor,
                                                                          delta * to_float(raw_u.value[i])};
    }
  }
}

// Adjacent outputs. Of 16-bit ones that are moved in words, the first may be the second half of one.
__device__ __forceinline__ void store_channels(char* to, const Elements<kAdjacent>& outputs) {
  if constexpr (MS_Y_ACCESS == kVectors) {
#pragma unroll
    for (int i = 0; i < kAdjacent; i += kChunkElements) store_global<16>(to + i * kElementBytes, &outputs.value[i]);
  } else if constexpr (kElementBytes == 4) {
#pragma unroll
    for (int i = 0; i < kAdjacent; ++i) store_global<4>(to + i * kElementBytes, &outputs.value[i]);
  } else {
    constexpr int kWords = kAdjacent / 2;
    unsigned words[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = reinterpret_cast<const unsigned*>(&outputs)[i];
    const bool is_odd = is_second_half(to);
    char* const first = to + is_odd * kElementBytes;  // whole word
#pragma unroll
    for (int i = 0; i + 1 < kWords; ++i) {
      const unsigned word = __funnelshift_r(words[i], words[i + 1], is_odd ? 16 : 0);
      store_global<4>(first + 4 * i, &word);
    }
    if (is_odd) {
      store_global<2>(to, &outputs.value[0]);
      store_global<2>(to + (kAdjacent - 1) * kElementBytes, &outputs.value[kAdjacent - 1]);
    } else {
      store_global<4>(to + 4 * (kWords - 1), &words[kWords - 1]);
    }
  }
}

// Stores a tile's outputs, of the steps that exist. y: where the lane's first one lies.
__device__ __forceinline__ void store_by_step(const SelectiveScanProblem& p, const Row& row, int existing,
                                              const OfChannels& of_channels, const Slot& slot, const Stage& stage,
                                              char* y) {
  const StepLane& at = of_channels.at;
#pragma unroll
  for (int first = 0; first < kTile; first += kStepsAtOnce) {
    const int step = first + at.step;
    float outputs[kAdjacent];
#pragma unroll
    for (int i = 0; i < kAdjacent; ++i) {
      float shares[kLanes];
      read_floats(slot.shares + step * kSharesPitch + (at.channel + i) * kLanes, shares);
      outputs[i] = shares[0];
#pragma unroll
      for (int k = 1; k < kLanes; ++k) outputs[i] += shares[k];
    }
    if constexpr (MS_HAS_D) {
      const auto u = read_channels<MS_U_ACCESS>(stage.u, step, at.channel, of_channels.u_shift);
#pragma unroll
      for (int i = 0; i < kAdjacent; ++i) outputs[i] += of_channels.D[i] * to_float(u.value[i]);
    }
    if constexpr (MS_HAS_Z) {
      const auto raw = read_channels<MS_Z_ACCESS>(stage.z, step, at.channel, of_channels.z_shift);
      float z[kAdjacent];
#pragma unroll
      for (int i = 0; i < kAdjacent; ++i) z[i] = to_float(raw.value[i]);
      // Gates are evaluated in pairs, and by the last channel's must not be seen what its row goes on with.
#pragma unroll
      for (int i = 1; i < kAdjacent; i += 2)
        if (at.channel + i == row.channels) z[i] = 0.0f;
      multiply_silu(z, outputs);
    }
    Elements<kAdjacent> rounded;
#pragma unroll
    for (int i = 0; i < kAdjacent; ++i) from_float(outputs[i], rounded.value[i]);
    char* to = y + first * p.y.seq_stride * kElementBytes;
    if (step >= existing) continue;
    if (at.channel + kAdjacent <= row.channels) {
      store_channels(to, rounded);
    } else {
      to += opaque(0);  // or the compiler would keep a second pointer
#pragma unroll
      for (int i = 0; i < kAdjacent; ++i)
        if (at.channel + i < row.channels) store_global<kElementBytes>(to + i * kElementBytes, &rounded.value[i]);
    }
  }
}

// existing: steps of the tile inside the sequence. Those after it leave the state as it is.
__device__ __forceinline__ void make_ready(const SelectiveScanProblem& p, const Row& row, int existing, Stage& stage,
                                           LaneId id, const OfRow& of_row, DeltaReader& delta,
                                           const OfChannels& of_channels, Slot& slot) {
  if constexpr (kExpandsTogether) {
    expand_together(stage, slot.expanded, id.lane);
  } else {
    expand_projections(p, row, stage, slot.expanded, id.lane);
  }
  if (existing < kTile) {
    __syncwarp();
    forget_steps(p, row, slot.expanded, stage, existing, kTile, id.lane);
  }
  if constexpr (kByStep) {
    make_inputs_by_step(stage, existing, of_channels, slot.inputs);
  } else {
    Inputs inputs[kGroups];
#pragma unroll
    for (int i = 0; i < kGroups; ++i)
      evaluate_inputs(delta, of_row.u_shift, stage, i * kSteps, existing, id, inputs[i]);
#pragma unroll
    for (int i = 0; i < kGroups; ++i) write_inputs(slot.inputs, i * kSteps, id, inputs[i]);
  }
  __syncwarp();
}

using TileOutputs = Outputs[kGroups];

__device__ __forceinline__ void add_lanes(const Slot& slot, LaneId id, TileOutputs& y) {
#pragma unroll
  for (int i = 0; i < kGroups; ++i) add_lanes(slot, i * kSteps, id, y[i]);
}

// Outputs of a tile replace its u.
__device__ __forceinline__ void keep_tile(Stage& stage, LaneId id, const OfRow& of_row, TileOutputs& y) {
#pragma unroll
  for (int i = 0; i < kGroups; ++i) of_row.finish(stage, i * kSteps + id.first_step, id, y[i]);
  if (kLanesOfChannel > kSteps || kShifted<MS_U_ACCESS>) __syncwarp();
#pragma unroll
  for (int i = 0; i < kGroups; ++i)
    if (stores_outputs(id)) keep_outputs<false>(stage.u, i * kSteps + id.first_step, id, 0, kSteps, y[i]);
  __syncwarp();
}

// Every kServers-th tile of the piece, from its tile `server` on. The first ones are copied while others are still busy
// with the piece before.
__device__ __forceinline__ void serve(const SelectiveScanForwardParams& params, const Piece& piece, bool first,
                                      Block& block, int server, LaneId id) {
  const SelectiveScanProblem& p = params.problem;
  Shared& shared = block.shared[server];
  const int first_tile = piece.begin;
  if (id.lane == 0) shared.piece = {piece.row, first_tile + server, piece.end, 0};
  __syncwarp();
  const Row row = shared.piece.row;
  TileCopies<true, kHeldStages> copies(params, shared, id.lane);
  DeltaReader delta;
  OfRow of_row;
  OfChannels of_channels(id.lane);
  char* y;  // where this lane stores its first chunk of the next tile, or the next whole one
  if constexpr (kByStep) {
    of_channels.load(p, row);
    const StepLane& at = of_channels.at;
    const Rows rows = sequence_rows(p.y, row, static_cast<Index>(first_tile + server) * kTile, kTile, kWarpChannels);
    y = reinterpret_cast<char*>(const_cast<Element*>(rows.from + at.step * rows.row_stride + at.channel));
  } else {
    delta.load(p, row, id);
    of_row.load(p, row, id);
    y = const_cast<char*>(sequence_source<MS_Y_ACCESS>(p.y, row, first_tile + server, id.lane));
  }
  const int tiles = piece.end - first_tile;
  if (!first) leave_piece();
  wait_for_block();
#pragma unroll 1
  for (int t = server; t < tiles + kSlots; t += kServers) {
    Stage* stage = nullptr;
    if (t < tiles) stage = &copies.await(shared);
    const unsigned at = static_cast<unsigned>(t) % kSlots;
    Slot& slot = block.slot[at];
    const int before = t - kSlots;
    if (before >= 0) {
      event_wait(block.done[at], static_cast<unsigned>(before) / kSlots % 2);
      Stage& last = shared.stage[static_cast<unsigned>(before) / kServers % kStages];
      const int tile = first_tile + before, existing = steps_of_tile(params, tile);
      if constexpr (kByStep) {
        store_by_step(p, row, existing, of_channels, slot, last, y);
        y += params.y_steps.advance;
      } else {
        TileOutputs outputs;
        add_lanes(slot, id, outputs);
        keep_tile(last, id, of_row, outputs);
        if (copies.is_whole(tile)) {
          store_whole(last.u, y, params, row, tile, id.lane);
        } else {
          store_part(last.u, p.y, row, static_cast<Index>(tile) * kTile, existing, id.lane);
        }
      }
      // The next copy goes to the last one's stage, after make_ready() has all lanes wait for each other.
    }
    if (t < tiles) {
      make_ready(p, row, steps_of_tile(params, first_tile + t), *stage, id, of_row, delta, of_channels, slot);
      if (id.lane == 0) event_signal(block.ready[at]);
      copies.copy_ahead(params, row, shared, id.lane);
    }
  }
}

// first: of the block's pieces.
__device__ __forceinline__ void scan_piece(const SelectiveScanForwardParams& params, const Piece& piece, bool first,
                                           Block& block) {
  // Where there are several pieces, of each anew, so that no registers keep what is known of the thread.
  const int thread = static_cast<int>(threadIdx.x), warp = (kInPieces ? opaque(thread) : thread) / 32;
  const auto id = [&] { return kInPieces ? lane_id(lane_anew(thread)) : lane_id(); };
  if (warp >= kWarps) {
    serve(params, piece, first, block, warp - kWarps, id());
  } else {
    enter_piece(params, piece, first, block, warp, id());
    wait_for_block();
    scan(params, block);
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32 * (kWarps + kServers), MS_MIN_BLOCKS)
    selective_scan_relay_served(const SelectiveScanForwardParams params) {
  MS_DYNAMIC_SHARED(uint4, memory);
  Block& block = *reinterpret_cast<Block*>(memory);
#if defined(MS_WRAPPED) || MS_CUT
  int at = first_of(slot_range(params, static_cast<int>(blockIdx.x)));
#pragma unroll 1
  do {
    const Range slot = slot_range(params, static_cast<int>(blockIdx.x));
    scan_piece(params, next_piece(params, slot, at), at == first_of(slot), block);
    at = after_piece(block.piece);
  } while (!is_over(slot_range(params, static_cast<int>(blockIdx.x)), at));
#else
  scan_piece(params, {row_of(params, static_cast<int>(blockIdx.x)), 0, params.tiles_per_row, 0}, true, block);
#endif
}

}  // namespace mamba_scan
