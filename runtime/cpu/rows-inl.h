// Moves blocks of a strided (batch, seqlen, dim) tensor to rows of floats [step][lane] and back. Three ways: channels
// contiguous (a vector at a time), steps contiguous (transposed in squares), anything else (element by element).
#if defined(MAMBA_SCAN_CPU_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_SCAN_CPU_ROWS_INL_H_
#undef MAMBA_SCAN_CPU_ROWS_INL_H_
#else
#define MAMBA_SCAN_CPU_ROWS_INL_H_
#endif

#include <algorithm>

#include "cpu/scan_kernels.h"
#include "cpu/storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba_scan::cpu::HWY_NAMESPACE {

inline constexpr Index kRow = static_cast<Index>(kLanes);

HWY_INLINE Vec load_row(const float* from) { return hn::Load(Floats(), from); }
HWY_INLINE void store_row(Vec value, float* to) { hn::Store(value, Floats(), to); }

#if HWY_TARGET != HWY_SCALAR
// A vector of blocks of 16 bytes: four floats at `from`, and those of the rows 4, 8 and 12 below it.
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const float* from) {
  if constexpr (hn::MaxLanes(d) == 4) {
    return hn::Load(d, from);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, load_blocks(half, from + hn::MaxLanes(half) * kRow), load_blocks(half, from));
  }
}
#endif

// to[j][i] = from[i][j] for a square of kLanes x kLanes floats. Four columns become four rows at a time; with rows
// put together from blocks as they are loaded, no block has to cross to another afterwards.
HWY_INLINE void transpose(const float* HWY_RESTRICT from, float* HWY_RESTRICT to) {
#if HWY_TARGET == HWY_SCALAR
  *to = *from;
#else
  const Floats d;
  const hn::RepartitionToWide<hn::RebindToUnsigned<Floats>> pairs;
  const auto as_pairs = [&](Vec value) HWY_ATTR { return hn::BitCast(pairs, value); };
  for (Index j = 0; j < kRow; j += 4) {
    const Vec row0 = load_blocks(d, from + j);
    const Vec row1 = load_blocks(d, from + j + kRow);
    const Vec row2 = load_blocks(d, from + j + 2 * kRow);
    const Vec row3 = load_blocks(d, from + j + 3 * kRow);
    const auto low01 = as_pairs(hn::InterleaveLower(d, row0, row1));
    const auto low23 = as_pairs(hn::InterleaveLower(d, row2, row3));
    const auto high01 = as_pairs(hn::InterleaveUpper(d, row0, row1));
    const auto high23 = as_pairs(hn::InterleaveUpper(d, row2, row3));
    float* out = to + j * kRow;
    store_row(hn::BitCast(d, hn::InterleaveLower(pairs, low01, low23)), out);
    store_row(hn::BitCast(d, hn::InterleaveUpper(pairs, low01, low23)), out + kRow);
    store_row(hn::BitCast(d, hn::InterleaveLower(pairs, high01, high23)), out + 2 * kRow);
    store_row(hn::BitCast(d, hn::InterleaveUpper(pairs, high01, high23)), out + 3 * kRow);
  }
#endif
}

template <class Storage>
auto* first_element(const SequenceTensor& tensor, const Tile& tile, Index step) {
  return static_cast<typename Storage::Element*>(tensor.data) + tile.batch * tensor.batch_stride +
         step * tensor.seq_stride + tile.channel * tensor.dim_stride;
}

// A vector of elements, each at the address below that of the one before when `backwards`.
template <class Storage>
HWY_INLINE Vec load_along(const typename Storage::Element* from, bool backwards) {
  return backwards ? hn::Reverse(Floats(), Storage::load(from - (kRow - 1))) : Storage::load(from);
}
template <class Storage>
HWY_INLINE void store_along(Vec value, typename Storage::Element* to, bool backwards) {
  if (backwards) {
    Storage::store(hn::Reverse(Floats(), value), to - (kRow - 1));
  } else {
    Storage::store(value, to);
  }
}

// Are neighbours in time neighbours in memory, in either direction?
inline bool steps_adjacent(const SequenceTensor& tensor) { return tensor.seq_stride == 1 || tensor.seq_stride == -1; }

template <class Storage>
void load_rows(const SequenceTensor& tensor, const Tile& tile, Index step, Index steps, float* to) {
  const auto* from = first_element<Storage>(tensor, tile, step);
  Index t = 0;
  if (tensor.dim_stride == 1 && tile.channels == kRow) {
    for (; t < steps; ++t) store_row(Storage::load(from + t * tensor.seq_stride), to + t * kRow);
  } else if (steps_adjacent(tensor)) {
    alignas(64) float square[kRow * kRow] = {};
    const Index channels = tile.channels < kRow ? tile.channels : kRow;  // never more: says it to the compiler
    for (; t + kRow <= steps; t += kRow) {
      for (Index c = 0; c < channels; ++c) {
        const auto* row = from + c * tensor.dim_stride + t * tensor.seq_stride;
        store_row(load_along<Storage>(row, tensor.seq_stride < 0), square + c * kRow);
      }
      transpose(square, to + t * kRow);
    }
  }
  for (; t < steps; ++t) {
    typename Storage::Element row[kRow] = {};
    for (Index c = 0; c < tile.channels; ++c) row[c] = from[t * tensor.seq_stride + c * tensor.dim_stride];
    store_row(Storage::load(row), to + t * kRow);
  }
}

// Do rows consist of lines, with channels or steps side by side?
inline bool has_lines(const SequenceTensor& tensor) { return tensor.dim_stride == 1 || steps_adjacent(tensor); }

// Where the cache lines of a block of rows lie, counted in bytes from its first element: `room` offsets, of which the
// last ones may repeat. They are to be fetched one by one while something else is computed: a processor follows only
// so many misses at a time, and with a row in each page no hardware prefetcher helps. For tensors that has_lines().
inline void lines_of_rows(const SequenceTensor& tensor, Index element_size, Index channels, Index steps, Index room,
                          Index* offsets) {
  Index count = 0;
  if (tensor.dim_stride == 1) {
    for (; count < steps; ++count) offsets[count] = count * tensor.seq_stride * element_size;
  } else {
    for (Index c = 0; c < channels; ++c) {
      for (Index within = 0; within < steps * element_size && count < room; within += 64)
        offsets[count++] = c * tensor.dim_stride * element_size + within * tensor.seq_stride;
    }
  }
  std::fill(offsets + count, offsets + room, offsets[count - 1]);
}

template <class Storage>
void store_rows(const SequenceTensor& tensor, const Tile& tile, Index step, Index steps, const float* from) {
  auto* to = first_element<Storage>(tensor, tile, step);
  Index t = 0;
  if (tensor.dim_stride == 1 && tile.channels == kRow) {
    for (; t < steps; ++t) Storage::store(load_row(from + t * kRow), to + t * tensor.seq_stride);
  } else if (steps_adjacent(tensor)) {
    alignas(64) float square[kRow * kRow];
    for (; t + kRow <= steps; t += kRow) {
      transpose(from + t * kRow, square);
      for (Index c = 0; c < tile.channels; ++c) {
        auto* row = to + c * tensor.dim_stride + t * tensor.seq_stride;
        store_along<Storage>(load_row(square + c * kRow), row, tensor.seq_stride < 0);
      }
    }
  }
  for (; t < steps; ++t) {
    typename Storage::Element row[kRow];
    Storage::store(load_row(from + t * kRow), row);
    for (Index c = 0; c < tile.channels; ++c) to[t * tensor.seq_stride + c * tensor.dim_stride] = row[c];
  }
}

// Up to kLanes elements `stride` apart as floats `to_stride` apart.
template <class Storage>
HWY_INLINE void load_some(const typename Storage::Element* from, Index stride, Index count, float* to,
                          Index to_stride) {
  const bool adjacent = (stride == 1 || stride == -1) && count == kRow;
  if (adjacent && to_stride == 1) {
    hn::StoreU(load_along<Storage>(from, stride < 0), Floats(), to);
    return;
  }
  alignas(64) float values[kRow];
  if (adjacent) {
    store_row(load_along<Storage>(from, stride < 0), values);
  } else {
    typename Storage::Element row[kRow] = {};
    for (Index i = 0; i < count; ++i) row[i] = from[i * stride];
    store_row(Storage::load(row), values);
  }
  for (Index i = 0; i < count; ++i) to[i * to_stride] = values[i];
}

// Where the floats of a block of B or C go.
struct ProjectionLayout {
  Index state_stride;
  Index step_stride;
};

// `states` of `steps` steps, taken along whichever of the two lies closer together.
template <class Storage>
void load_values(const typename Storage::Element* from, Index state_stride, Index seq_stride, Index states, Index steps,
                 float* to, const ProjectionLayout& layout) {
  const auto distance = [](Index stride) { return stride < 0 ? -stride : stride; };
  const bool along_steps = states == 1 || distance(seq_stride) < distance(state_stride);
  const Index outer_count = along_steps ? states : steps;
  const Index inner_count = along_steps ? steps : states;
  const Index outer_stride = along_steps ? state_stride : seq_stride;
  const Index inner_stride = along_steps ? seq_stride : state_stride;
  const Index to_outer = along_steps ? layout.state_stride : layout.step_stride;
  const Index to_inner = along_steps ? layout.step_stride : layout.state_stride;
  for (Index o = 0; o < outer_count; ++o) {
    for (Index i = 0; i < inner_count; i += kRow) {
      const Index count = inner_count - i < kRow ? inner_count - i : kRow;
      load_some<Storage>(from + o * outer_stride + i * inner_stride, inner_stride, count,
                         to + o * to_outer + i * to_inner, to_inner);
    }
  }
}

// B or C of one (batch, group) to floats [step][state][part].
template <class Storage>
void load_projection(const SelectiveScanProblem& problem, const ProjectionTensor& tensor, Index batch, Index group,
                     Index step, Index steps, float* to) {
  const auto* from = static_cast<const typename Storage::Element*>(tensor.data) + batch * tensor.batch_stride +
                     group * tensor.group_stride + step * tensor.seq_stride;
  const Index parts = number_parts(problem);
  const Index values = parts * problem.dstate;
  if (parts == 1 || (tensor.imag_stride == 1 && tensor.state_stride == 2)) {  // (re, im) pairs are so many numbers
    const Index stride = parts == 1 ? tensor.state_stride : 1;
    load_values<Storage>(from, stride, tensor.seq_stride, values, steps, to, {1, values});
    return;
  }
  for (Index part = 0; part < parts; ++part) {
    load_values<Storage>(from + part * tensor.imag_stride, tensor.state_stride, tensor.seq_stride, problem.dstate,
                         steps, to + part, {parts, values});
  }
}

}  // namespace mamba_scan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_SCAN_CPU_ROWS_INL_H_
