// Selective scan, forward. Reference: problem.h states the recurrence; runtime/cpu is the same on a CPU.
//
// Grid: params.slots blocks of one warp, each with a contiguous range of tiles (forward_params.h); or of MS_ABREAST
// warps, which have the same range of adjacent rows and keep in step (block_outputs.cuh); or of MS_TOGETHER warps,
// which have nothing to do with each other. For every piece of a row in its range a warp repeats, tile by tile:
//
//   async copies of the next tile -> shared      u, delta, z as they are; B, C as they are, or prepared
//   expand B, C of this tile                     to fp32, once per warp
//   compute kSteps steps at a time               states in registers, delta and u converted on reading
//   sum over the lanes of a channel, gate        into the tile, in place of u
//   store the tile                               in vectors of 16 bytes, and as whole sectors (sector_outputs.cuh)
//
// Rows of adjacent channels that begin anywhere are moved by the lanes themselves, without tiles (direct_rows.cuh).
//
// Cost per (channel, state, step): mul, ex2, mul, fma, fma. The exponential unit takes 8 clocks per warp for an ex2,
// and the other four fit beside it: on an H200 a loop of nothing but steps of 16 states, B and C read from shared
// memory (tests/bench/step_clocks.cu), takes 134 to 142 clocks where four warps share a scheduler, by how it is
// unrolled, and 139 to 150 where two do; 8 integer adds a step besides take 2 to 3, 16 fp32 adds or fmas 9 to 18, and
// 16 shuffles 16. With one lane per channel and its 16 states (the usual plan) no sums over lanes are left, and the
// rest of a step is 17 instructions in the compiled loop, 40 with softplus, bias, D and gate: shared loads of B, C, u
// and delta, conversions; and besides the loop a sixteenth of a tile's copies and stores. Measured, where four warps
// share a scheduler, in clocks per step and warp:
//
//   a block for every warp                                             155 to 158
//   the same, copying, expanding and storing nothing but a first tile  148
//   one block for all warps of a multiprocessor                        147 to 149
//
// A scheduler of Hopper lets the warp of the oldest block go first whenever it can. Of four blocks with a row each the
// first was through after 0.58 of the time, the others after 0.67, 0.85 and 1, and what the last one waits for while it
// is alone nobody hides. Warps of one block it treats alike. Shares as unequal as those speeds gained nothing: which
// block starts first where is not known.
//
// Of no use: 24 warps of a multiprocessor (164, with tiles of 8 steps, which is what shared memory has room for), two
// sums of y, all decays of a step first, a polynomial on the fma pipe in place of exponentials; delta * u * B by tensor
// cores (in that loop 139 instead of 136).
//
// With softplus, bias and gate a step has two and a half exponentials more and some thirty instructions. Where a block
// has several warps, all read them from one table (common/activation_table.cuh): 64, 2048, 1536 took 880 us on an H200
// without these, 1048 with, and 1010 by the table; 1, 131072, 2048 1290, 1528 and 1487; in (b, d, l) 16, 2048, 5120
// 747, 906 and 872. The 18 instructions a step that are left still take about a clock each. With the gates of eight
// steps in a row after these, as they are evaluated without a table, nothing was gained (1040, 1528), nor (1038) where
// the compiler was kept from putting them off by a __syncwarp, which waits for what is being read.
#if MS_COMPLEX
#include "selective_scan/complex_lane.cuh"
#else
#include "selective_scan/compose_state.cuh"
#include "selective_scan/lane.cuh"
#endif
#include "selective_scan/block_outputs.cuh"
#include "selective_scan/direct_rows.cuh"
#include "selective_scan/sector_outputs.cuh"
#include "selective_scan/tile_copy.cuh"
#include "selective_scan/tile_outputs.cuh"
#include "selective_scan/tile_values.cuh"
#include "selective_scan/wrapped.cuh"

namespace mamba_scan {
namespace {

static_assert(!kWrapped || (!MS_COMPLEX && !MS_CUT && !MS_INVARIANT && !MS_PACKED && kAbreast == 1),
              "a slot is handed one state, of one warp");

#if !MS_COMPLEX
#if MS_INVARIANT
// The state at the start of a segment, as compose.cu has left it.
__device__ __forceinline__ void load_composed(const SelectiveScanForwardParams& params, LaneId id, Lane& self) {
  const float* state = params.carry_state + static_cast<Index>(this_slot(params)) * (kChannels * kStates * 32);
#pragma unroll
  for (int r = 0; r < kChannels; ++r)
#pragma unroll
    for (int s = 0; s < kStates; ++s) self.state[r][s] = state[carry_place(id, r, state_of(id.part, s))];
}
#endif

// One step for the lane's channels. Returns in y the lane's share of the output before the gate.
__device__ __forceinline__ void step_states(const Shared& shared, const Stage& stage, int step, LaneId id,
                                            const float (&dt)[kChannels], const float (&u)[kChannels], Lane& self,
                                            float (&y)[kChannels]) {
  float B[kStates], C[kStates], delta_u[kChannels];
  read_projections(shared.expanded, stage, step, id, B, C);
#pragma unroll
  for (int r = 0; r < kChannels; ++r) {
    delta_u[r] = dt[r] * u[r];
#if MS_HAS_D
    y[r] = self.D[r] * u[r];
#else
    y[r] = 0.0f;
#endif
  }
  advance_states(dt, delta_u, B, C, self, y);
}
#endif  // !MS_COMPLEX

#if MS_PACKED
// The sequence that runs at the piece's begin. Those that end there are the piece before's, unless there is none.
__device__ __forceinline__ void find_sequence(const SelectiveScanProblem& p, Shared& shared, LaneId id) {
  if (id.lane == 0) {
    const Index step = static_cast<Index>(shared.piece.begin) * kTile;
    shared.sequence = step > 0 ? sequence_at(p, step) : 0;
    shared.boundary = sequence_begin(p, shared.sequence + 1);
  }
  __syncwarp();
}

// At the end of one sequence: on to the next, if there is one.
__device__ __forceinline__ void next_sequence(const SelectiveScanProblem& p, Shared& shared, LaneId id, Lane& self) {
  store_state(p, shared, id, self);
  __syncwarp();
  if (id.lane == 0) {
    ++shared.sequence;
    shared.boundary = shared.sequence < p.sequences ? sequence_begin(p, shared.sequence + 1) : p.seqlen + 1;
  }
  __syncwarp();
  if (shared.sequence < p.sequences) start_state(p, shared, id, self);
}
#endif

// Steps begin to end - 1 of the tile in `stage`, B and C in fp32 by now; outputs replace u. PART: steps outside of
// these belong to other sequences and are left alone; otherwise begin is 0, and there are none from end on.
template <bool PART>
__device__ __forceinline__ void compute_tile(const SelectiveScanForwardParams& params, const Shared& shared,
                                             Stage& stage, int tile, int begin, int end, LaneId id, Lane& self) {
  const bool stores = stores_outputs(id);
  const auto u_shift = shift_of<MS_U_ACCESS>(params.problem.u, shared.piece.row, id);
  const auto z_shift = shift_of<MS_Z_ACCESS>(params.problem.z, shared.piece.row, id);
#if MS_SLICE
  const Index row_begin = shared.piece.next - shared.piece.end;
  float* tile_sums = params.partial_sum + (row_begin + tile) * (kTile * kWarpChannels);
#endif
#pragma unroll 1
  for (int first = PART ? begin / kSteps * kSteps : 0; first < end; first += kSteps) {
    self.delta.read(stage.delta, first, id);
    InputReader input;
    input.read(stage.u, first, id, u_shift);
    Outputs out;
    const int own = first + id.first_step;
#if MS_SLICE
    read_partial(tile_sums, first, id, stores && !params.first_slice, begin - own, end - own, out);
#endif
    float dt[kSteps][kChannels], sums[kOwned][kSteps];
    self.delta.steps([&](int t) { return first + t < end; }, id, dt);
#pragma unroll
    for (int t = 0; t < kSteps; ++t) {
      float u[kChannels], sum[kChannels];
#pragma unroll
      for (int r = 0; r < kChannels; ++r) u[r] = input.value(t, r), sum[r] = 0.0f;
      if (!PART || (first + t >= begin && first + t < end)) {
        step_states(shared, stage, first + t, id, dt[t], u, self, sum);
        reduce_over_lanes(sum, id);
      }
#pragma unroll
      for (int i = 0; i < kOwned; ++i) sums[i][t] = sum[i];
    }
    reduce_over_lanes(sums, id);
#pragma unroll
    for (int i = 0; i < kOwned; ++i)
#pragma unroll
      for (int t = 0; t < kOwnedSteps; ++t) out[i][t] = MS_SLICE ? out[i][t] + sums[i][t] : sums[i][t];
#if MS_SLICE == 1
    if (stores) write_partial(tile_sums, first, id, begin - own, end - own, out);
#else
    if constexpr (MS_HAS_Z) apply_gate(stage.z, own, id, z_shift, out);
    if (kLanes > 1 || kShifted<MS_U_ACCESS>) __syncwarp();
    if (stores) keep_outputs<PART>(stage.u, own, id, begin - own, end - own, out);
#endif
  }
}

#if defined(MS_TABULATED)
static_assert(kLanes == 1 && kElementBytes == 2 && !kReadsDirectly && !MS_PACKED && !MS_SLICE && !MS_INVARIANT,
              "softplus and gates of a lane's own channels, of tiles, that 16 bits round");

// The same of a whole tile, of which steps 0 to end - 1 exist: each step's gate right after its states, and before it
// the next one's softplus. These wait for shared memory, and the exponentials of the next step's decays, which nothing
// is stored before, go on meanwhile; a group's gates in a row at its end would have none beside them.
__device__ __forceinline__ void compute_tile_by_step(const SelectiveScanForwardParams& params, const Shared& shared,
                                                     Stage& stage, int end, LaneId id, Lane& self) {
  constexpr int kAtOnce = StepOutputs::kAtOnce;
  const auto u_shift = shift_of<MS_U_ACCESS>(params.problem.u, shared.piece.row, id);
  const auto z_shift = shift_of<MS_Z_ACCESS>(params.problem.z, shared.piece.row, id);
#pragma unroll 1
  for (int first = 0; first < end; first += kSteps) {
    SequenceReader<MS_U_ACCESS, kAtOnce> input;
    SequenceReader<MS_DELTA_ACCESS, kAtOnce> delta;
    SequenceReader<MS_Z_ACCESS, kAtOnce> gate;
    StepOutputs outputs;
    float dt[kSteps][kChannels];
    const auto evaluate_delta = [&](int t) {
      if (t % kAtOnce == 0) delta.read(stage.delta, first, id, self.delta.shift(), t);
#pragma unroll
      for (int r = 0; r < kChannels; ++r) dt[t][r] = self.delta.value(delta.value(t % kAtOnce, r), r, first + t < end);
    };
    evaluate_delta(0);
#pragma unroll
    for (int t = 0; t < kSteps; ++t) {
      if (t % kAtOnce == 0) input.read(stage.u, first, id, u_shift, t);
      float u[kChannels], y[kChannels];
#pragma unroll
      for (int r = 0; r < kChannels; ++r) u[r] = input.value(t % kAtOnce, r);
      step_states(shared, stage, first + t, id, dt[t], u, self, y);
      if (t + 1 < kSteps) evaluate_delta(t + 1);
#if MS_HAS_Z
      if (t % kAtOnce == 0) gate.read(stage.z, first, id, z_shift, t);
#pragma unroll
      for (int r = 0; r < kChannels; ++r) {
        const float z = gate.value(t % kAtOnce, r);
        y[r] *= z * sigmoid(activation_table(), z);
      }
#endif
      if constexpr (kShifted<MS_U_ACCESS>) __syncwarp();  // outputs may lie where others' u did
      outputs.put(stage.u, first, t, id, y);
    }
  }
}
#endif

#if MS_U_ACCESS == 4
// The same of a whole tile of rows that are moved directly, of which steps 0 to end - 1 exist. Unrolled, so that what
// is read ahead need not be moved between registers.
__device__ __forceinline__ void compute_tile_directly(const SelectiveScanForwardParams& params, const Shared& shared,
                                                      const Stage& stage, int end, LaneId id, Lane& self,
                                                      DirectRows& rows) {
#pragma unroll
  for (int first = 0; first < kTile; first += kSteps) {
    if (first >= end) break;
    const RawSteps raw = rows.take(params.problem);
    float y[kSteps];
#pragma unroll
    for (int t = 0; t < kSteps; ++t) {
      const float dt[1] = {self.delta.value(to_float(raw.delta[t]), 0, first + t < end)}, u[1] = {to_float(raw.u[t])};
      float sum[1];
      step_states(shared, stage, first + t, id, dt, u, self, sum);
      y[t] = sum[0];
    }
    if constexpr (MS_HAS_Z) {
      float z[kSteps];
#pragma unroll
      for (int t = 0; t < kSteps; ++t) z[t] = to_float(raw.z[t]);
      multiply_silu(z, y);
    }
    rows.store(params.problem, y, end - first);
  }
}
#endif

#if MS_PACKED
// On to the end of the sequence at hand, or of the tile. Returns false at the end of the tile. What is known between
// one sequence and the next lies in shared memory: there is no register left for it.
__device__ __forceinline__ bool scan_sequence(const SelectiveScanForwardParams& params, Shared& shared, Stage& stage,
                                              int tile, LaneId id, Lane& self) {
  const SelectiveScanProblem& p = params.problem;
  {
    const int begin = shared.done, steps = steps_of_tile(p, tile);
    const Index boundary = shared.boundary - static_cast<Index>(tile) * kTile;
    const int end = static_cast<int>(min(max(boundary, static_cast<Index>(begin)), static_cast<Index>(steps)));
    __syncwarp();
    if (id.lane == 0) shared.done = end;
    __syncwarp();
    if (begin == 0 && end == steps) {
      compute_tile<false>(params, shared, stage, tile, 0, end, id, self);
    } else if (begin < end) {
      compute_tile<true>(params, shared, stage, tile, begin, end, id, self);
    }
  }
  tile = opaque(tile);
  if (shared.boundary > static_cast<Index>(tile) * kTile + shared.done) return false;
  next_sequence(p, shared, id, self);
  return true;
}
#endif

// All steps of the tile in `stage`.
__device__ __forceinline__ void scan_tile(const SelectiveScanForwardParams& params, Shared& shared, Stage& stage,
                                          int tile, bool whole, LaneId id, Lane& self) {
#if MS_PACKED
  if (id.lane == 0) shared.done = 0;
  __syncwarp();
#pragma unroll 1
  while (scan_sequence(params, shared, stage, tile, id, self)) {
  }
#elif defined(MS_TABULATED)
  compute_tile_by_step(params, shared, stage, whole ? kTile : steps_of_tile(params.problem, tile), id, self);
#else
  compute_tile<false>(params, shared, stage, tile, 0, whole ? kTile : steps_of_tile(params.problem, tile), id, self);
#endif
}

// A tile of outputs. y: where this lane stores its first chunk of the next whole tile.
__device__ __forceinline__ void store_tile(const SelectiveScanForwardParams& params, Shared& shared,
                                           const Element* outputs, int tile, bool whole, char*& y, int lane) {
  static_assert(MS_SLICE == 1 || !kShifted<MS_U_ACCESS> || MS_Y_ACCESS != kVectors,
                "vectors of y lie where those of u were");
  const SelectiveScanProblem& p = params.problem;
  const Piece& piece = shared.piece;
  if constexpr (kStoresAbreast) {
    wait_abreast(shared);
    store_abreast(outputs, params, shared, tile);
  } else {
    __syncwarp();
#if MS_Y_ACCESS == 3
    store_sectors(outputs, shared.waiting, params, piece, tile, lane);
#else
    if (whole) {
      store_whole(outputs, y, params, piece.row, tile, lane);
    } else {
      store_part(outputs, p.y, piece.row, static_cast<Index>(tile) * kTile, steps_of_tile(p, tile), lane);
    }
#endif
  }
}

// The whole piece, from the state in `self`.
__device__ __forceinline__ void scan_piece(const SelectiveScanForwardParams& params, Shared& shared, LaneId id,
                                           Lane& self) {
  const SelectiveScanProblem& p = params.problem;
  const Piece& piece = shared.piece;
  TileCopies<true> copies(params, shared, id.lane);
  int tile = piece.begin;
  const int end = piece.end;
#if MS_U_ACCESS == 4
  DirectRows rows;
  rows.enter(p, piece, id);
#else
  char* y = const_cast<char*>(sequence_source<MS_Y_ACCESS>(p.y, piece.row, tile, id.lane));
#endif
#pragma unroll 1
  for (; tile < end; ++tile) {
    wait_abreast(shared);  // until the others have stored what this tile's copies replace
    Stage& stage = copies.take(params, shared, id.lane);
    expand_projections(p, piece.row, stage, shared.expanded, id.lane);
    const bool whole = copies.is_whole(tile);
    if (!whole && steps_of_tile(p, tile) < kTile)
      forget_steps(p, piece.row, shared.expanded, stage, steps_of_tile(p, tile), kTile, id.lane);
#if MS_U_ACCESS == 4
    compute_tile_directly(params, shared, stage, steps_of_tile(p, tile), id, self, rows);
#else
    scan_tile(params, shared, stage, tile, whole, id, self);
    if constexpr (MS_SLICE != 1) store_tile(params, shared, stage.u, tile, whole, y, id.lane);
#endif
  }
}

// The state that the piece begins with.
__device__ __forceinline__ void enter_piece(const SelectiveScanForwardParams& params, const Shared& shared, LaneId id,
                                            Lane& self) {
#if MS_INVARIANT && !MS_COMPLEX
  if (params.carry_state != nullptr) {
    load_composed(params, id, self);
    return;
  }
#elif MS_CUT
  Index first_step = 0;  // of the sequence
#if MS_PACKED
  first_step = sequence_begin(params.problem, shared.sequence);
#endif
  if (first_step < static_cast<Index>(shared.piece.begin) * kTile) {
    compose_state(params, shared.piece, first_step, state_index(params.problem, shared), id, self);
    return;
  }
#elif defined(MS_WRAPPED)
  if (shared.piece.begin > 0) {
    await_state(params, this_slot(params), id, self.state);
    return;
  }
#endif
  start_state(params.problem, shared, id, self);
}

// Is the state at the piece's end the row's final state? Where compose.cu ran and the row ends with a whole segment, it
// is what compose.cu has stored: a later call that continues from there would compute the same.
__device__ __forceinline__ bool hands_out_state(const SelectiveScanForwardParams& params, const Piece& piece) {
#if MS_INVARIANT
  if (params.carry_state != nullptr && is_whole_segment(params, piece)) return false;
#endif
  return piece.end == params.tiles_per_row;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32 * kBlockWarps, (MS_MIN_BLOCKS + kBlockWarps - 1) / kBlockWarps)
    selective_scan_forward(const SelectiveScanForwardParams params) {
#if MS_ABREAST > 1 || defined(MS_TOGETHER)
  static_assert(kTableBytes + sizeof(Shared) * kBlockWarps == MS_SHARED_BYTES, "the plan has counted otherwise");
  MS_DYNAMIC_SHARED(uint4, of_block);
  Shared& shared = reinterpret_cast<Shared*>(reinterpret_cast<char*>(of_block) + kTableBytes)[threadIdx.x / 32];
  if constexpr (kTabulated) {
    fill_table(activation_table(), static_cast<int>(threadIdx.x), 32 * kBlockWarps);
    __syncthreads();
  }
  if (kAbreast > 1 ? static_cast<int>(threadIdx.x) / 32 >= rows_abreast(params) : this_slot(params) >= params.slots)
    return;
#else
  __shared__ Shared shared;
#endif
  const SelectiveScanProblem& p = params.problem;
  const LaneId id = lane_id();
  clear_shared(shared, id.lane);
  note_abreast(params, shared, id.lane);

  int at = first_of(slot_range(params, this_slot(params)));
#pragma unroll 1
  do {
    if (id.lane == 0) shared.piece = next_piece(params, slot_range(params, this_slot(params)), at);
    __syncwarp();
    const Piece& piece = shared.piece;
    Lane self;
    load_lane(p, piece.row, id, self);
#if MS_PACKED
    find_sequence(p, shared, id);
#endif
    enter_piece(params, shared, id, self);
    // Packed sequences end, and are stored, inside: even those that have no step. A lane that moves its rows itself has
    // no registers for what it knows of itself from piece to piece.
    const LaneId of_piece = kWrapped || (kReadsDirectly && MS_CUT) ? lane_id(lane_anew(id.lane)) : id;
    if (kPacked || p.seqlen > 0) scan_piece(params, shared, of_piece, self);
    if (!kPacked && hands_out_state(params, piece)) store_state(p, shared, id, self);
#if defined(MS_WRAPPED)
    if (piece.end < params.tiles_per_row) leave_state(params, this_slot(params), id, self.state);
#endif
    at = after_piece(piece);
    __syncwarp();  // the next piece is written over this one
  } while (!is_over(slot_range(params, this_slot(params)), at));
}

}  // namespace mamba_scan
