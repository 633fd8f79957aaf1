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

// A strided (dim, dstate) fp32 matrix to [state][lane].
inline void load_matrix(const float* from, Index dim_stride, Index state_stride, Index channels, Index dstate,
                        float scale, float* to) {
  for (Index n = 0; n < dstate; ++n) {
    for (Index c = 0; c < kRow; ++c) {
      to[n * kRow + c] = c < channels ? scale * from[c * dim_stride + n * state_stride] : 0.0f;
    }
  }
}

inline void load_constant(const ProjectionTensor& tensor, const Tile& tile, Index dstate, float* to) {
  const float* from = static_cast<const float*>(tensor.data) + tile.channel * tensor.group_stride;
  load_matrix(from, tensor.group_stride, tensor.state_stride, tile.channels, dstate, 1.0f, to);
}

inline float load_states(const SelectiveScanProblem& problem, const Tile& tile, const StateRows& to) {
  const Index dstate = problem.dstate;
  const float log2e = 1.44269504088896341f;
  load_matrix(problem.A + tile.channel * problem.A_dim_stride, problem.A_dim_stride, problem.A_state_stride,
              tile.channels, dstate, log2e, to.decay);
  if (problem.B.constant) load_constant(problem.B, tile, dstate, to.constant_b);
  if (problem.C.constant) load_constant(problem.C, tile, dstate, to.constant_c);
  const StateTensor& initial = problem.initial_state;
  if (initial.data) {
    const float* from = initial.data + tile.batch * initial.batch_stride + tile.channel * initial.dim_stride;
    load_matrix(from, initial.dim_stride, initial.state_stride, tile.channels, dstate, 1.0f, to.h);
  } else {
    for (Index i = 0; i < dstate * kRow; ++i) to.h[i] = 0.0f;
  }
  MagnitudeVec largest = hn::Zero(Magnitudes());
  for (Index n = 0; n < dstate; ++n) largest = larger_magnitude(largest, load_row(to.decay + n * kRow));
  return largest_float(largest);
}

inline void store_states(const SelectiveScanProblem& problem, const Tile& tile, const float* h) {
  const StateTensor& final_state = problem.final_state;
  if (!final_state.data) return;
  float* to = final_state.data + tile.batch * final_state.batch_stride + tile.channel * final_state.dim_stride;
  for (Index c = 0; c < tile.channels; ++c) {
    for (Index n = 0; n < problem.dstate; ++n) {
      to[c * final_state.dim_stride + n * final_state.state_stride] = h[n * kRow + c];
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
    const Index dstate = problem.dstate;
    if (!problem.B.constant) load_projection<Storage>(problem.B, dstate, batch, group, step, steps, to.b);
    if (!problem.C.constant) load_projection<Storage>(problem.C, dstate, batch, group, step, steps, to.c);
  });
}

inline void scan_block(const SelectiveScanProblem& problem, const StateBlock& block, const StateRows& states,
                       const StepRows& rows, const ProjectionRows& projections) {
  if (states_in_block(block.state, problem.dstate) == kBlockStates) {
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
