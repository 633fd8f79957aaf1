// The team kernel's constants, and what a block of it has in shared memory; see team.cu.
#pragma once

#include "common/device.cuh"
#include "selective_scan/element.cuh"
#include "selective_scan/team_params.h"

namespace mamba_scan {
namespace {

using namespace device;

constexpr int kDState = MS_DSTATE;
constexpr int kLanes = MS_LANES;
constexpr int kStates = MS_STATES;
constexpr int kTile = MS_TILE;
constexpr int kUnroll = MS_UNROLL;
constexpr int kSegments = MS_SEGMENTS;
constexpr int kSegmentWarps = MS_WARPS / MS_SEGMENTS;
constexpr int kChannels = kSegmentWarps * (32 / kLanes);  // of the block
constexpr int kHelpers = MS_HELPERS * 32;
constexpr int kDepth = MS_DEPTH;
constexpr int kRing = kDepth + 4;  // raw tiles: under way, and kept until they are finished
constexpr bool kSeqContiguous = MS_SEQ_CONTIGUOUS;
static_assert(kLanes * kStates == kDState, "no lane without a state");
static_assert(kTile % kUnroll == 0, "a tile holds whole groups of steps");

// ROWS x COLUMNS elements per tile and segment, columns adjacent in global memory, copied in chunks of up to 16 bytes.
template <int ROWS, int COLUMNS>
struct Raw {
  static constexpr int kRowBytes = COLUMNS * kElementBytes;
  static constexpr int kChunkBytes = kRowBytes % 16 == 0 ? 16 : kRowBytes % 8 == 0 ? 8 : 4;
  static_assert(kRowBytes % 4 == 0, "rows are copied in words");
  static constexpr int kElements = kChunkBytes / kElementBytes;
  static constexpr int kPerRow = kRowBytes / kChunkBytes;
  static constexpr int kCount = kSegments * ROWS * kPerRow;
  // Rows of steps are read across: 16 bytes more put neighbouring rows in different banks.
  static constexpr int kPitch = kSeqContiguous ? COLUMNS + 16 / kElementBytes : COLUMNS;
  static constexpr int kSize = kSegments * ROWS * kPitch;
};
using RawSequence = Raw<kSeqContiguous ? kChannels : kTile, kSeqContiguous ? kTile : kChannels>;
using RawProjection = Raw<kSeqContiguous ? kDState : kTile, kSeqContiguous ? kTile : kDState>;
constexpr int kSequences = MS_HAS_Z ? 3 : 2;
constexpr int kSequenceCopies = (kSequences * RawSequence::kCount + kHelpers - 1) / kHelpers;
constexpr int kProjectionCopies = (2 * RawProjection::kCount + kHelpers - 1) / kHelpers;
constexpr int kOutputs = kSegments * kTile * kChannels;
constexpr int kOutputsEach = (kOutputs + kHelpers - 1) / kHelpers;
// Conversions of u and delta take two elements at once: channels, or steps where these are adjacent.
constexpr int kPairsOfInputs = kOutputs / 2;
constexpr int kPairsEach = (kPairsOfInputs + kHelpers - 1) / kHelpers;

// Where in a raw tile an element lies.
__device__ __forceinline__ int sequence_place(int segment, int step, int channel) {
  return kSeqContiguous ? (segment * kChannels + channel) * RawSequence::kPitch + step
                        : (segment * kTile + step) * RawSequence::kPitch + channel;
}
__device__ __forceinline__ int projection_place(int segment, int step, int n) {
  return kSeqContiguous ? (segment * kDState + n) * RawProjection::kPitch + step
                        : (segment * kTile + step) * RawProjection::kPitch + n;
}

struct __align__(16) RawTile {
  __align__(16) Element sequence[kSequences][RawSequence::kSize];  // u, delta, z
  __align__(16) Element projection[2][RawProjection::kSize];       // B, C
};

constexpr int kStepPairs = kLanes * kStates;
// Where steps are adjacent, B and C of a step are gathered; otherwise they are read as they were copied.
struct __align__(2 * kElementBytes) Pair {
  Element B, C;
};

struct __align__(16) Shared {
  RawTile raw[kRing];
  __align__(16) float2 dt_u[3][kSegments][kTile][kChannels];  // dt, dt * u
#if MS_SEQ_CONTIGUOUS
  __align__(16) Pair BC[3][kSegments][kTile][kStepPairs];
#endif
  __align__(16) float sums[2][kSegments][kTile][kSegmentWarps * 32];  // each lane's share of y
};

template <int COUNT>
struct __align__(COUNT* kElementBytes > 16 ? 16 : COUNT * kElementBytes) Elements {
  Element value[COUNT];
};

__device__ __forceinline__ int next_in_ring(int slot) { return slot + 1 == kRing ? 0 : slot + 1; }

static_assert(sizeof(Shared) == MS_SHARED_BYTES, "the plan has counted otherwise");

struct Place {
  int batch, group, first_channel;
  int channels;  // that exist, at most kChannels
};

}  // namespace
}  // namespace mamba_scan
