// How a warp stores outputs whose steps are adjacent in memory, in rows that begin in the middle of a sector: tile by
// tile it would write such a sector in two parts, and where the first has left the cache before the second comes,
// memory reads the sector besides. So what a tile has of its last sector waits for the next tile. Measured on an H100,
// fp16, in us: 10, 2163, 5556 with 7 states 792 -> 539, with 12 states 887 -> 649, with 16 states 749 -> 743.
//
//   row of y, sectors     |       :   |           |           |
//   tile t                        xxxxxxxxxxxxxxxx
//   stored with tile t                xxxxxxxxxxxx
//   tile t + 1                                    xxxxxxxxxxxx ...
//
// Where a piece of a row begins or ends, it has a part of a sector to itself and stores that.
#pragma once

#include "selective_scan/tile_rows.cuh"

namespace mamba_scan {
namespace {

#if MS_Y_ACCESS == 3
static_assert(kSeqContiguous && !kReverse && kTile % kSectorElements == 0, "rows of all tiles begin alike");

constexpr int kRowChunks = kTile / kChunkElements;

// By how many elements a row begins later than a sector.
__device__ __forceinline__ int into_sector(const char* row) {
  return static_cast<int>(reinterpret_cast<unsigned long long>(row) / kElementBytes % kSectorElements);
}

// A tile of outputs, of which elements before the first are those that the tile before has left.
struct WaitingOutputs {
  const Element *tile, *waiting;

  __device__ __forceinline__ const Element* at(int row, int element) const {
    return element < 0 ? waiting + (row + 1) * kSectorElements + element
                       : tile + row * kOutputPitch + kOutputPlace + element;
  }
};

// Single elements of rows: range(shift, i), of a row that begins `shift` elements later than a sector, for all i below
// MOST. kTile: none.
template <int MOST, class Range>
__device__ __forceinline__ void store_some(const WaitingOutputs& outputs, char* rows, Index row_bytes, int channels,
                                           int lane, const Range& range) {
#pragma unroll 1
  for (int i = lane; i < channels * MOST; i += 32) {
    const int row = i / MOST;
    char* const to = rows + row * row_bytes;
    const int element = range(into_sector(to), i % MOST);
    if (element < kTile) store_global<kElementBytes>(to + element * kElementBytes, outputs.at(row, element));
  }
}

// Tile t of the piece, after the ones before it. Keeps what waits for the next one.
__device__ __forceinline__ void store_sectors(const Element* tile, Element* waiting,
                                              const SelectiveScanForwardParams& p, const Piece& piece, int t,
                                              int lane) {
  const SequenceTensor& y = p.problem.y;
  const int channels = piece.row.channels;
  const Rows rows = sequence_rows(y, piece.row, static_cast<Index>(t) * kTile, kTile, channels);
  char* const first_row = reinterpret_cast<char*>(const_cast<Element*>(rows.from));
  const Index row_bytes = rows.row_stride * kElementBytes;
  const WaitingOutputs outputs = {tile, waiting};
  const bool begins = t == piece.begin;
  if (t + 1 == piece.end) {
    if (!begins)
      store_some<kSectorElements>(outputs, first_row, row_bytes, channels, lane,
                                  [](int shift, int i) { return i < shift ? i - shift : kTile; });
    store_part(tile, y, piece.row, static_cast<Index>(t) * kTile, steps_of_tile(p.problem, t), lane);
    return;
  }
  if (begins)
    store_some<kChunkElements>(outputs, first_row, row_bytes, channels, lane, [](int shift, int i) {
      return i < (kSectorElements - shift) % kChunkElements ? i : kTile;
    });
  constexpr int kTogether = 32 / kRowChunks;  // rows
  char* row = first_row + lane / kRowChunks * row_bytes;
#pragma unroll 2
  for (int r = lane / kRowChunks; r < channels; r += kTogether, row += kTogether * row_bytes) {
    const int element = lane % kRowChunks * kChunkElements - into_sector(row);
    if (element < 0 && begins) continue;
    constexpr int kInWord = 4 / kElementBytes;
    const int even = element & ~(kInWord - 1);
    store_chunk(row + element * kElementBytes, element != even,
                [&](int i) { return *reinterpret_cast<const unsigned*>(outputs.at(r, even + i * kInWord)); });
  }
  __syncwarp();
  constexpr int kWords = kSectorBytes / 4;
#pragma unroll
  for (int i = 0; i < kSequenceRows * kWords; i += 32) {
    const int index = i + lane;
    if (kSequenceRows * kWords % 32 == 0 || index < kSequenceRows * kWords)
      reinterpret_cast<unsigned*>(waiting)[index] = *reinterpret_cast<const unsigned*>(
          outputs.at(index / kWords, kTile - kSectorElements + index % kWords * (4 / kElementBytes)));
  }
}
#endif

}  // namespace
}  // namespace mamba_scan
