// Cosine and sine of a product, for decay rates with an imaginary part. Highway's "-inl" form.
//
// The product dt * Im(A) may be thousands of turns, of which only the rest after the last whole one counts, so it is
// needed with more digits than a float has: Im(A) comes as quarter turns in two floats, the product is kept exact in
// two more, and whole turns leave before anything is rounded. Error: 2e-7 up to a product of 2^24 quarter turns.
#if defined(MAMBA_SCAN_CPU_PHASE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_SCAN_CPU_PHASE_INL_H_
#undef MAMBA_SCAN_CPU_PHASE_INL_H_
#else
#define MAMBA_SCAN_CPU_PHASE_INL_H_
#endif

#include "cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba_scan::cpu::HWY_NAMESPACE {

struct Phase {
  Vec cos;
  Vec sin;
};

// x * y - product, where product is the rounded x * y: what the rounding took away.
HWY_INLINE Vec product_error(Vec x, Vec y, Vec product) {
#if HWY_NATIVE_FMA
  return hn::MulSub(x, y, product);
#else
  // Halves of 12 bits, whose products are exact (Dekker 1971).
  const auto upper_half = [](Vec value) HWY_ATTR {
    const hn::RebindToUnsigned<Floats> bits;
    return hn::BitCast(Floats(), hn::And(hn::BitCast(bits, value), hn::Set(bits, 0xFFFFF000u)));
  };
  const Vec x1 = upper_half(x), y1 = upper_half(y);
  const Vec x2 = hn::Sub(x, x1), y2 = hn::Sub(y, y1);
  Vec error = hn::Sub(hn::Mul(x1, y1), product);
  error = hn::Add(error, hn::Mul(x1, y2));
  error = hn::Add(error, hn::Mul(x2, y1));
  return hn::Add(error, hn::Mul(x2, y2));
#endif
}

// Of x * (high + low) quarter turns, where |low| is at most half a unit of high's last place.
HWY_INLINE Phase phase_of(Vec x, Vec high, Vec low) {
  const Vec product = hn::Mul(x, high);
  const Vec error = hn::MulAdd(x, low, product_error(x, high, product));
  const Vec turns = hn::Round(hn::Mul(product, constant(0.25f)));
  const Vec within = hn::NegMulAdd(turns, constant(4.0f), product);  // exact, in [-2, 2]
  const Vec round = constant(12582912.0f);                           // leaves the number of the quarter in the low bits
  const Vec rounded = hn::Add(hn::Add(within, error), round);
  Vec r = hn::Add(hn::Sub(within, hn::Sub(rounded, round)), error);
  r = at_most(constant(0.5f), at_least(constant(-0.5f), r));  // beyond 2^24 the error has no digit left

  // sin and cos of r quarter turns, minimax on [-1/2, 1/2]: errors 3.3e-9 (relative) and 3.3e-8; cos(0) is exactly 1.
  const Vec q = hn::Mul(r, r);
  Vec s = hn::MulAdd(constant(-0.0046016578880514233f), q, constant(0.079680032769042756f));
  s = hn::MulAdd(s, q, constant(-0.64596346023325373f));
  s = hn::Mul(r, hn::MulAdd(s, q, constant(1.5707963217083391f)));
  Vec c = hn::MulAdd(constant(-0.020426250303322916f), q, constant(0.25360636192231061f));
  c = hn::MulAdd(c, q, constant(-1.2336979539710267f));
  c = hn::MulAdd(c, q, constant(1.0f));

  // Quarters 0 to 3: cos is c, -s, -c, s and sin is s, c, -s, -c.
  const hn::RebindToUnsigned<Floats> bits;
  const auto quarter = hn::BitCast(bits, rounded);
  const auto one = hn::Set(bits, 1u);
  const auto is_odd = hn::RebindMask(Floats(), hn::Eq(hn::And(quarter, one), one));
  const auto sign_of = [&](auto number) HWY_ATTR {
    return hn::BitCast(Floats(), hn::And(hn::ShiftLeft<30>(number), hn::Set(bits, 0x80000000u)));
  };
  return {hn::Xor(hn::IfThenElse(is_odd, s, c), sign_of(hn::Add(quarter, one))),
          hn::Xor(hn::IfThenElse(is_odd, c, s), sign_of(quarter))};
}

}  // namespace mamba_scan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_SCAN_CPU_PHASE_INL_H_
