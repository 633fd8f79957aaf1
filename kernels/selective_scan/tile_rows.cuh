// How tiles of u, delta, z, B and C of any strides and alignment come from global into the warp's shared memory, row by
// row or, where nothing better is possible, element by element; tile_copy.cuh has the faster way of whole tiles.
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

// ROWS x COLUMNS elements, columns adjacent in shared memory and rows PITCH elements apart. VECTORED: adjacent and
// aligned in global memory too, and copied asynchronously. MIRRORED: column 0 comes last in shared memory, as in global
// memory (column_stride -1). Rows and columns past the existing ones are filled with `missing`.
template <int ROWS, int COLUMNS, int PITCH, bool VECTORED, bool MIRRORED>
__device__ __forceinline__ void copy_rows(Element* to, const Element* from, Index row_stride, Index column_stride,
                                          int rows, int columns, int lane, float missing = 0.0f) {
  constexpr int kRowBytes = COLUMNS * kElementBytes;
  static_assert(!VECTORED || kRowBytes % 4 == 0, "a vectored row is a whole number of 4-byte words");
  constexpr int kChunk = kChunkBytes<kRowBytes> / kElementBytes;
  constexpr int kPerRow = COLUMNS / kChunk;
  constexpr int kChunks = ROWS * kPerRow;
  if constexpr (VECTORED) {
    if (rows == ROWS && columns == COLUMNS) {
      // Rows a fixed distance apart are reached by adding: products of 64 bits would be kept in registers.
      constexpr bool kEven = 32 % kPerRow == 0;
      if (MIRRORED) from -= COLUMNS - 1;
      const Element* source = from + lane / kPerRow * row_stride + lane % kPerRow * kChunk;
#pragma unroll
      for (int i = 0; i < (kChunks + 31) / 32; ++i) {
        const int chunk = i * 32 + lane;
        const int row = chunk / kPerRow, column = chunk % kPerRow * kChunk;
        if (!kEven) source = from + row * row_stride + column;
        if (kChunks % 32 == 0 || chunk < kChunks) async_copy<kChunkBytes<kRowBytes>>(to + row * PITCH + column, source);
        source += 32 / kPerRow * row_stride;
      }
      return;
    }
  }
#pragma unroll 1
  for (int i = lane; i < ROWS * COLUMNS; i += 32) {
    const int row = i / COLUMNS, column = MIRRORED ? COLUMNS - 1 - i % COLUMNS : i % COLUMNS;
    Element* element = to + row * PITCH + i % COLUMNS;
    from_float(missing, *element);
    if (row < rows && column < columns)
      load_global<kElementBytes>(from + row * row_stride + column * column_stride, element);
  }
}

template <bool VECTORED>
__device__ __forceinline__ void copy_sequence(Element* to, const SequenceTensor& tensor, const Row& row,
                                              Index first_step, int steps, int lane, float missing = 0.0f) {
  const Element* from = static_cast<const Element*>(tensor.data) + row.batch * tensor.batch_stride +
                        first_step * tensor.seq_stride + row.first_channel * tensor.dim_stride;
  if constexpr (kSeqContiguous) {
    copy_rows<kWarpChannels, kTile, kPitch, VECTORED, kReverse>(to, from, tensor.dim_stride, tensor.seq_stride,
                                                                row.channels, steps, lane, missing);
  } else {
    copy_rows<kTile, kWarpChannels, kPitch, VECTORED, false>(to, from, tensor.seq_stride, tensor.dim_stride, steps,
                                                             row.channels, lane, missing);
  }
}

// Complex B or C of any strides, one number at a time, adjacent lanes along whichever of states and steps is the
// closer together in memory. Steps past the existing ones become zero.
__device__ __forceinline__ void copy_pairs(Element* to, const Element* from, const ProjectionTensor& tensor, int steps,
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
template <int ORDER>
__device__ __forceinline__ void copy_projection(Element* to, const ProjectionTensor& tensor, const Row& row,
                                                Index first_step, int steps, int lane) {
  if constexpr (ORDER == 3) return;
  const Element* from = static_cast<const Element*>(tensor.data) + row.batch * tensor.batch_stride +
                        first_step * tensor.seq_stride + row.group * tensor.group_stride;
  if constexpr (kParts == 2 && ORDER == 2) {
    copy_pairs(to, from, tensor, steps, lane);
  } else if constexpr (ORDER == 1) {
    copy_rows<kDState, kTile, kTile, true, kReverse>(to, from, tensor.state_stride, tensor.seq_stride, kDState, steps,
                                                     lane);
  } else {
    copy_rows<kTile, kDState * kParts, kDState * kParts, ORDER == 0, false>(
        to, from, tensor.seq_stride, kParts == 2 ? 1 : tensor.state_stride, steps, kDState * kParts, lane);
  }
}

// OUTPUTS: also what only outputs need, z and C.
template <bool OUTPUTS>
__device__ __forceinline__ void copy_stage(const SelectiveScanProblem& p, const Row& row, int tile, Stage& stage,
                                           int lane) {
  lane = opaque(lane);
  const Index first_step = static_cast<Index>(tile) * kTile;
  const int steps = static_cast<int>(min(static_cast<Index>(kTile), p.seqlen - first_step));
  copy_sequence<MS_U_VECTORED>(stage.u, p.u, row, first_step, steps, lane);
  copy_sequence<MS_DELTA_VECTORED>(stage.delta, p.delta, row, first_step, steps, lane, missing_delta());
  copy_projection<MS_B_ORDER>(stage.B, p.B, row, first_step, steps, lane);
  if constexpr (OUTPUTS) {
    if constexpr (MS_HAS_Z) copy_sequence<MS_Z_VECTORED>(stage.z, p.z, row, first_step, steps, lane);
    copy_projection<MS_C_ORDER>(stage.C, p.C, row, first_step, steps, lane);
  }
}

}  // namespace
}  // namespace mamba_scan
