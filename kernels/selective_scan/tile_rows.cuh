// How tiles of u, delta, z, B and C of any strides and alignment come from global into the warp's shared memory, and
// those of y back; tile_copy.cuh has the faster way of whole tiles that are moved in vectors.
#pragma once

#include "selective_scan/warp_tile.cuh"

namespace mamba_scan {
namespace {

// The widest asynchronous copy that rows of this many bytes divide into; below 4 there is none.
template <int ROW_BYTES>
constexpr int kChunkBytes = ROW_BYTES % 16 == 0  ? 16
                            : ROW_BYTES % 8 == 0 ? 8
                            : ROW_BYTES % 4 == 0 ? 4
                                                 : kElementBytes;

// The same of rows of so many elements that are moved as ACCESS says.
template <int ACCESS, int COLUMNS>
constexpr int kCopyBytes =
    ACCESS == kWords || ACCESS == kWindows ? kShifts<ACCESS> * kElementBytes : kChunkBytes<COLUMNS * kElementBytes>;

// The rows of a tile as they lie in global memory. Those from `rows` on, and columns before `first` or from `past` on,
// lie outside of the problem.
struct Rows {
  const Element* from;  // row 0, column 0
  Index row_stride, column_stride;
  int rows, first, past;
};

// Of u, delta, z or y: `steps` steps of `channels` channels from step `first_step` of the row.
__device__ __forceinline__ Rows sequence_rows(const SequenceTensor& x, const Row& row, Index first_step, int steps,
                                              int channels) {
  const Element* from = static_cast<const Element*>(x.data) + row.batch * x.batch_stride + first_step * x.seq_stride +
                        row.first_channel * x.dim_stride;
  if (!kSeqContiguous) return {from, x.seq_stride, x.dim_stride, steps, 0, channels};
  if (!kReverse) return {from, x.dim_stride, x.seq_stride, channels, 0, steps};
  return {from + (kTile - 1) * x.seq_stride, x.dim_stride, -x.seq_stride, channels, kTile - steps, kTile};
}

// Of B or C. Complex numbers count as two columns, which are adjacent.
template <int ORDER>
__device__ __forceinline__ Rows projection_rows(const ProjectionTensor& x, const Row& row, Index first_step,
                                                int steps) {
  const Element* from = static_cast<const Element*>(x.data) + row.batch * x.batch_stride + first_step * x.seq_stride +
                        row.group * x.group_stride;
  if (ORDER != 1) return {from, x.seq_stride, x.state_stride, steps, 0, kDState * kParts};
  if (!kReverse) return {from, x.state_stride, x.seq_stride, kDState, 0, steps};
  return {from + (kTile - 1) * x.seq_stride, x.state_stride, -x.seq_stride, kDState, kTile - steps, kTile};
}

// By how many elements a row that begins here is shifted.
template <int ACCESS>
__device__ __forceinline__ int shift_of_row(const void* begin) {
  return static_cast<int>(reinterpret_cast<unsigned long long>(begin) / kElementBytes & (kShifts<ACCESS> - 1));
}

// Does a 16-bit element lie in the second half of a word?
__device__ __forceinline__ int is_second_half(const void* element) {
  return static_cast<int>(reinterpret_cast<unsigned long long>(element) >> 1 & 1);
}

// Asynchronously, ROWS x COLUMNS elements to rows PITCH apart: the chunks in which at least one exists, whole, see
// kLargestChunk. What does not exist may become anything.
template <int ACCESS, int ROWS, int COLUMNS, int PITCH>
__device__ __forceinline__ void copy_rows(Element* to, const Rows& from, int lane) {
  constexpr int kBytes = kCopyBytes<ACCESS, COLUMNS>;
  static_assert(kBytes >= 4, "there is no asynchronous copy of less");
  constexpr int kWidth = kBytes / kElementBytes;
  constexpr int kPerRow = COLUMNS / kWidth + kShifted<ACCESS>;
  constexpr int kCount = ROWS * kPerRow;
#pragma unroll
  for (int i = 0; i < (kCount + 31) / 32; ++i) {
    const int index = i * 32 + lane;
    if (kCount % 32 != 0 && index >= kCount) break;
    const int row = index / kPerRow, column = index % kPerRow * kWidth;
    const Element* source = from.from + row * from.row_stride;
    const int first = column - shift_of_row<ACCESS>(source);  // of the chunk's elements
    if (row < from.rows && first + kWidth > from.first && first < from.past)
      async_copy<kBytes>(to + row * PITCH + column, source + first);
  }
}

// The same for any distance between columns. Several elements are on their way at once.
template <int ROWS, int COLUMNS, int PITCH>
__device__ __forceinline__ void copy_elements(Element* to, const Rows& from, int lane) {
  constexpr int kTogether = 8, kCount = ROWS * COLUMNS;
#pragma unroll 1
  for (int base = lane; base < kCount; base += 32 * kTogether) {
    Element value[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      const int row = (base + k * 32) / COLUMNS, column = (base + k * 32) % COLUMNS;
      from_float(0.0f, value[k]);
      if (row < from.rows && column >= from.first && column < from.past)
        load_global<kElementBytes>(from.from + row * from.row_stride + column * from.column_stride, &value[k]);
    }
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      const int row = (base + k * 32) / COLUMNS, column = (base + k * 32) % COLUMNS;
      if (row < ROWS) to[row * PITCH + column] = value[k];
    }
  }
}

template <int ACCESS>
__device__ __forceinline__ void copy_sequence(Element* to, const SequenceTensor& tensor, const Row& row,
                                              Index first_step, int steps, int channels, int lane) {
  if constexpr (ACCESS == kDirectly) return;
  const Rows from = sequence_rows(tensor, row, first_step, steps, channels);
  if constexpr (ACCESS == kElementwise) {
    copy_elements<kSequenceRows, kSequenceColumns, kPitch<ACCESS>>(to, from, lane);
  } else {
    copy_rows<ACCESS, kSequenceRows, kSequenceColumns, kPitch<ACCESS>>(to, from, lane);
  }
}

// Complex B or C of any strides, one number at a time, adjacent lanes along whichever of states and steps is the
// closer together in memory. Steps past the existing ones become zero.
__device__ __forceinline__ void copy_pairs(Element* to, const ProjectionTensor& tensor, const Element* from, int steps,
                                           int lane) {
  const auto distance = [](Index stride) { return stride < 0 ? -stride : stride; };
  const bool by_steps = distance(tensor.seq_stride) < distance(tensor.state_stride);
#pragma unroll 1
  for (int i = lane; i < kTile * kDState * 2; i += 32) {
    const int part = i % 2, pair = i / 2;
    const int step = by_steps ? pair % kTile : pair / kDState, n = by_steps ? pair / kTile : pair % kDState;
    Element* element = &to[(step * kDState + n) * 2 + part];
    from_float(0.0f, *element);
    if (step < steps)
      load_global<kElementBytes>(from + step * tensor.seq_stride + n * tensor.state_stride + part * tensor.imag_stride,
                                 element);
  }
}

// B or C: [step][state][part], or [state][step] when steps are adjacent in memory (ORDER 1, real only).
template <int ORDER, int ACCESS>
__device__ __forceinline__ void copy_projection(Element* to, const ProjectionTensor& tensor, const Row& row,
                                                Index first_step, int steps, int lane) {
  const Rows from = projection_rows<ORDER>(tensor, row, first_step, steps);
  if constexpr (kParts == 2 && ORDER == 2) {
    copy_pairs(to, tensor, from.from, steps, lane);
  } else if constexpr (ORDER == 2) {
    copy_elements<kTile, kDState, kDState>(to, from, lane);
  } else if constexpr (ORDER != 3) {
    copy_rows<ACCESS, kProjectionRows<ORDER>, kProjectionColumns<ORDER>, kProjectionPitch<ORDER, ACCESS>>(to, from,
                                                                                                          lane);
  }
}

// OUTPUTS: also what only outputs need, z and C. Without B and C when these are prepared.
template <bool OUTPUTS>
__device__ __forceinline__ void copy_stage(const SelectiveScanProblem& p, const Row& row, int tile, Stage& stage,
                                           int lane) {
  lane = lane_anew(lane);
  const Index first_step = static_cast<Index>(tile) * kTile;
  const int steps = static_cast<int>(min(static_cast<Index>(kTile), p.seqlen - first_step));
  copy_sequence<MS_U_ACCESS>(stage.u, p.u, row, first_step, steps, row.channels, lane);
  copy_sequence<MS_DELTA_ACCESS>(stage.delta, p.delta, row, first_step, steps, row.channels, lane);
  if constexpr (OUTPUTS && MS_HAS_Z)
    copy_sequence<MS_Z_ACCESS>(stage.z, p.z, row, first_step, steps, row.channels, lane);
#if !MS_PREPARED
  copy_projection<MS_B_ORDER, MS_B_ACCESS>(stage.B, p.B, row, first_step, steps, lane);
  if constexpr (OUTPUTS) copy_projection<MS_C_ORDER, MS_C_ACCESS>(stage.C, p.C, row, first_step, steps, lane);
#endif
}

// ---- outputs ----

// Whole chunks of 16 bytes, from elements that need not begin with a word: word(i) is the i-th, counted from that of
// the first element, which `odd` says is the word's second.
constexpr int kChunkElements = 16 / kElementBytes;
template <class Word>
__device__ __forceinline__ void store_chunk(char* to, bool odd, const Word& word) {
  unsigned words[4] = {word(0), word(1), word(2), word(3)};
  if constexpr (kElementBytes == 2) {
    const unsigned last = word(odd ? 4 : 3);  // where none is needed, perhaps none is there
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = __funnelshift_r(words[i], i < 3 ? words[i + 1] : last, odd ? 16 : 0);
  }
  store_global<16>(to, words);
}

// In words where both halves of one are there, whatever the alignment.
__device__ __forceinline__ void store_rows(const Element* tile, const Rows& to, int lane) {
  constexpr int kWidth = 4 / kElementBytes;
  constexpr int kPerRow = kWidth == 1 ? kSequenceColumns : kSequenceColumns / 2 + 1;
  constexpr int kCount = kSequenceRows * kPerRow;
#pragma unroll 4
  for (int i = 0; i < (kCount + 31) / 32; ++i) {
    const int index = i * 32 + lane, row = index / kPerRow;
    if (row >= to.rows) break;
    Element* target = const_cast<Element*>(to.from) + row * to.row_stride;
    const int column = index % kPerRow * kWidth - (kWidth == 2 ? is_second_half(target) : 0);
    const Element* from = tile + row * kOutputPitch + kOutputPlace + column;
    target += column;
    const auto exists = [&](int c) { return c >= to.first && c < to.past; };
    if constexpr (kWidth == 1) {
      if (exists(column)) store_global<4>(target, from);
    } else if (exists(column) && exists(column + 1)) {
      const struct __align__(4) {
        Element value[2];
      } pair = {{from[0], from[1]}};
      store_global<4>(target, &pair);
    } else if (exists(column)) {
      store_global<kElementBytes>(target, from);
    } else if (exists(column + 1)) {
      store_global<kElementBytes>(target + 1, from + 1);
    }
  }
}

__device__ __forceinline__ void store_elements(const Element* tile, const Rows& to, int lane) {
#pragma unroll 4
  for (int i = lane; i < kSequenceRows * kSequenceColumns; i += 32) {
    const int row = i / kSequenceColumns, column = i % kSequenceColumns;
    if (row < to.rows && column >= to.first && column < to.past)
      store_global<kElementBytes>(const_cast<Element*>(to.from) + row * to.row_stride + column * to.column_stride,
                                  &tile[row * kOutputPitch + kOutputPlace + column]);
  }
}

// The outputs of a tile without all steps or channels, or of a y that is not moved in vectors.
__device__ __forceinline__ void store_part(const Element* tile, const SequenceTensor& y, const Row& row,
                                           Index first_step, int steps, int lane) {
  const Rows to = sequence_rows(y, row, first_step, steps, row.channels);
  if constexpr (MS_Y_ACCESS == kElementwise) {
    store_elements(tile, to, lane);
  } else {
    store_rows(tile, to, lane);
  }
}

}  // namespace
}  // namespace mamba_scan
