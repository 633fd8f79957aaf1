// Selective scan, forward, of few and short sequences: relay.cu, whose warps take turns on one row, with others that
// bring them what they need. In relay.cu more than a third of a turn's instructions copy a few steps, expand B and C,
// evaluate delta, add up over lanes and store; a warp that does that for several turns at once needs a third of them.
//
// Grid: a block for every row (batch, group, channels of a warp). Block: MS_WARPS warps that scan and kServers that
// serve them, in turns. A tile holds the steps of kGroups turns; it is in one of kSlots slots until all are over:
//
//   server   await t, done(t - kSlots) | sums, gate, stores of t - kSlots | B, C, delta, u of t | ready(t) | copy ahead
//   scanner  ready(t) | local pass | wait, hand on | output pass | done(t)
//
// The passes and `wait, hand on` are relay.cu's (relay_turn.cuh). ready and done are events; a tile is done when all of
// its turns are.
//
// Measured on an H100, a block of 8 warps that scan 16 channels, 8 states of a lane, and 4 that serve them: servers
// wait for scanners, these issue an instruction in half of the clocks, and wait the rest for what they read, for the
// exponential unit and, in turns of 4 steps, for the state, which takes 150 clocks from turn to turn: turns of 8 took
// 0.94 times as long, those of 8 by 6 warps longer. With 4 states of a lane, 8 channels of a block and 2 servers, every
// B and C that a lane reads is for half as many states, and servers bind: 1, 1024, 2048 took 25.3 us where 8 states
// took 21.7.
//
// Constants: see warp_tile.cuh. MS_UNROLL steps are a turn. MS_SHARED_BYTES is the dynamic shared memory that the
// launch provides. Real states that one launch holds, of one channel of a lane, two lanes or more to a channel; B and C
// that vary; sequences that are neither packed nor empty.
#include "selective_scan/lane.cuh"
#include "selective_scan/relay_turn.cuh"
#include "selective_scan/tile_copy.cuh"
#include "selective_scan/tile_outputs.cuh"
#include "selective_scan/tile_values.cuh"

namespace mamba_scan {
namespace {

static_assert(kServed && kWarps > 1 && kSharesInputs && kChannels == 1, "left to relay.cu");
static_assert(!MS_COMPLEX && !MS_CUT && !MS_INVARIANT && !MS_PACKED && !MS_SLICE && !kBConstant && !kCConstant &&
                  !kReadsRawB && !kReadsRawC,
              "left to forward.cu and relay.cu");

constexpr int kGroups = kTile / kSteps;  // turns of a tile
constexpr int kServers = kTilesApart;
constexpr int kSlots = 2 * kServers;
constexpr int kHeldStages = kSlots / kServers - 1;  // u and z of a server's tile are needed until its outputs are there
static_assert(kStages > 1 + kHeldStages, "a tile is copied while others are in use");
static_assert(kSteps % 4 == 0, "a lane leaves its shares of y in vectors");

// A lane's shares of y of four steps.
struct __align__(16) Shares {
  float of_step[4];
};

struct __align__(16) Slot {
  ExpandedTile expanded;
  StepInputs inputs[kTileInputs];
  Shares shares[kTile / 4][32];
};

struct __align__(16) Block {
  Shared shared[kServers];
  Slot slot[kSlots];
  __align__(16) float handed[kWarps][kHeld * 32];  // to warp w: the state that its next turn begins with
  __align__(16) float A[kHeld * 32];
  Event ready[kSlots], done[kSlots];
};
static_assert(sizeof(Block) == MS_SHARED_BYTES, "the plan has counted otherwise");

// ---- the scanning warps ----

// B or C of a turn, for the lane's states. at: place of the first of them, of which the compiler knows nothing, and so
// adds up the address once, not for every step.
__device__ __forceinline__ void read_step(const float* projection, int at, int t, float (&to)[kStates]) {
  read_states(projection + at + t * kPaddedStates, 0, 0, to);
}

// The output pass: y before the gate, of every lane its share.
__device__ __forceinline__ void leave_shares(Slot& slot, const Steps& steps, int first, int at, LaneId id,
                                             States& state) {
  const auto C = [&](int t, float (&to)[kStates]) { read_step(slot.expanded.C, at, t, to); };
  float sums[kSteps][1];
#pragma unroll
  for (int t = 0; t < kSteps; ++t) take_step(steps, t, C, state, sums[t]);
#pragma unroll
  for (int t = 0; t < kSteps; t += 4)
    slot.shares[(first + t) / 4][id.lane] = {{sums[t][0], sums[t + 1][0], sums[t + 2][0], sums[t + 3][0]}};
}

__device__ __forceinline__ void scan(const SelectiveScanForwardParams& params, Block& block) {
  const SelectiveScanProblem& p = params.problem;
  const int thread = static_cast<int>(threadIdx.x);
  const unsigned turns = static_cast<unsigned>(params.tiles_per_row) * kGroups;
#pragma unroll 1
  for (unsigned turn = threadIdx.x / 32; turn < turns; turn += kWarps) {
    const unsigned warp = static_cast<unsigned>(opaque(thread)) / 32;
    const LaneId id = lane_id(lane_anew(thread));
    const unsigned tile = turn / kGroups;
    const int first = static_cast<int>(turn % kGroups * kSteps);
    const int at = opaque(first * kPaddedStates + place_of_state(id.part, 0));
    Slot& slot = block.slot[tile % kSlots];
    event_wait(block.ready[tile % kSlots], tile / kSlots % 2);
    Steps steps;
    Effect effect;
    {
      Inputs inputs;
      read_inputs(slot.inputs + opaque(first / 2), 0, id, inputs);
      const auto B = [&](int t, float (&to)[kStates]) { read_step(slot.expanded.B, at, t, to); };
      scan_locally(block.A, inputs, id, B, steps, effect);
    }
    Lane self;
    pass_on(params, block.handed, static_cast<int>(warp), turn == 0, turn + 1 == turns, id, effect, self.state);
    leave_shares(slot, steps, first, at, id, self.state);
    __syncwarp();
    if (id.lane == 0) event_signal(block.done[tile % kSlots]);
    if (turn + 1 == turns) store_state(p, block.shared[0], id, self);
  }
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
      read_floats(&slot.shares[four][lane].of_step[(id.first_step + t) % 4], some);
#pragma unroll
      for (int k = 0; k < kTogether; ++k) y[0][t + k] += some[k];
    }
  }
}

// Of what a warp reads from shared memory after it has written there, the compiler does not know that it is something
// else, and waits: so all is read, then all is written.

// Several vectors of B and C at a time.
__device__ __forceinline__ void expand_together(const Stage& stage, ExpandedTile& expanded, int lane) {
  using B = RawVectors<MS_B_ORDER>;
  using C = RawVectors<MS_C_ORDER>;
  constexpr int kMost = B::kPerLane > C::kPerLane ? B::kPerLane : C::kPerLane;
  constexpr int kTogether = kMost < 4 ? kMost : 4;
#pragma unroll
  for (int first = 0; first < kMost; first += kTogether) {
    typename B::Vector of_B[kTogether];
    typename C::Vector of_C[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (first + k < B::kPerLane && B::exists(first + k, lane)) of_B[k] = B::read(stage.B, first + k, lane);
      if (first + k < C::kPerLane && C::exists(first + k, lane)) of_C[k] = C::read(stage.C, first + k, lane);
    }
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (first + k < B::kPerLane && B::exists(first + k, lane)) B::write(of_B[k], expanded.B, first + k, lane);
      if (first + k < C::kPerLane && C::exists(first + k, lane)) C::write(of_C[k], expanded.C, first + k, lane);
    }
  }
}

// existing: steps of the tile inside the sequence. Those after it leave the state as it is.
__device__ __forceinline__ void make_ready(const SelectiveScanProblem& p, const Row& row, int existing, Stage& stage,
                                           LaneId id, const OfRow& of_row, DeltaReader& delta, Slot& slot) {
  if constexpr (MS_B_ORDER < 2 && MS_B_ACCESS == kVectors && MS_C_ORDER < 2 && MS_C_ACCESS == kVectors) {
    expand_together(stage, slot.expanded, id.lane);
    __syncwarp();
  } else {
    expand_projections(p, row, stage, slot.expanded, id.lane);
  }
  if (existing < kTile) forget_steps(p, row, slot.expanded, stage, existing, kTile, id.lane);
  Inputs inputs[kGroups];
#pragma unroll
  for (int i = 0; i < kGroups; ++i) evaluate_inputs(delta, of_row.u_shift, stage, i * kSteps, existing, id, inputs[i]);
#pragma unroll
  for (int i = 0; i < kGroups; ++i) write_inputs(slot.inputs, i * kSteps, id, inputs[i]);
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

// Every kServers-th tile, from tile `server` on.
__device__ __forceinline__ void serve(const SelectiveScanForwardParams& params, Block& block, int server, LaneId id) {
  const SelectiveScanProblem& p = params.problem;
  Shared& shared = block.shared[server];
  const Row row = shared.piece.row;
  TileCopies<true, kHeldStages> copies(params, shared, id.lane);
  DeltaReader delta;
  delta.load(p, row, id);
  OfRow of_row;
  of_row.load(p, row, id);
  // Where this lane stores its first chunk of the next whole tile.
  char* y = const_cast<char*>(sequence_source<MS_Y_ACCESS>(p.y, row, server, id.lane));
  const int tiles = params.tiles_per_row;
#pragma unroll 1
  for (int t = server; t < tiles + kSlots; t += kServers) {
    Stage* stage = nullptr;
    if (t < tiles) stage = &copies.await(shared);
    const unsigned at = static_cast<unsigned>(t) % kSlots;
    Slot& slot = block.slot[at];
    const int before = t - kSlots;
    if (before >= 0) {
      TileOutputs outputs;
      event_wait(block.done[at], static_cast<unsigned>(before) / kSlots % 2);
      add_lanes(slot, id, outputs);
      Stage& last = shared.stage[static_cast<unsigned>(before) / kServers % kStages];
      keep_tile(last, id, of_row, outputs);
      if (copies.is_whole(before)) {
        store_whole(last.u, y, params, row, before, id.lane);
      } else {
        store_part(last.u, p.y, row, static_cast<Index>(before) * kTile, steps_of_tile(p, before), id.lane);
      }
      __syncwarp();  // the next copy goes there
    }
    if (t < tiles) {
      make_ready(p, row, copies.is_whole(t) ? kTile : steps_of_tile(p, t), *stage, id, of_row, delta, slot);
      if (id.lane == 0) event_signal(block.ready[at]);
      copies.copy_ahead(params, row, shared, id.lane);
    }
  }
}

// What servers do before anyone waits for them: where the row is and, the first of them, what the others start from.
__device__ __forceinline__ void enter_row(const SelectiveScanForwardParams& params, Block& block, int server,
                                          LaneId id) {
  const SelectiveScanProblem& p = params.problem;
  Shared& shared = block.shared[server];
  if (id.lane == 0) shared.piece = {row_of(params, static_cast<int>(blockIdx.x)), server, params.tiles_per_row, 0};
  __syncwarp();
  if (server > 0) return;
  if (id.lane == 0) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) event_init(block.ready[i], 1), event_init(block.done[i], kGroups);
  }
  const Row& row = shared.piece.row;
  States A;
  const float* from = p.A + row.first_channel * p.A_dim_stride;
  for_each_state(row, id, p.A_dim_stride, p.A_state_stride,
                 [&](int r, int s, Index index, bool exists) { A[r][s] = exists ? from[index] : 0.0f; });
  write_handed(block.A, id, A);
  Lane self;
  start_state(p, shared, id, self);
  write_handed(block.handed[0], id, self.state);
#pragma unroll
  for (int i = 0; i < kSlots; ++i) clear_padding(block.slot[i].expanded, id.lane);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32 * (kWarps + kServers), MS_MIN_BLOCKS)
    selective_scan_relay_served(const SelectiveScanForwardParams params) {
  MS_DYNAMIC_SHARED(uint4, memory);
  Block& block = *reinterpret_cast<Block*>(memory);
  const int server = static_cast<int>(threadIdx.x) / 32 - kWarps;
  if (server >= 0) enter_row(params, block, server, lane_id());
  __syncthreads();
  if (server >= 0) {
    serve(params, block, server, lane_id());
  } else {
    scan(params, block);
  }
}

}  // namespace mamba_scan
