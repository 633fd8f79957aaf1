// How whole tiles move between global memory and the warp's shared memory: each lane keeps a pointer to its first chunk
// of every tensor's next tile, rather than compute 64-bit addresses anew for every tile, which took 24 instructions per
// step where this takes 4.
//
// A tile is rows of adjacent bytes, divided into chunks of 16 bytes, or of 8 or 4 where rows divide into no larger
// ones, or are not aligned to these. Chunk i * 32 + lane is the lane's i-th: all in the same column where the chunks of
// a row divide 32, so that they lie a constant TileSteps::between apart. For instance the 32 channels of 16-bit
// elements of a tile of 16 steps:
//
//   chunk of the row     0    1    2    3
//   step 0    lane       0    1    2    3
//   step 1               4    5    6    7
//   ...                                         between = 8 steps
//   step 8               0    1    2    3       advance = 16 steps
//
// Prepared B and C (prepare.cu) are whole tiles always, one after another, and need no pointers. Other tiles at a row's
// end, and tensors laid out otherwise, are copied as tile_rows.cuh does, at two or three times the instructions.
#pragma once

#include "selective_scan/tile_rows.cuh"

namespace mamba_scan {
namespace {

// PITCH: elements from a row to the next in shared memory.
template <int ACCESS, int ROWS, int COLUMNS, int PITCH>
struct Chunks {
  static constexpr int kAccess = ACCESS, kRows = ROWS, kColumns = COLUMNS, kPitch = PITCH;
  static constexpr int kBytes = kCopyBytes<ACCESS, COLUMNS>;
  static constexpr int kPerRow = COLUMNS * kElementBytes < kBytes ? 1 : COLUMNS * kElementBytes / kBytes;
  static constexpr int kCount = ROWS * kPerRow;
  static constexpr int kPerLane = (kCount + 31) / 32;
  // A lane's rows must all be shifted alike.
  static constexpr bool kByPointer = ACCESS != kElementwise && ACCESS != kDirectly && kBytes >= 4 &&
                                     COLUMNS * kElementBytes % kBytes == 0 && 32 % kPerRow == 0 &&
                                     32 / kPerRow % kShifts<ACCESS> == 0;

  // The lane's first chunk in global memory, where its first element is; its next ones are TileSteps::between further.
  static __device__ __forceinline__ const char* first(const Element* tile, Index row_stride, int lane) {
    return reinterpret_cast<const char*>(tile + lane / kPerRow * row_stride) + lane % kPerRow * kBytes;
  }

  // Calls visit(i, offset) for the lane's chunks, offset in bytes from the tile's begin in shared memory.
  template <class Visit>
  static __device__ __forceinline__ void for_each(int lane, Visit visit) {
    const int offset = lane / kPerRow * (PITCH * kElementBytes) + lane % kPerRow * kBytes;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      if (kCount % 32 == 0 || i * 32 + lane < kCount) visit(offset + i * (32 / kPerRow * PITCH * kElementBytes));
  }
};

template <int ACCESS>
using SequenceChunks = Chunks<ACCESS, kSequenceRows, kSequenceColumns, kPitch<ACCESS>>;

// B or C.
template <int ORDER, int ACCESS>
using ProjectionChunks =
    Chunks<ACCESS, kProjectionRows<ORDER>, kProjectionColumns<ORDER>, kProjectionPitch<ORDER, ACCESS>>;

template <int ORDER, int ACCESS>
constexpr bool kProjectionByPointer =
    ORDER < 2 && (ACCESS == kVectors || ACCESS == kWindows) && ProjectionChunks<ORDER, ACCESS>::kByPointer;

// The lane's first chunk of u, delta, z or y in a tile.
template <int ACCESS>
__device__ __forceinline__ const char* sequence_source(const SequenceTensor& x, const Row& row, int tile, int lane) {
  const Rows rows = sequence_rows(x, row, static_cast<Index>(tile) * kTile, kTile, kWarpChannels);
  return SequenceChunks<ACCESS>::first(rows.from, rows.row_stride, lane);
}

template <int ORDER, int ACCESS>
__device__ __forceinline__ const char* projection_source(const ProjectionTensor& x, const Row& row, int tile,
                                                         int lane) {
  const Element* first = static_cast<const Element*>(x.data) + row.batch * x.batch_stride +
                         static_cast<Index>(tile) * kTile * x.seq_stride + row.group * x.group_stride;
  if (ORDER == 1 && kReverse) first -= kTile - 1;
  return ProjectionChunks<ORDER, ACCESS>::first(first, ORDER == 1 ? x.state_stride : x.seq_stride, lane);
}

// u, delta or z: the chunks with any of the warp's channels, which may be fewer than it could have. Of what is in
// shared memory, or behind a pointer, nothing is read after the first copy: the compiler would read it anew for each.
template <int ACCESS, bool BACK>
__device__ __forceinline__ void copy_sequence_chunks(Element* to, const char*& from, const TileSteps& steps,
                                                     int channels, int lane) {
  using C = SequenceChunks<ACCESS>;
  const int shift = shift_of_row<ACCESS>(from);
  const char* source = from - shift * kElementBytes;
  const Index between = steps.between;
  from += BACK ? -steps.advance : steps.advance;
  if constexpr (kSeqContiguous) {
    const int rows = channels - lane / C::kPerRow;  // from the lane's first on
    int row = 0;
    C::for_each(lane, [&](int offset) {
      if (row < rows) async_copy<C::kBytes>(reinterpret_cast<char*>(to) + offset, source);
      source += between;
      row += 32 / C::kPerRow;
    });
  } else {
    const int channel = lane % C::kPerRow * (C::kBytes / kElementBytes) - shift;  // the first of the lane's chunks
    if (channel >= channels) return;
    C::for_each(lane, [&](int offset) {
      async_copy<C::kBytes>(reinterpret_cast<char*>(to) + offset, source);
      source += between;
    });
  }
}

// Row r's first element, of the tile in which the lane's first chunk begins with the element at `from`.
template <class C>
__device__ __forceinline__ const Element* begin_of_row(const char* from, Index row_stride, int r, int lane) {
  return reinterpret_cast<const Element*>(from - lane % C::kPerRow * C::kBytes +
                                          (r - lane / C::kPerRow) * row_stride * kElementBytes);
}

__device__ __forceinline__ Index sequence_row_stride(const SequenceTensor& x) {
  return kSeqContiguous ? x.dim_stride : x.seq_stride;
}

// The last words or windows of shifted rows, one more than rows divide into: a lane copies that of every 32nd row.
// exists(r, shift): whether that of row r has anything of the problem.
template <class C, class Exists>
__device__ __forceinline__ void copy_row_ends(Element* to, const char* from, Index row_stride, int lane,
                                              const Exists& exists) {
#pragma unroll
  for (int base = 0; base < C::kRows; base += 32) {
    const int r = base + lane;
    if (C::kRows % 32 != 0 && r >= C::kRows) break;
    const Element* row = begin_of_row<C>(from, row_stride, r, lane);
    const int shift = shift_of_row<C::kAccess>(row);
    if (exists(r, shift) && shift > 0)
      async_copy<C::kBytes>(to + r * C::kPitch + C::kColumns, row - shift + C::kColumns);
  }
}

// Those of u, delta or z.
template <int ACCESS>
__device__ __forceinline__ void copy_sequence_ends(Element* to, const char* from, const SequenceTensor& x, int channels,
                                                   int lane) {
  copy_row_ends<SequenceChunks<ACCESS>>(to, from, sequence_row_stride(x), lane, [&](int r, int shift) {
    return kSeqContiguous ? r < channels : channels + shift > kSequenceColumns;
  });
}

// B or C. BACK: on to the tile before this one rather than the one after it.
template <int ORDER, int ACCESS, bool BACK>
__device__ __forceinline__ void copy_projection_chunks(Element* to, const char*& from, const TileSteps& steps,
                                                       const ProjectionTensor& tensor, int lane) {
  using C = ProjectionChunks<ORDER, ACCESS>;
  if constexpr (kShifted<ACCESS>)
    copy_row_ends<C>(to, from, ORDER == 1 ? tensor.state_stride : tensor.seq_stride, lane_anew(lane),
                     [](int, int) { return true; });
  const char* source = from - shift_of_row<ACCESS>(from) * kElementBytes;
  const Index between = steps.between;
  C::for_each(lane, [&](int offset) {
    async_copy<C::kBytes>(reinterpret_cast<char*>(to) + offset, source);
    source += between;
  });
  from += BACK ? -steps.advance : steps.advance;
}

#if MS_PREPARED
// Which of all prepared tiles this one of a row is. So quickly told that no pointers are kept: there are no registers
// for them.
__device__ __forceinline__ int prepared_tile(const SelectiveScanForwardParams& params, const Row& row, int tile) {
  const int batch_group = row.batch * static_cast<int>(params.problem.ngroups) + row.group;
  return batch_group * params.tiles_per_row + tile;
}

__device__ __forceinline__ void copy_prepared(float* to, const float* prepared, int tile, int lane) {
  constexpr int kCount = kTileFloats / 4;
  const float* from = prepared + static_cast<Index>(tile) * kTileFloats + lane * 4;
#pragma unroll
  for (int i = 0; i < (kCount + 31) / 32; ++i)
    if (kCount % 32 == 0 || i * 32 + lane < kCount) async_copy<16>(to + (i * 32 + lane) * 4, from + i * 128);
}
#endif

// The counterpart: whole tiles of outputs, which lie where u did.
__device__ __forceinline__ void store_vectors(const Element* from, char*& to, const TileSteps& steps, int lane) {
  char* target = to;
  const Index between = steps.between;
  SequenceChunks<kVectors>::for_each(lane, [&](int offset) {
    store_global<SequenceChunks<kVectors>::kBytes>(target, reinterpret_cast<const char*>(from) + offset);
    target += between;
  });
  to += steps.advance;
}

// The same of a y that is moved in words. Rows of 16-bit elements may begin in the middle of one: then the lane with
// the first word stores its second half, and of all rows the last halves are stored besides.
__device__ __forceinline__ void store_words(const Element* from, char*& to, const TileSteps& steps,
                                            const SequenceTensor& y, int lane) {
  using Words = Chunks<kWords, kSequenceRows, kSequenceColumns, kOutputPitch>;
  const int into = kElementBytes == 2 ? is_second_half(to) * kElementBytes : 0;
  const bool whole = into == 0 || lane % Words::kPerRow > 0;
  const char* source = reinterpret_cast<const char*>(from + kOutputPlace) - into;
  char* target = to - into;
  const Index between = steps.between;
  Words::for_each(lane, [&](int offset) {
    if constexpr (kElementBytes == 4) {
      store_global<4>(target, source + offset);
    } else {
      const Element* halves = reinterpret_cast<const Element*>(source + offset);
      if (whole) {
        const struct __align__(4) {
          Element value[2];
        } word = {{halves[0], halves[1]}};
        store_global<4>(target, &word);
      } else {
        store_global<2>(target + 2, halves + 1);
      }
    }
    target += between;
  });
  if constexpr (kElementBytes == 2) {
#pragma unroll
    for (int base = 0; base < kSequenceRows; base += 32) {
      const int r = base + lane;
      if (kSequenceRows % 32 != 0 && r >= kSequenceRows) break;
      const Element* last = begin_of_row<Words>(to, sequence_row_stride(y), r, lane) + kSequenceColumns - 1;
      if (!is_second_half(last))
        store_global<2>(const_cast<Element*>(last), from + r * kOutputPitch + kOutputPlace + kSequenceColumns - 1);
    }
  }
  to += steps.advance;
}

// A whole tile of outputs; `to` is sequence_source() of the first, and goes on to the next one.
__device__ __forceinline__ void store_whole(const Element* from, char*& to, const SelectiveScanForwardParams& params,
                                            const Row& row, int tile, int lane) {
  if constexpr (!SequenceChunks<MS_Y_ACCESS>::kByPointer) {
    store_part(from, params.problem.y, row, static_cast<Index>(tile) * kTile, kTile, lane);
  } else if constexpr (MS_Y_ACCESS == kVectors) {
    store_vectors(from, to, params.y_steps, lane);
  } else {
    store_words(from, to, params.y_steps, params.problem.y, lane);
  }
}

// The copies of a piece's tiles: OUTPUTS, from its begin with what outputs need, or from its end back without; of those
// that several warps take turns on, every kTilesApart-th, which is what TileSteps::advance leads to. kStages are in
// shared memory: the one taken, the HELD before it, which somebody still reads, and those on their way.
template <bool OUTPUTS, int HELD = 0>
class TileCopies {
 public:
  __device__ __forceinline__ TileCopies(const SelectiveScanForwardParams& params, Shared& shared, int lane) {
    const SelectiveScanProblem& p = params.problem;
    const Piece& piece = shared.piece;
    next_ = OUTPUTS ? piece.begin : piece.end - 1;
    past_ = OUTPUTS ? piece.end : piece.begin - 1;
    whole_end_ = static_cast<int>(p.seqlen / kTile);
    if (piece.row.channels < kWarpChannels) whole_end_ = ~whole_end_;
    u_ = sequence_source<MS_U_ACCESS>(p.u, piece.row, next_, lane);
    delta_ = sequence_source<MS_DELTA_ACCESS>(p.delta, piece.row, next_, lane);
    if constexpr (OUTPUTS && MS_HAS_Z) z_ = sequence_source<MS_Z_ACCESS>(p.z, piece.row, next_, lane);
    if constexpr (kBByPointer) B_ = projection_source<MS_B_ORDER, MS_B_ACCESS>(p.B, piece.row, next_, lane);
    if constexpr (kCByPointer) C_ = projection_source<MS_C_ORDER, MS_C_ACCESS>(p.C, piece.row, next_, lane);
#pragma unroll 1
    for (int i = 0; i < kStages - 1 - HELD; ++i) copy_next(params, piece.row, shared, i, lane);
  }

  // The next tile, there for all lanes.
  __device__ __forceinline__ Stage& await(Shared& shared) {
    async_wait<kStages - 2 - HELD>();
    __syncwarp();
    Stage& stage = shared.stage[taken_];
    taken_ = taken_ + 1 == kStages ? 0 : taken_ + 1;
    return stage;
  }

  // After that, once: nobody reads the tile before it and those held any more, so the next copy goes there.
  __device__ __forceinline__ void copy_ahead(const SelectiveScanForwardParams& params, const Row& row, Shared& shared,
                                             int lane) {
    constexpr int kBack = 2 + HELD;  // from the stage of the tile to come
    copy_next(params, row, shared, taken_ < kBack ? taken_ + kStages - kBack : taken_ - kBack, lane);
  }

  // Both.
  __device__ __forceinline__ Stage& take(const SelectiveScanForwardParams& params, Shared& shared, int lane) {
    Stage& stage = await(shared);
    copy_ahead(params, shared.piece.row, shared, lane);
    return stage;
  }

  // Does the tile have all its steps and channels?
  __device__ __forceinline__ bool is_whole(int tile) const { return tile < whole_end_; }

 private:
  enum : bool {
    kUByPointer = SequenceChunks<MS_U_ACCESS>::kByPointer,
    kDeltaByPointer = SequenceChunks<MS_DELTA_ACCESS>::kByPointer,
    kZByPointer = SequenceChunks<MS_Z_ACCESS>::kByPointer,
    kBByPointer = !kPrepared && kProjectionByPointer<MS_B_ORDER, MS_B_ACCESS>,
    kCByPointer = !kPrepared && OUTPUTS && kProjectionByPointer<MS_C_ORDER, MS_C_ACCESS>,
    kAnyByPointer = kUByPointer || kDeltaByPointer || kZByPointer || kBByPointer || kCByPointer,
  };

  __device__ __forceinline__ void copy_next(const SelectiveScanForwardParams& params, const Row& row, Shared& shared,
                                            int to, int lane) {
    constexpr bool kIsRow = kWarps > 1 && !kWrapped && !MS_CUT;
    const int past = kIsRow ? params.tiles_per_row : past_;  // where it is known, it takes no register
    if (OUTPUTS ? next_ < past : next_ > past) {
      Stage& stage = shared.stage[to];
      if (kAnyByPointer && next_ < max(whole_end_, ~whole_end_)) {
        copy_whole_steps(params, row, stage, lane);
      } else {
        copy_stage<OUTPUTS>(params.problem, row, next_, stage, lane);
      }
#if MS_PREPARED
      const int tile = prepared_tile(params, row, next_);
      copy_prepared(stage.B, params.prepared_B, tile, lane_anew(lane));
      if constexpr (OUTPUTS) copy_prepared(stage.C, params.prepared_C, tile, lane);
#endif
      next_ += OUTPUTS ? kTilesApart : -kTilesApart;
    }
    async_commit();
  }

  __device__ __forceinline__ void copy_whole_steps(const SelectiveScanForwardParams& params, const Row& row,
                                                   Stage& stage, int lane) {
    const SelectiveScanProblem& p = params.problem;
    copy_sequence_tile<kUByPointer, MS_U_ACCESS>(stage.u, u_, params.u_steps, p.u, row, lane);
    copy_sequence_tile<kDeltaByPointer, MS_DELTA_ACCESS>(stage.delta, delta_, params.delta_steps, p.delta, row, lane);
    if constexpr (OUTPUTS && MS_HAS_Z)
      copy_sequence_tile<kZByPointer, MS_Z_ACCESS>(stage.z, z_, params.z_steps, p.z, row, lane);
#if !MS_PREPARED
    copy_projection_tile<kBByPointer, MS_B_ORDER, MS_B_ACCESS>(stage.B, B_, params.B_steps, p.B, row, lane);
    if constexpr (OUTPUTS)
      copy_projection_tile<kCByPointer, MS_C_ORDER, MS_C_ACCESS>(stage.C, C_, params.C_steps, p.C, row, lane);
#endif
  }

  template <bool BY_POINTER, int ACCESS>
  __device__ __forceinline__ void copy_sequence_tile(Element* to, const char*& from, const TileSteps& steps,
                                                     const SequenceTensor& tensor, const Row& row, int lane) {
    if constexpr (BY_POINTER) {
      const int channels = row.channels;
      if constexpr (kShifted<ACCESS>) copy_sequence_ends<ACCESS>(to, from, tensor, channels, lane_anew(lane));
      copy_sequence_chunks<ACCESS, !OUTPUTS>(to, from, steps, channels, lane);
    } else {
      copy_sequence<ACCESS>(to, tensor, row, static_cast<Index>(next_) * kTile, kTile, row.channels, lane_anew(lane));
    }
  }

  template <bool BY_POINTER, int ORDER, int ACCESS>
  __device__ __forceinline__ void copy_projection_tile(Element* to, const char*& from, const TileSteps& steps,
                                                       const ProjectionTensor& tensor, const Row& row, int lane) {
    if constexpr (BY_POINTER) {
      copy_projection_chunks<ORDER, ACCESS, !OUTPUTS>(to, from, steps, tensor, lane);
    } else {
      copy_projection<ORDER, ACCESS>(to, tensor, row, static_cast<Index>(next_) * kTile, kTile, lane_anew(lane));
    }
  }

  const char *u_ = nullptr, *delta_ = nullptr, *z_ = nullptr, *B_ = nullptr, *C_ = nullptr;
  int next_, past_;  // tiles
  int whole_end_;    // of the tiles with all their steps; of a warp with fewer channels than it could have, ~ of that
  int taken_ = 0;    // the stage of the next tile
};

}  // namespace
}  // namespace mamba_scan
