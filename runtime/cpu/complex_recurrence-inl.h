// The recurrence with complex decay rates, states, B and C, for a block of states of one vector of channels:
//   h = 2^(dt * decay) * (cos + i sin)(dt * turn) * h + du * B,   y += 2 * Re(sum of h * C)
// Rows come in pairs, real and imaginary part; a decay rate has three (scan_kernels.h). Per state and step: one
// exponential, one cosine and sine (some 25 operations), and 14 more.
#if defined(MAMBA_SCAN_CPU_COMPLEX_RECURRENCE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_SCAN_CPU_COMPLEX_RECURRENCE_INL_H_
#undef MAMBA_SCAN_CPU_COMPLEX_RECURRENCE_INL_H_
#else
#define MAMBA_SCAN_CPU_COMPLEX_RECURRENCE_INL_H_
#endif

#include <type_traits>
#include <utility>

#include "cpu/phase-inl.h"
#include "cpu/recurrence-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba_scan::cpu::HWY_NAMESPACE {

struct Complex {
  Vec re;
  Vec im;
};

struct ComplexRate {
  Vec decay;  // real part * log2(e)
  Vec turn;   // imaginary part in quarter turns
  Vec turn_low;
};

HWY_INLINE Complex load_complex(const float* rows) { return {load_row(rows), load_row(rows + kRow)}; }
HWY_INLINE ComplexRate load_rate(const float* rows) {
  return {load_row(rows), load_row(rows + kRow), load_row(rows + 2 * kRow)};
}

template <bool kConstant>
HWY_INLINE Complex complex_operand_at(const Operand& operand, Index step, Index state) {
  return {operand_at<kConstant>(operand, step, 2 * state), operand_at<kConstant>(operand, step, 2 * state + 1)};
}

template <bool kFirst, bool kBounded>
HWY_INLINE void advance_complex(Vec dt, Vec du, const ComplexRate& rate, const Complex& b, const Complex& c, Complex& h,
                                Vec& sum) {
  const Vec decay = kBounded ? exp2_of_product_bounded(dt, rate.decay) : exp2_of_product(dt, rate.decay);
  const Phase phase = phase_of(dt, rate.turn, rate.turn_low);
  const Vec re = hn::Mul(decay, phase.cos);
  const Vec im = hn::Mul(decay, phase.sin);
  const Complex before = h;
  h.re = hn::MulAdd(re, before.re, hn::NegMulAdd(im, before.im, hn::Mul(du, b.re)));
  h.im = hn::MulAdd(re, before.im, hn::MulAdd(im, before.re, hn::Mul(du, b.im)));
  sum = kFirst ? hn::Mul(h.re, c.re) : hn::MulAdd(h.re, c.re, sum);
  sum = hn::NegMulAdd(h.im, c.im, sum);
}

template <bool kConstantB, bool kConstantC, bool kBounded, size_t... kState>
HWY_NOINLINE void recur_complex(std::index_sequence<kState...>, const float* HWY_RESTRICT decay, float* HWY_RESTRICT h,
                                const Operand b, const Operand c, const StepRows& rows, const StateBlock& block) {
  const ComplexRate rate[] = {load_rate(decay + 3 * kState * kLanes)...};
  Complex state[] = {load_complex(h + 2 * kState * kLanes)...};
  for (Index t = 0; t < block.steps; ++t) {
    fetch_ahead(block.ahead, t);
    const Vec dt = load_row(rows.dt + t * kRow);
    const Vec du = load_row(rows.du + t * kRow);
    Vec sum = hn::Zero(Floats());
    (advance_complex<kState == 0, kBounded>(dt, du, rate[kState], complex_operand_at<kConstantB>(b, t, kState),
                                            complex_operand_at<kConstantC>(c, t, kState), state[kState], sum),
     ...);
    store_row(hn::MulAdd(constant(2.0f), sum, load_row(rows.y + t * kRow)), rows.y + t * kRow);
  }
  ((store_row(state[kState].re, h + 2 * kState * kLanes), store_row(state[kState].im, h + (2 * kState + 1) * kLanes)),
   ...);
}

template <Index kStates>
HWY_INLINE void recur_complex_block(const SelectiveScanProblem& problem, const StateBlock& block,
                                    const StateRows& states, const StepRows& rows, const ProjectionRows& projections) {
  constexpr auto sequence = std::make_index_sequence<kStates>();
  const Index n = block.state;
  const float* decay = states.decay + 3 * n * kRow;
  float* h = states.h + 2 * n * kRow;
  const auto operand = [&](bool is_constant, const float* constant_rows, const float* varying) {
    return is_constant ? Operand{constant_rows + 2 * n * kRow, 0} : Operand{varying + 2 * n, 2 * problem.dstate};
  };
  const Operand b = operand(problem.B.constant, states.constant_b, projections.b);
  const Operand c = operand(problem.C.constant, states.constant_c, projections.c);
  const auto run = [&](auto constant_b, auto constant_c) HWY_ATTR {
    if (block.bounded) {
      recur_complex<constant_b, constant_c, true>(sequence, decay, h, b, c, rows, block);
    } else {
      recur_complex<constant_b, constant_c, false>(sequence, decay, h, b, c, rows, block);
    }
  };
  if (problem.B.constant) {
    problem.C.constant ? run(std::true_type(), std::true_type()) : run(std::true_type(), std::false_type());
  } else {
    problem.C.constant ? run(std::false_type(), std::true_type()) : run(std::false_type(), std::false_type());
  }
}

}  // namespace mamba_scan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_SCAN_CPU_COMPLEX_RECURRENCE_INL_H_
