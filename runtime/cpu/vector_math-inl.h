// Exponential, softplus and silu on vectors of floats. Highway's "-inl" form: included once per instruction set.
//
// Division of labour: exp2_of_product() is what the scan spends its time in and is as short as its accuracy allows;
// exp(), softplus() and silu() run once per (step, channel) and can afford an argument reduction in two parts.
#if defined(MAMBA_SCAN_CPU_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_SCAN_CPU_VECTOR_MATH_INL_H_
#undef MAMBA_SCAN_CPU_VECTOR_MATH_INL_H_
#else
#define MAMBA_SCAN_CPU_VECTOR_MATH_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mamba_scan::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Vec = hn::Vec<Floats>;

inline constexpr size_t kLanes = hn::MaxLanes(Floats());

// Adding this rounds |x| < 2^22 to an integer n and leaves n + 126 in the low bits: the exponent field of
// 2^(n-1). The polynomials below are of 2 * 2^r, so that n may reach 128 before the field means infinity.
inline constexpr float kRound = 12582912.0f + 126.0f;

// Outside these bounds 2^x is exactly 0 (field 0) or infinite (field 255).
inline constexpr float kExp2Lowest = -126.0f;
inline constexpr float kExp2Highest = 129.0f;

// Both hold a NaN in x. x86 returns the second operand when one is NaN; elsewhere a comparison says it plainly.
HWY_INLINE Vec at_least(Vec low, Vec x) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
  return hn::Max(low, x);
#else
  return hn::IfThenElse(hn::Lt(x, low), low, x);
#endif
}
HWY_INLINE Vec at_most(Vec high, Vec x) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
  return hn::Min(high, x);
#else
  return hn::IfThenElse(hn::Gt(x, high), high, x);
#endif
}

HWY_INLINE Vec constant(float value) { return hn::Set(Floats(), value); }

// 2 * 2^r for |r| <= 0.5. Exact at 0 (a decay close to 1 keeps its distance from 1) and otherwise minimax in relative
// error: 0.9e-7, with float rounding 1.6e-7.
HWY_INLINE Vec twice_exp2(Vec r) {
  Vec p = hn::MulAdd(constant(0.002652945462614298f), r, constant(0.019343025982379913f));
  p = hn::MulAdd(p, r, constant(0.11101467162370682f));
  p = hn::MulAdd(p, r, constant(0.48044484853744507f));
  p = hn::MulAdd(p, r, constant(1.3862940073013306f));
  return hn::MulAdd(p, r, constant(2.0f));
}

// The low bits of a rounded number, moved to where the exponent is.
HWY_INLINE auto exponent_field(Vec rounded) {
  return hn::ShiftLeft<23>(hn::BitCast(hn::RebindToUnsigned<Floats>(), rounded));
}

// 2^r * 2^n, where rounded = n + kRound. A product and not an addition to the exponent: 0, infinity and NaN come out
// right.
HWY_INLINE Vec scaled_exp2(Vec r, Vec rounded) {
  return hn::Mul(twice_exp2(r), hn::BitCast(Floats(), exponent_field(rounded)));
}

// 2^(x * y). Results below 2^-125.5 are exactly 0. A fused multiply-add finds n, another one the rest: that saves the
// multiplication, and the product is never rounded by itself.
HWY_INLINE Vec exp2_of_product(Vec x, Vec y) {
  const Vec lowest = constant(kRound + kExp2Lowest), highest = constant(kRound + kExp2Highest);
  const Vec rounded = at_most(highest, at_least(lowest, hn::MulAdd(x, y, constant(kRound))));
  const Vec r = hn::MulSub(x, y, hn::Sub(rounded, constant(kRound)));
  return scaled_exp2(at_most(constant(0.5f), at_least(constant(-0.5f), r)), rounded);  // r is no rest outside the range
}

// The same bits for |x * y| <= 125, with four operations less: no range to check, and the scaling is an integer
// addition, which does not compete with the multiplications. Not for NaN.
HWY_INLINE Vec exp2_of_product_bounded(Vec x, Vec y) {
  const hn::RebindToUnsigned<Floats> bits;
  const Vec round = constant(kRound - 127.0f);  // leaves n - 1 in the low bits
  const Vec rounded = hn::MulAdd(x, y, round);
  const Vec p = twice_exp2(hn::MulSub(x, y, hn::Sub(rounded, round)));
  return hn::BitCast(Floats(), hn::Add(hn::BitCast(bits, p), exponent_field(rounded)));
}

// e^x with Cody and Waite's reduction: relative error 2e-7 also for large |x|.
HWY_INLINE Vec exp(Vec x) {
  const Vec log2e = constant(1.44269504088896341f);
  x = at_most(constant(89.6f), at_least(constant(-87.4f), x));
  const Vec rounded = hn::Add(hn::Mul(x, log2e), constant(kRound));
  const Vec n = hn::Sub(rounded, constant(kRound));
  // 355/512 has 9 bits, so that n * 355/512 is exact without a fused multiply-add too.
  Vec r = hn::NegMulAdd(n, constant(0.693359375f), x);
  r = hn::NegMulAdd(n, constant(-2.12194440e-4f), r);
  return scaled_exp2(hn::Mul(r, log2e), rounded);
}

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|), the identity above 20 as in PyTorch. Both terms are positive and
// log1p(w) = 2 atanh(w / (2 + w)) keeps its relative accuracy down to w = 0: relative error 5e-7 everywhere.
HWY_INLINE Vec softplus(Vec x) {
  const Vec w = exp(hn::Neg(hn::Abs(x)));
  const Vec s = hn::Div(w, hn::Add(w, constant(2.0f)));  // at most 1/3
  const Vec q = hn::Mul(s, s);
  Vec p = hn::MulAdd(constant(0.1400599628686905f), q, constant(0.14000901579856873f));
  p = hn::MulAdd(p, q, constant(0.2001076340675354f));
  p = hn::MulAdd(p, q, constant(0.3333320915699005f));
  const Vec twice = hn::Add(s, s);
  const Vec log1p = hn::MulAdd(hn::Mul(twice, q), p, twice);
  const Vec positive = hn::IfThenElseZero(hn::Gt(x, hn::Zero(Floats())), x);
  return hn::IfThenElse(hn::Gt(x, constant(20.0f)), x, hn::Add(positive, log1p));
}

// x / (1 + e^-x)
HWY_INLINE Vec silu(Vec x) { return hn::Div(x, hn::Add(constant(1.0f), exp(hn::Neg(x)))); }

}  // namespace mamba_scan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_SCAN_CPU_VECTOR_MATH_INL_H_
