// The recurrence itself, for a block of states of one vector of channels:
//   h = 2^(dt * decay) * h + du * B,   y += sum of h * C
// Decay and state stay in registers over all steps, dt, du and y come from the L1 cache, B and C are broadcast.
// Per state and step: one exponential of a product (10 or 14 operations) and 3 more.
#if defined(MAMBA_SCAN_CPU_RECURRENCE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_SCAN_CPU_RECURRENCE_INL_H_
#undef MAMBA_SCAN_CPU_RECURRENCE_INL_H_
#else
#define MAMBA_SCAN_CPU_RECURRENCE_INL_H_
#endif

#include <utility>

#include "cpu/rows-inl.h"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace mamba_scan::cpu::HWY_NAMESPACE {

// One operand of the block: B or C. Varying: floats [step][state] with `pitch` floats per step. Constant:
// [state][lane].
struct Operand {
  const float* data;
  Index pitch;
};

template <bool kConstant>
HWY_INLINE Vec operand_at(const Operand& operand, Index step, Index state) {
  if constexpr (kConstant) {
    return load_row(operand.data + state * kRow);
  } else {
    return constant(operand.data[step * operand.pitch + state]);
  }
}

HWY_INLINE void fetch_ahead(const LinesAhead& ahead, Index step) {
  for (int i = 0; i < ahead.tensors; ++i) hwy::Prefetch(ahead.rows[i].first + ahead.rows[i].offsets[step]);
}

// One state by one step. `sum` starts with the first state of a block.
template <bool kFirst, bool kBounded>
HWY_INLINE void advance(Vec dt, Vec du, Vec decay, Vec b, Vec c, Vec& h, Vec& sum) {
  const Vec kept = kBounded ? exp2_of_product_bounded(dt, decay) : exp2_of_product(dt, decay);
  h = hn::MulAdd(kept, h, hn::Mul(du, b));
  sum = kFirst ? hn::Mul(h, c) : hn::MulAdd(h, c, sum);
}

// The states are a parameter pack, so that each is a variable of its own for the compiler's register allocation.
template <bool kConstantB, bool kConstantC, bool kBounded, size_t... kState>
HWY_NOINLINE void recur(std::index_sequence<kState...>, const float* HWY_RESTRICT decay, float* HWY_RESTRICT h,
                        const Operand b, const Operand c, const StepRows& rows, Index steps, const LinesAhead ahead) {
  const float* HWY_RESTRICT dt_rows = rows.dt;
  const float* HWY_RESTRICT du_rows = rows.du;
  float* HWY_RESTRICT y_rows = rows.y;
  const Vec a[] = {load_row(decay + kState * kLanes)...};
  Vec state[] = {load_row(h + kState * kLanes)...};
  for (Index t = 0; t < steps; ++t) {
    fetch_ahead(ahead, t);
    const Vec dt = load_row(dt_rows + t * kRow);
    const Vec du = load_row(du_rows + t * kRow);
    Vec sum = hn::Zero(Floats());
    (advance<kState == 0, kBounded>(dt, du, a[kState], operand_at<kConstantB>(b, t, kState),
                                    operand_at<kConstantC>(c, t, kState), state[kState], sum),
     ...);
    store_row(hn::Add(load_row(y_rows + t * kRow), sum), y_rows + t * kRow);
  }
  (store_row(state[kState], h + kState * kLanes), ...);
}

template <Index kStates, bool kConstantB, bool kConstantC>
HWY_INLINE void recur_ranged(const float* decay, float* h, const Operand b, const Operand c, const StepRows& rows,
                             const StateBlock& block) {
  constexpr auto states = std::make_index_sequence<kStates>();
  if (block.bounded) {
    recur<kConstantB, kConstantC, true>(states, decay, h, b, c, rows, block.steps, block.ahead);
  } else {
    recur<kConstantB, kConstantC, false>(states, decay, h, b, c, rows, block.steps, block.ahead);
  }
}

template <Index kStates>
HWY_INLINE void recur_block(const SelectiveScanProblem& problem, const StateBlock& block, const StateRows& states,
                            const StepRows& rows, const ProjectionRows& projections) {
  const Index n = block.state;
  const float* decay = states.decay + n * kRow;
  float* h = states.h + n * kRow;
  const Operand b =
      problem.B.constant ? Operand{states.constant_b + n * kRow, 0} : Operand{projections.b + n, problem.dstate};
  const Operand c =
      problem.C.constant ? Operand{states.constant_c + n * kRow, 0} : Operand{projections.c + n, problem.dstate};
  if (problem.B.constant) {
    if (problem.C.constant) {
      recur_ranged<kStates, true, true>(decay, h, b, c, rows, block);
    } else {
      recur_ranged<kStates, true, false>(decay, h, b, c, rows, block);
    }
  } else if (problem.C.constant) {
    recur_ranged<kStates, false, true>(decay, h, b, c, rows, block);
  } else {
    recur_ranged<kStates, false, false>(decay, h, b, c, rows, block);
  }
}

}  // namespace mamba_scan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_SCAN_CPU_RECURRENCE_INL_H_
