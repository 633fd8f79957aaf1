// The steps around the recurrence, once per (step, channel): load and convert, bias, softplus, dt * u and D * u on
// the way in; the gate and the conversion on the way out. And the states' way in and out.
#if defined(MAMBA_SCAN_CPU_STAGES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_SCAN_CPU_STAGES_INL_H_
#undef MAMBA_SCAN_CPU_STAGES_INL_H_
#else
#define MAMBA_SCAN_CPU_STAGES_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <cstdint>

#include "cpu/complex_recurrence-inl.h"
#include "cpu/recurrence-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba_scan::cpu::HWY_NAMESPACE {

// Calls use(Storage) with the struct that reads and writes `dtype`.
template <class Use>
HWY_INLINE void with_storage(DType dtype, const Use& use) {
  switch (dtype) {
    case DType::kFloat32:
      return use(Float32());
    case DType::kFloat16:
      return use(Float16());
    case DType::kBFloat16:
      return use(BFloat16());
  }
}

// Magnitudes as integers order like the floats, with NaN above infinity.
using Magnitudes = hn::RebindToSigned<Floats>;
using MagnitudeVec = hn::Vec<Magnitudes>;

HWY_INLINE MagnitudeVec larger_magnitude(MagnitudeVec largest, Vec value) {
  return hn::Max(largest, hn::BitCast(Magnitudes(), hn::Abs(value)));
}

// The largest lane; NaN if one of them is.
HWY_INLINE float largest_float(MagnitudeVec largest) {
  alignas(64) int32_t values[kRow];
  hn::Store(largest, Magnitudes(), values);
  return std::bit_cast<float>(*std::max_element(values, values + kRow));
}

// A per-channel fp32 vector (D, delta_bias) as lanes; zeros where there is none.
HWY_INLINE Vec channel_values(const float* values, const Tile& tile) {
  alignas(64) float row[kRow] = {};
  for (Index c = 0; values && c < tile.channels; ++c) row[c] = values[tile.channel + c];
  return load_row(row);
}

// A strided (dim, dstate) fp32 matrix whose first channel is that of the tile.
struct Matrix {
  const float* data;
  Index dim_stride;
  Index state_stride;
  Index imag_stride;
};

// To [state][part][lane], `parts` being 1 or 2.
inline void load_matrix(const Matrix& from, Index channels, Index dstate, Index parts, float* to) {
  for (Index row = 0; row < dstate * parts; ++row) {
    const float* values = from.data + row / parts * from.state_stride + row % parts * from.imag_stride;
    for (Index c = 0; c < kRow; ++c) to[row * kRow + c] = c < channels ? values[c * from.dim_stride] : 0.0f;
  }
}

inline void load_rates(const Matrix& a, Index channels, Index dstate, float* to) {
  const float log2e = 1.44269504088896341f;
  load_matrix(a, channels, dstate, 1, to);
  for (Index i = 0; i < dstate * kRow; ++i) to[i] *= log2e;
}

inline void load_complex_rates(const Matrix& a, Index channels, Index dstate, float* to) {
  const float log2e = 1.44269504088896341f;
  const double quarter_turns = 0.63661977236758134;  // per radian
  for (Index n = 0; n < dstate; ++n, to += 3 * kRow) {
    for (Index c = 0; c < kRow; ++c) {
      const float* value = a.data + c * a.dim_stride + n * a.state_stride;
      const double turn = c < channels ? quarter_turns * value[a.imag_stride] : 0.0;
      to[c] = c < channels ? log2e * *value : 0.0f;
      to[kRow + c] = static_cast<float>(turn);
      to[2 * kRow + c] = static_cast<float>(turn - static_cast<double>(to[kRow + c]));
    }
  }
}

inline void load_constant(const SelectiveScanProblem& problem, const ProjectionTensor& tensor, const Tile& tile,
                          float* to) {
  const float* from = static_cast<const float*>(tensor.data) + tile.channel * tensor.group_stride;
  load_matrix({from, tensor.group_stride, tensor.state_stride, tensor.imag_stride}, tile.channels, problem.dstate,
              number_parts(problem), to);
}

inline float load_states(const SelectiveScanProblem& problem, const Tile& tile, const StateRows& to) {
  const Index dstate = problem.dstate;
  const Matrix a{problem.A + tile.channel * problem.A_dim_stride, problem.A_dim_stride, problem.A_state_stride,
                 problem.A_imag_stride};
  (problem.is_complex ? load_complex_rates : load_rates)(a, tile.channels, dstate, to.decay);
  if (problem.B.constant) load_constant(problem, problem.B, tile, to.constant_b);
  if (problem.C.constant) load_constant(problem, problem.C, tile, to.constant_c);
  const StateTensor& initial = problem.initial_state;
  if (initial.data) {
    const float* from = initial.data + tile.batch * initial.batch_stride + tile.channel * initial.dim_stride;
    load_matrix({from, initial.dim_stride, initial.state_stride, initial.imag_stride}, tile.channels, dstate,
                number_parts(problem), to.h);
  } else {
    std::fill_n(to.h, dstate * number_parts(problem) * kRow, 0.0f);
  }
  MagnitudeVec largest = hn::Zero(Magnitudes());
  for (Index n = 0; n < dstate; ++n) {
    largest = larger_magnitude(largest, load_row(to.decay + n * rate_parts(problem) * kRow));
  }
  return largest_float(largest);
}

inline void store_states(const SelectiveScanProblem& problem, const Tile& tile, const float* h) {
  const StateTensor& final_state = problem.final_state;
  if (!final_state.data) return;
  float* to = final_state.data + tile.batch * final_state.batch_stride + tile.channel * final_state.dim_stride;
  const Index parts = number_parts(problem);
  for (Index c = 0; c < tile.channels; ++c) {
    for (Index row = 0; row < problem.dstate * parts; ++row) {
      to[c * final_state.dim_stride + row / parts * final_state.state_stride + row % parts * final_state.imag_stride] =
          h[row * kRow + c];
    }
  }
}

inline float stage_steps(const SelectiveScanProblem& problem, const Tile& tile, Index step, int steps,
                         const StepRows& to) {
  with_storage(problem.dtype, [&](auto storage) HWY_ATTR {
    load_rows<decltype(storage)>(problem.delta, tile, step, steps, to.dt);
    load_rows<decltype(storage)>(problem.u, tile, step, steps, to.du);
  });
  const Vec bias = channel_values(problem.delta_bias, tile);
  const Vec skip = channel_values(problem.D, tile);
  MagnitudeVec largest = hn::Zero(Magnitudes());
  for (Index i = 0; i < steps * kRow; i += kRow) {
    const Vec u = load_row(to.du + i);
    Vec dt = load_row(to.dt + i);
    if (problem.delta_bias) dt = hn::Add(dt, bias);
    if (problem.delta_softplus) dt = softplus(dt);
    store_row(dt, to.dt + i);
    store_row(hn::Mul(dt, u), to.du + i);
    store_row(problem.D ? hn::Mul(skip, u) : hn::Zero(Floats()), to.y + i);
    largest = larger_magnitude(largest, dt);
  }
  return largest_float(largest);
}

inline void stage_projections(const SelectiveScanProblem& problem, Index batch, Index group, Index step, int steps,
                              const ProjectionRows& to) {
  with_storage(problem.dtype, [&](auto storage) HWY_ATTR {
    using Storage = decltype(storage);
    if (!problem.B.constant) load_projection<Storage>(problem, problem.B, batch, group, step, steps, to.b);
    if (!problem.C.constant) load_projection<Storage>(problem, problem.C, batch, group, step, steps, to.c);
  });
}

inline void scan_block(const SelectiveScanProblem& problem, const StateBlock& block, const StateRows& states,
                       const StepRows& rows, const ProjectionRows& projections) {
  const bool is_full = states_in_block(problem, block.state) > 1;
  if (problem.is_complex) {
    if (is_full) {
      recur_complex_block<kComplexBlockStates>(problem, block, states, rows, projections);
    } else {
      recur_complex_block<1>(problem, block, states, rows, projections);
    }
  } else if (is_full) {
    recur_block<kBlockStates>(problem, block, states, rows, projections);
  } else {
    recur_block<1>(problem, block, states, rows, projections);
  }
}

// Gates y in place and writes it out. Overwrites rows.dt, which nobody needs any more.
inline void finish_steps(const SelectiveScanProblem& problem, const Tile& tile, Index step, int steps,
                         const StepRows& rows) {
  with_storage(problem.dtype, [&](auto storage) HWY_ATTR {
    using Storage = decltype(storage);
    if (problem.z.data) {
      load_rows<Storage>(problem.z, tile, step, steps, rows.dt);
      for (Index i = 0; i < steps * kRow; i += kRow) {
        store_row(hn::Mul(load_row(rows.y + i), silu(load_row(rows.dt + i))), rows.y + i);
      }
    }
    store_rows<Storage>(problem.y, tile, step, steps, rows.y);
  });
}

}  // namespace mamba_scan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_SCAN_CPU_STAGES_INL_H_
