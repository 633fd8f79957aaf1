// What the kernels share: how a warp's lanes, channels and states are laid out, which pieces of which rows a warp works
// on, and what it has in shared memory. tile_rows.cuh and tile_copy.cuh bring tiles there, tile_values.cuh reads them.
//
// A block is one warp, or a few: in relay.cu, served.cu and relay_served.cu these wait for what another one does, and
// in forward.cu, where rows may go abreast, all together twice a tile, or not at all. A lane owns MS_CHANNELS channels
// and MS_STATES states of each; MS_LANES lanes share them:
//
//   lane      0 1 | 2 3 | 4 5 | ...          (MS_LANES = 2)
//   quad q     0  |  1  |  2  | ...
//
// Channel r of a lane is q * MS_CHANNELS + r of the warp where channels are adjacent in memory, so that its elements of
// a step are one vector, and r * quads + q where steps are adjacent, so that rows read together lie in different banks.
//
// State s of a lane is n = part * MS_STATES + s, so that a lane's states are adjacent, but in carry.cu
// n = s * MS_LANES + part: models order states by decay rate, so a register s holds states of similar rate in all lanes
// and can be dropped as a whole once they have decayed.
//
// Constants (from runtime/ops/forward_variant.cpp as -D options):
//   MS_DTYPE             element.cuh
//   MS_DSTATE            states; MS_LANES * MS_STATES >= MS_DSTATE, the rest is padding that stays zero
//   MS_LANES MS_STATES MS_CHANNELS                                  see above
//   MS_WARPS             of a block: 1, but in relay.cu and relay_served.cu those that take turns on a row, and in
//                        carry.cu those that share a slot
//   MS_SERVED            1: served.cu and relay_served.cu, where others move tiles for the warps that scan
//   MS_ROW_VECTOR        of whole_rows.cu, which alone has it: elements that rows of steps begin with a multiple of;
//                        likewise MS_BULK, 1: copies in bulk
//   MS_WRAPPED           if at all: slots are ranges of rows, and go round (forward_params.h)
//   MS_TOGETHER          if at all: warps of a block of forward.cu that have nothing to do with each other, all that a
//                        multiprocessor runs
//   MS_TABULATED         with MS_TOGETHER, if at all: softplus and gates come from a table (activation_table.cuh)
//   MS_ABREAST           adjacent rows of a block that go through their tiles in step: 1, but in forward.cu also 2 or 4
//   MS_MIN_BLOCKS        per multiprocessor: caps the registers
//   MS_TILE              steps copied at a time
//   MS_STAGES            tiles in shared memory: the one being computed and those on their way
//   MS_UNROLL            steps computed together, a divisor of MS_TILE
//   MS_SEQ_CONTIGUOUS    1: y and most inputs have adjacent steps adjacent in memory, 0: adjacent channels
//   MS_{U,DELTA,Z,Y}_ACCESS     how that tensor's tiles are moved: enum Access. y in windows: sector_outputs.cuh
//   MS_{B,C}_ORDER       0 adjacent states, 1 adjacent steps, 2 anything else, 3 constant in time: (dim, dstate) fp32
//   MS_{B,C}_ACCESS      of orders 0 and 1
//   MS_REVERSE           1: adjacent steps run in memory against the order of scanning. A reversed scan is planned as a
//                        scan with negative strides from the last step on, which is all where no steps are adjacent
//   MS_SOFTPLUS MS_HAS_BIAS MS_HAS_D MS_HAS_Z MS_HAS_INITIAL MS_HAS_FINAL
//   MS_CUT               1: slots may begin inside a row (forward_params.h)
//   MS_COMPLEX           1: A, B, C and states are complex: (re, im) side by side in shared memory (complex_lane.cuh)
//   MS_INVARIANT         1: chunk_invariant. Slots are segments of a row (forward_params.h); MS_HAS_INITIAL and
//                        MS_HAS_FINAL are 1 even if there is no such state, so that all calls run the same kernel
//   MS_PACKED            1: the row holds sequences, see problem.h
//   MS_PREPARED          1: B and C come from prepare.cu, fp32 and in the order lanes of forward.cu read them; their
//                        orders and accesses then stand for nothing
//   MS_SLICE             0: all states; 1: some, whose sums go to partial_sum; 2: the last ones, which finish y
#pragma once

#include "common/activation_table.cuh"
#include "common/device.cuh"
#include "selective_scan/element.cuh"
#include "selective_scan/forward_params.h"

namespace mamba_scan {
namespace {

using namespace device;

constexpr int kDState = MS_DSTATE;
constexpr int kLanes = MS_LANES;
constexpr int kStates = MS_STATES;
constexpr int kChannels = MS_CHANNELS;
constexpr int kTile = MS_TILE;
constexpr int kSteps = MS_UNROLL;
constexpr int kStages = MS_STAGES;
constexpr int kWarps = MS_WARPS;
constexpr bool kServed = MS_SERVED;
constexpr int kAbreast = MS_ABREAST;
#if defined(MS_WRAPPED)
constexpr bool kWrapped = true;
#else
constexpr bool kWrapped = false;
#endif
#if defined(MS_TOGETHER)
constexpr int kBlockWarps = MS_TOGETHER;
#else
constexpr int kBlockWarps = kAbreast;  // of forward.cu
#endif
#if defined(MS_TABULATED)
constexpr bool kTabulated = true;
#else
constexpr bool kTabulated = false;
#endif
#if defined(MS_INTERLEAVED_STATES)  // by carry.cu itself
constexpr bool kInterleavedStates = true;
#else
constexpr bool kInterleavedStates = false;
#endif
// Do warps hand a row's state on to one another?
constexpr bool kTakesTurns = kWarps > 1 && !kInterleavedStates;
constexpr bool kSeqContiguous = MS_SEQ_CONTIGUOUS;
constexpr bool kReverse = MS_REVERSE;
constexpr int kParts = MS_COMPLEX ? 2 : 1;  // numbers that make a state
constexpr int kQuads = 32 / kLanes;
constexpr int kWarpChannels = kQuads * kChannels;
// From one of a warp's tiles to its next: others take those between. In relay_served.cu several warps serve, in turns:
// four of them 16 channels.
constexpr int kTilesApart = !kServed ? kWarps : kWarps == 1 ? 1 : kWarpChannels >= 16 ? 4 : 2;
constexpr int kPaddedStates = kLanes * kStates;
constexpr bool kPacked = MS_PACKED;
constexpr bool kPrepared = MS_PREPARED;
// Are prepared B and C read as they are, or have they to be brought into another order, carry.cu's?
constexpr bool kReadsPrepared = kPrepared && !(kInterleavedStates && kLanes > 1 && kStates > 1);
constexpr bool kBConstant = MS_B_ORDER == 3;
constexpr bool kCConstant = MS_C_ORDER == 3;
// Channels whose sums over states a lane ends up with, and steps of a group: lanes that would own the same channel
// divide the steps among them. See reduce_over_lanes().
constexpr int kOwned = kChannels > kLanes ? kChannels / kLanes : 1;
constexpr int kLanesOfChannel = kLanes > kChannels ? kLanes / kChannels : 1;
constexpr int kStepShares = kLanesOfChannel < kSteps ? kLanesOfChannel : kSteps;
constexpr int kOwnedSteps = kSteps / kStepShares;
constexpr unsigned kAllLanes = 0xffffffffu;

// Rows of a tile are moved element by element, which any strides allow; in words of 4 bytes, which adjacent elements
// allow wherever a row begins; in the widest vectors that rows divide into, if all rows are aligned to them; or else,
// of 16-bit elements, in windows: the aligned chunks of 16 bytes that a row lies in, one more than it would fill. Those
// of u, delta, z and y that are moved directly are in no tile: direct_rows.cuh.
enum Access { kElementwise, kWords, kVectors, kWindows, kDirectly };
constexpr bool kReadsDirectly = MS_U_ACCESS == kDirectly;

constexpr int kSectorElements = kSectorBytes / kElementBytes;

// Rows that are moved in words or windows need not begin with one. In shared memory they begin as many elements later
// as in global memory, less than this many: they are shifted.
template <int ACCESS>
constexpr int kShifts = ACCESS == kWindows ? 16 / kElementBytes
                        : ACCESS == kWords ? 4 / kElementBytes
                                           : 1;
template <int ACCESS>
constexpr bool kShifted = kShifts<ACCESS> > 1;

// Does every lane read B or C of its one state from where copies have brought them? In relay.cu, where channels are too
// few for fp32 ones to be worth waiting for.
template <int ORDER, int ACCESS>
constexpr bool kReadsRaw =
    ORDER < 2 && ACCESS == kVectors && kTakesTurns && kStates == 1 && kLanes >= 16 && kPaddedStates == kDState;
constexpr bool kReadsRawB = kReadsRaw<MS_B_ORDER, MS_B_ACCESS>;
constexpr bool kReadsRawC = kReadsRaw<MS_C_ORDER, MS_C_ACCESS>;

// Does a lane read fp32 B or C of its states, which are all of a channel's, from there, too? One that moves its rows
// itself has no register for where that is.
template <int ORDER, int ACCESS>
constexpr bool kReadsInPlace = MS_DTYPE == 0 && ORDER == 0 && ACCESS == kVectors && kLanes == 1 && kStates == kDState &&
                               kWarps == 1 && !kServed && !MS_COMPLEX && !kPrepared && !kReadsDirectly;
constexpr bool kReadsBInPlace = kReadsInPlace<MS_B_ORDER, MS_B_ACCESS>;
constexpr bool kReadsCInPlace = kReadsInPlace<MS_C_ORDER, MS_C_ACCESS>;

// Elements of a row of steps that is padded to an odd number of 16-byte vectors: lanes read the same steps of adjacent
// rows, which then lie in different banks.
constexpr int kPaddedSteps = (kTile * kElementBytes / 16 | 1) * (16 / kElementBytes);

// Elements from one row of COLUMNS to the next in shared memory, where they are shifted: a word or window more than
// fills them. So many words are an odd number, and so many windows of 16 or 32 steps.
template <int ACCESS, int COLUMNS>
constexpr int kShiftedPitch = (COLUMNS / kShifts<ACCESS> + 1) * kShifts<ACCESS>;

// The same of a tile of u, delta or z, however it is moved.
constexpr int kSequenceRows = kSeqContiguous ? kWarpChannels : kTile;
constexpr int kSequenceColumns = kSeqContiguous ? kTile : kWarpChannels;
template <int ACCESS>
constexpr int kPitch = kShifted<ACCESS> ? kShiftedPitch<ACCESS, kSequenceColumns>
                       : kSeqContiguous ? kPaddedSteps
                                        : kWarpChannels;
// Outputs replace u, unshifted: where u is, they lie where u of the step or channel before was. Those of steps that are
// scanned backwards would lie where u of the next one still is, but for a word or window.
constexpr int kOutputPitch = kPitch<MS_U_ACCESS>;
constexpr int kOutputPlace = kShifted<MS_U_ACCESS> && kSeqContiguous && kReverse ? kShifts<MS_U_ACCESS> : 0;

// The same of B and C. Rows of steps that lanes read raw are padded as those of channels are.
template <int ORDER>
constexpr int kProjectionRows = ORDER == 1 ? kDState : kTile;
template <int ORDER>
constexpr int kProjectionColumns = ORDER == 1 ? kTile : kDState * kParts;
template <int ORDER, int ACCESS>
constexpr int kProjectionPitch = kShifted<ACCESS> ? kShiftedPitch<ACCESS, kProjectionColumns<ORDER>>
                                 : ORDER == 1 && kReadsRaw<ORDER, ACCESS> ? kPaddedSteps
                                                                          : kProjectionColumns<ORDER>;
template <int ORDER, int ACCESS>
constexpr int kProjectionElements = ORDER == 3 ? 1 : kProjectionRows<ORDER> * kProjectionPitch<ORDER, ACCESS>;

static_assert(32 % kLanes == 0 && kPaddedStates >= kDState, "states must fit the lanes");
static_assert((kChannels & (kChannels - 1)) == 0, "channels per lane are halved when sums are reduced");
static_assert(kParts == 1 || (MS_B_ORDER != 1 && MS_C_ORDER != 1), "complex numbers are copied pair by pair");
static_assert(!kPrepared || (kParts == 1 && MS_B_ORDER != 3), "what is constant in time, or complex, is not prepared");
static_assert((MS_U_ACCESS != kWindows && MS_DELTA_ACCESS != kWindows && MS_Z_ACCESS != kWindows) ||
                  (kElementBytes == 2 && kTile % 8 == 0 && kSequenceColumns % 8 == 0 && kSequenceColumns <= 32),
              "rows fill windows, and those of a lane are shifted alike");
static_assert(kTile % 4 == 0, "prepared tiles are copied in chunks of 16 bytes");
static_assert(kStages >= 2, "a tile is copied while another is computed");
static_assert(kChannels == 1 || !(kShifted<MS_U_ACCESS> || kShifted<MS_DELTA_ACCESS> || kShifted<MS_Z_ACCESS>),
              "a lane's channels would not be adjacent");
static_assert(!kReadsDirectly || (MS_DELTA_ACCESS == kDirectly && (!MS_HAS_Z || MS_Z_ACCESS == kDirectly) &&
                                  !kSeqContiguous && kLanes == 1 && kChannels == 1 && kWarps == 1 && kAbreast == 1 &&
                                  !kServed && !MS_PACKED && !MS_SLICE && !MS_INVARIANT),
              "all sequences of a lane that has its channel to itself");
static_assert(kTile % kSteps == 0 && kSteps % 2 == 0, "a tile holds whole groups, and the gate takes pairs of steps");
static_assert((kSteps & (kSteps - 1)) == 0, "steps are halved when sums are reduced");

// B and C of a tile in fp32, [step][part][s]: a lane's states of a step are adjacent.
constexpr int kTileFloats = kTile * kPaddedStates * kParts;

// Are B and C brought from where copies have left them to where lanes read them?
constexpr bool kExpandsB = !kBConstant && !kReadsPrepared && !kReadsRawB && !kReadsBInPlace;
constexpr bool kExpandsC = !kCConstant && !kReadsPrepared && !kReadsRawC && !kReadsCInPlace;

// One tile as it lies in global memory. Activations are [step][channel], or [channel][step] when steps are adjacent;
// these rows of steps then run as they do in memory, the last step first when kReverse.
struct __align__(16) Stage {
  __align__(16) Element u[kReadsDirectly ? 1 : kSequenceRows * kPitch<MS_U_ACCESS>];
  __align__(16) Element delta[kReadsDirectly ? 1 : kSequenceRows * kPitch<MS_DELTA_ACCESS>];
  __align__(16) Element z[MS_HAS_Z && !kReadsDirectly ? kSequenceRows * kPitch<MS_Z_ACCESS> : 1];
#if MS_PREPARED
  __align__(16) float B[kTileFloats];
  __align__(16) float C[kCConstant ? 1 : kTileFloats];  // constant: carry.cu, which needs none
#else
  __align__(16) Element B[kProjectionElements<MS_B_ORDER, MS_B_ACCESS>];
  __align__(16) Element C[kProjectionElements<MS_C_ORDER, MS_C_ACCESS>];
#endif
};

struct Row {
  int batch;
  int group;
  int first_channel;  // of the warp
  int channels;       // that exist, at most kWarpChannels
};

// Part of a row, in tiles from the row's begin; `next` is where the slot's next piece begins, counted over all rows.
struct Piece {
  Row row;
  int begin, end;
  int next;
};

struct __align__(16) ExpandedTile {
  __align__(16) float B[kExpandsB ? kTileFloats : 1];
  __align__(16) float C[kExpandsC ? kTileFloats : 1];
};

struct __align__(16) Shared {
  Stage stage[kStages];
  // What the warp is working on. Here because registers are short, and it is needed once per tile at most.
  Piece piece;
#if MS_ABREAST > 1
  int threads;  // of the block: the last one of a group may have fewer rows
#endif
#if MS_PACKED
  int sequence;    // which is being scanned, counted in the order of scanning
  Index boundary;  // the step at which it ends
  int done;        // steps of the tile before the ones being computed
#endif
#if MS_Y_ACCESS == 3
  __align__(16) Element waiting[kSequenceRows * kSectorElements];  // outputs (sector_outputs.cuh)
#endif
#if !MS_SERVED            // which has two at a time
  ExpandedTile expanded;  // the one being computed
#endif
};

// Where lanes read B and C of the tile in `stage`.
__device__ __forceinline__ const float* tile_B(const ExpandedTile& expanded, const Stage& stage) {
  return kReadsPrepared || kReadsBInPlace ? reinterpret_cast<const float*>(stage.B) : expanded.B;
}
__device__ __forceinline__ const float* tile_C(const ExpandedTile& expanded, const Stage& stage) {
  return kReadsPrepared || kReadsCInPlace ? reinterpret_cast<const float*>(stage.C) : expanded.C;
}

// The block's table, at the begin of its dynamic shared memory.
constexpr int kTableBytes = kTabulated ? static_cast<int>(sizeof(ActivationTable)) : 0;
__device__ __forceinline__ ActivationTable& activation_table() {
  MS_DYNAMIC_SHARED(uint4, memory);
  return *reinterpret_cast<ActivationTable*>(memory);
}

// ---- which piece of which row ----

struct Range {
  int begin, end;  // tiles, counted over all rows
};

__device__ __forceinline__ Range slot_range(const SelectiveScanForwardParams& params, int slot) {
#if MS_INVARIANT
  const int first = slot % params.slots_per_row * params.segment_tiles;
  const int row_begin = slot / params.slots_per_row * params.tiles_per_row;
  return {row_begin + first, row_begin + min(first + params.segment_tiles, params.tiles_per_row)};
#else
  const bool by_row = params.slots_per_row > 0;
  const int tiles = by_row ? params.tiles_per_row : params.tiles;
  const int slots = by_row ? params.slots_per_row : params.slots;
  const int row = slot / slots, share = slot % slots;  // row 0: all of them
  const int each = tiles / slots, extra = tiles % slots;
  const int begin = row * tiles + share * each + min(share, extra);
  return {begin, begin + each + (share < extra ? 1 : 0)};
#endif
}

__device__ __forceinline__ Row row_of(const SelectiveScanForwardParams& params, int row) {
  // Few sequences are scanned in the time of a few divisions, and usually need none.
  int block = row, batch = 0, group = 0;
  if (row >= params.blocks_per_group) batch = row / params.blocks_per_group, block -= batch * params.blocks_per_group;
  const int groups = static_cast<int>(params.problem.ngroups);
  if (groups > 1) {
    const int batch_group = batch;
    batch = batch_group / groups, group = batch_group - batch * groups;
  }
  const int first_in_group = block * kWarpChannels;
  return {batch, group, group * params.channels_per_group + first_in_group,
          min(kWarpChannels, params.channels_per_group - first_in_group)};
}

// The lane's number, but what depends on it is computed anew. That it is less than 32 the compiler still knows, and
// divides it by shifting.
__device__ __forceinline__ int lane_anew(int lane) { return opaque(lane) & 31; }

// Which rows of which batch and group go abreast in a block.
struct Abreast {
  int share;            // of each of the rows
  int batch_and_group;  // counted over all
  int first;            // of the blocks_per_group rows
};
__device__ __forceinline__ Abreast rows_of_block(const SelectiveScanForwardParams& params, int block) {
  const int shares = max(params.slots_per_row, 1), blocks = (params.blocks_per_group + kAbreast - 1) / kAbreast;
  const int of_share = block / shares;
  return {block % shares, of_share / blocks, of_share % blocks * kAbreast};
}

// How many there are.
__device__ __forceinline__ int rows_abreast(const SelectiveScanForwardParams& params) {
  return min(kAbreast, params.blocks_per_group - rows_of_block(params, static_cast<int>(blockIdx.x)).first);
}

__device__ __forceinline__ void note_abreast(const SelectiveScanForwardParams& params, Shared& shared, int lane) {
#if MS_ABREAST > 1
  if (lane == 0) shared.threads = 32 * rows_abreast(params);
  __syncwarp();
#endif
}

__device__ __forceinline__ int threads_abreast(const Shared& shared) {
#if MS_ABREAST > 1
  return shared.threads;
#else
  return 32;
#endif
}

// Until all rows of the block have come here. A row that is alone does not wait.
__device__ __forceinline__ void wait_abreast(const Shared& shared) {
  if constexpr (kAbreast > 1) barrier_wait(0, threads_abreast(shared));
}

// The warp's slot. Read anew at each use, once per piece: not worth a register for the whole scan.
__device__ __forceinline__ int this_slot(const SelectiveScanForwardParams& params) {
  const int block = opaque(static_cast<int>(blockIdx.x));
  if constexpr (kBlockWarps == 1) return block;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if constexpr (kAbreast == 1) return block * kBlockWarps + warp;
  const Abreast at = rows_of_block(params, block);
  const int row = at.batch_and_group * params.blocks_per_group + at.first + warp;
  return row * max(params.slots_per_row, 1) + at.share;
}

// The piece of the slot's range that begins at tile `begin`, counted over all rows.
__device__ __forceinline__ Piece piece_at(const SelectiveScanForwardParams& params, int begin, int range_end) {
  const int row = begin / params.tiles_per_row;
  const int row_begin = row * params.tiles_per_row;
  const int end = min(range_end - row_begin, params.tiles_per_row);
  return {row_of(params, row), begin - row_begin, end, row_begin + end};
}

// The piece of the slot's range that ends at tile `end`, counted over all rows.
__device__ __forceinline__ Piece piece_until(const SelectiveScanForwardParams& params, int range_begin, int end) {
  const int row_begin = (end - 1) / params.tiles_per_row * params.tiles_per_row;
  return piece_at(params, max(range_begin, row_begin), end);
}

// That exist.
__device__ __forceinline__ int steps_of_tile(const SelectiveScanProblem& p, int tile) {
  return static_cast<int>(min(static_cast<Index>(kTile), p.seqlen - static_cast<Index>(tile) * kTile));
}

// The same in fewer instructions, where all tiles ask: of a row's last one 32 bits are enough to tell.
__device__ __forceinline__ int steps_of_tile(const SelectiveScanForwardParams& params, int tile) {
  if (tile + 1 < params.tiles_per_row) return kTile;
  return static_cast<int>(static_cast<unsigned>(params.problem.seqlen) - static_cast<unsigned>(tile) * kTile);
}

#if MS_INVARIANT
// A segment that is full, and hands on a state, wherever the row ends.
__device__ __forceinline__ bool is_whole_segment(const SelectiveScanForwardParams& params, const Piece& piece) {
  return piece.end - piece.begin == params.segment_tiles &&
         static_cast<Index>(piece.end) * kTile <= params.problem.seqlen;
}
#endif

// ---- packed sequences ----

#if MS_PACKED
// Where sequence i begins and the one before it ends, steps and sequences both counted in the order of scanning. Values
// that lie outside belong to another part of the row or are the caller's mistake, which must not become a store outside
// of y.
__device__ __forceinline__ Index sequence_begin(const SelectiveScanProblem& p, int i) {
  const Index step = p.cu_seqlens[p.reverse ? p.sequences - i : i] - p.packed_begin;
  const Index inside = min(max(step, Index{0}), p.seqlen);
  return p.reverse ? p.seqlen - inside : inside;
}

// The last sequence that begins at this step or before it.
__device__ __forceinline__ int sequence_at(const SelectiveScanProblem& p, Index step) {
  int low = 0, high = static_cast<int>(p.sequences) - 1;
#pragma unroll 1
  while (low < high) {
    const int middle = low + (high - low + 1) / 2;
    if (sequence_begin(p, middle) <= step) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}
#endif

// ---- which channels and states of the warp ----

struct LaneId {
  int lane;
  int part;  // which of the kLanes lanes that share channels
  int quad;
  int first_owned;  // index r of the first channel whose sums this lane ends up with
  int first_step;   // of these steps of a group, the first
};

__device__ __forceinline__ LaneId lane_id(int lane) {
  LaneId id{lane, lane % kLanes, lane / kLanes, 0, 0};
  int channels = kChannels / 2, steps = kSteps / 2;
#pragma unroll
  for (int distance = 1; distance < kLanes; distance *= 2) {
    const bool upper = (id.part & distance) != 0;
    if (distance < kChannels) {
      if (upper) id.first_owned += channels;
      channels /= 2;
    } else {
      if (upper) id.first_step += steps;
      steps /= 2;
    }
  }
  return id;
}

// Where a block is one warp, the remainder costs sm_70 a register that it does not have.
__device__ __forceinline__ LaneId lane_id() {
  const int thread = static_cast<int>(threadIdx.x);
  return lane_id(kWarps > 1 || kServed || kBlockWarps > 1 ? thread % 32 : thread);
}

// Which state register s of a lane holds.
__device__ __forceinline__ constexpr int state_of(int part, int s) {
  return kInterleavedStates ? s * kLanes + part : part * kStates + s;
}

__device__ __forceinline__ int channel_of(LaneId id, int r) {
  return kSeqContiguous ? r * kQuads + id.quad : id.quad * kChannels + r;
}

// Lanes `distance` apart have shares of 2 * `half` sums: adds them up, the upper lane to the second half of the sums,
// the other one to the first. Either finds its sums in value[0 .. half - 1]. Of a single sum (half 0) both get all.
template <int COUNT>
__device__ __forceinline__ void add_shares(float (&value)[COUNT], int half, int distance, LaneId id) {
  if (half == 0) value[0] += __shfl_xor_sync(kAllLanes, value[0], distance);
  const bool upper = (id.part & distance) != 0;
#pragma unroll
  for (int i = 0; i < half; ++i) {
    const float keep = upper ? value[i + half] : value[i];
    const float give = upper ? value[i] : value[i + half];
    value[i] = keep + __shfl_xor_sync(kAllLanes, give, distance);
  }
}

// The inverse: from HALF values in each of two lanes to all of them in both.
template <int HALF, int COUNT>
__device__ __forceinline__ void join_halves(float (&value)[COUNT], int distance, LaneId id) {
  const bool upper = (id.part & distance) != 0;
#pragma unroll
  for (int i = 0; i < HALF; ++i) {
    const float mine = value[i];
    const float other = __shfl_xor_sync(kAllLanes, mine, distance);
    value[i] = upper ? other : mine;
    value[i + HALF] = upper ? mine : other;
  }
}

// Adds the kLanes lanes' shares of the sums of kSteps steps and kChannels channels, in rounds between lanes 1, 2, 4 ..
// apart: first those that divide the channels, step by step, by the first function, then those that divide the steps,
// by the second. Afterwards value[i] or value[i][t] is the whole sum of channel first_owned + i at step first_step + t.
__device__ __forceinline__ void reduce_over_lanes(float (&value)[kChannels], LaneId id) {
#pragma unroll
  for (int distance = 1; distance < kLanes && distance < kChannels; distance *= 2)
    add_shares(value, kChannels / (2 * distance), distance, id);
}

__device__ __forceinline__ void reduce_over_lanes(float (&value)[kOwned][kSteps], LaneId id) {
#pragma unroll
  for (int distance = kChannels; distance < kLanes; distance *= 2)
    add_shares(value[0], kSteps * kChannels / (2 * distance), distance, id);
}

// The inverses, lanes DISTANCE, DISTANCE / 2 .. apart. Recursive, because the compiler gives up unrolling loops over so
// many steps, whose values are then no registers.
template <int DISTANCE>
__device__ __forceinline__ void gather_steps(float (&value)[kSteps], LaneId id) {
  if constexpr (DISTANCE >= kChannels) {
    join_halves<kSteps * kChannels / (2 * DISTANCE)>(value, DISTANCE, id);
    gather_steps<DISTANCE / 2>(value, id);
  }
}

template <int DISTANCE>
__device__ __forceinline__ void gather_channels(float (&value)[kChannels], LaneId id) {
  if constexpr (DISTANCE >= 1) {
    join_halves<kChannels / (2 * DISTANCE)>(value, DISTANCE, id);
    gather_channels<DISTANCE / 2>(value, id);
  }
}

// From the owned channels and steps to all of them, in every lane.
__device__ __forceinline__ void gather_over_lanes(float (&value)[kSteps][kChannels], LaneId id) {
  if constexpr (kStepShares > 1) {
    float of_steps[kSteps];
#pragma unroll
    for (int t = 0; t < kOwnedSteps; ++t) of_steps[t] = value[t][0];
    gather_steps<kChannels * kStepShares / 2>(of_steps, id);
#pragma unroll
    for (int t = 0; t < kSteps; ++t) value[t][0] = of_steps[t];
  }
#pragma unroll
  for (int t = 0; t < kSteps; ++t) gather_channels<(kLanes < kChannels ? kLanes : kChannels) / 2>(value[t], id);
}

// Calls visit(r, s, index, exists) for every state of the lane, index counting elements from the warp's first channel
// and state 0 and always valid. Strides are added up rather than multiplied, and there is no branch: 64-bit addresses
// and predicates of 32 states at once would cost registers.
template <class Visit>
__device__ __forceinline__ void for_each_state(const Row& row, LaneId id, Index dim_stride, Index state_stride,
                                               Visit visit) {
#pragma unroll
  for (int r = 0; r < kChannels; ++r) {
    const int c = channel_of(id, r);
    const bool channel_exists = c < row.channels;
    Index index = channel_exists ? c * dim_stride + state_of(id.part, 0) * state_stride : 0;
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      const bool exists = channel_exists && state_of(id.part, s) < kDState;
      visit(r, s, kPaddedStates == kDState || exists ? index : 0, exists);
      index += channel_exists ? (kInterleavedStates ? kLanes : 1) * state_stride : 0;
    }
  }
}

// A number for each of a lane's states.
using States = float[kChannels][kStates];

__device__ __forceinline__ void set_zero(States& value) {
#pragma unroll
  for (int r = 0; r < kChannels; ++r)
#pragma unroll
    for (int s = 0; s < kStates; ++s) value[r][s] = 0.0f;
}

// A * log2(e): exp(dt * A) = 2^(dt * rate). Zero where there is no such channel or state.
__device__ __forceinline__ void load_decay_rates(const SelectiveScanProblem& p, const Row& row, LaneId id,
                                                 States& rate) {
  const float* A = p.A + row.first_channel * p.A_dim_stride;
  for_each_state(row, id, p.A_dim_stride, p.A_state_stride,
                 [&](int r, int s, Index index, bool exists) { rate[r][s] = exists ? A[index] * kLog2E : 0.0f; });
}

// B or C when it is constant in time.
__device__ __forceinline__ void load_constant_projection(const ProjectionTensor& tensor, const Row& row, LaneId id,
                                                         States& to) {
  const float* from = static_cast<const float*>(tensor.data) + row.first_channel * tensor.group_stride;
  for_each_state(row, id, tensor.group_stride, tensor.state_stride,
                 [&](int r, int s, Index index, bool exists) { to[r][s] = exists ? from[index] : 0.0f; });
}

// The row's part of the index-th of a (batch, dim, dstate) tensor, or (sequences, dim, dstate) when packed.
__device__ __forceinline__ float* row_states(const StateTensor& tensor, const Row& row, Index index) {
  return tensor.data + index * tensor.batch_stride + row.first_channel * tensor.dim_stride;
}

// Which that is for the sequence at hand.
__device__ __forceinline__ Index state_index(const SelectiveScanProblem& p, const Shared& shared) {
#if MS_PACKED
  return p.reverse ? p.sequences - 1 - shared.sequence : shared.sequence;
#else
  return shared.piece.row.batch;
#endif
}

__device__ __forceinline__ float* row_states(const SelectiveScanProblem& p, const StateTensor& tensor,
                                             const Shared& shared) {
  return row_states(tensor, shared.piece.row, state_index(p, shared));
}

__device__ __forceinline__ void clear_shared(Shared& shared, int lane) {
  for (int i = lane; i < static_cast<int>(sizeof(Shared) / sizeof(unsigned)); i += 32)
    reinterpret_cast<unsigned*>(&shared)[i] = 0u;
  __syncwarp();
}

// Where the carry of state n of this lane's channel r lies, relative to the slot's.
__device__ __forceinline__ int carry_place(LaneId id, int r, int n) {
  return (r * kPaddedStates + n) * kQuads + id.quad;
}

// The power of 2 that a state handed on must have decayed below to be forgotten.
constexpr float kDecayed = MS_DTYPE == 0 ? -kRememberedBitsOfFp32 : -kRememberedBits;

}  // namespace
}  // namespace mamba_scan
