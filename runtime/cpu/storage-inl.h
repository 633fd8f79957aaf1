// Reading and writing vectors of fp32, fp16 and bf16 as vectors of floats. Conversions to 16 bits round to nearest
// even and keep infinities and NaN; Highway's own software conversions (1.0.3) truncate, so only its hardware ones
// are used.
#if defined(MAMBA_SCAN_CPU_STORAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBA_SCAN_CPU_STORAGE_INL_H_
#undef MAMBA_SCAN_CPU_STORAGE_INL_H_
#else
#define MAMBA_SCAN_CPU_STORAGE_INL_H_
#endif

#include <cstdint>

#include "cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mamba_scan::cpu::HWY_NAMESPACE {

// F16C comes with the AVX2 target; A64 always converts. AVX3 and later have smaller target numbers.
#undef MAMBA_SCAN_HAS_F16
#if (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2) || (HWY_ARCH_ARM_A64 && HWY_TARGET == HWY_NEON)
#define MAMBA_SCAN_HAS_F16 1
#else
#define MAMBA_SCAN_HAS_F16 0
#endif

using Words = hn::RebindToUnsigned<Floats>;      // as wide as a vector of floats
using Halfwords = hn::Rebind<uint16_t, Floats>;  // as many lanes
using WordVec = hn::Vec<Words>;

HWY_INLINE WordVec word(uint32_t value) { return hn::Set(Words(), value); }

// How an element lies in memory: `Element` is what pointers step over.
struct Float32 {
  using Element = float;
  static HWY_INLINE Vec load(const float* from) { return hn::LoadU(Floats(), from); }
  static HWY_INLINE void store(Vec value, float* to) { hn::StoreU(value, Floats(), to); }
};

struct BFloat16 {
  using Element = uint16_t;
  static HWY_INLINE Vec load(const uint16_t* from) {
    const WordVec wide = hn::PromoteTo(Words(), hn::LoadU(Halfwords(), from));
    return hn::BitCast(Floats(), hn::ShiftLeft<16>(wide));
  }
  static HWY_INLINE void store(Vec value, uint16_t* to) {
    const WordVec bits = hn::BitCast(Words(), value);
    const WordVec odd = hn::And(hn::ShiftRight<16>(bits), word(1));
    const WordVec rounded = hn::Add(bits, hn::Add(odd, word(0x7FFF)));
    const WordVec quiet = hn::Or(bits, word(0x00400000));  // rounding could turn a NaN into infinity
    const auto is_nan = hn::RebindMask(Words(), hn::Ne(value, value));
    store_upper(hn::IfThenElse(is_nan, quiet, rounded), to);
  }

 private:
  static HWY_INLINE void store_upper(WordVec bits, uint16_t* to) {
    const hn::RebindToSigned<Words> signed_words;
    const auto upper = hn::BitCast(signed_words, hn::ShiftRight<16>(bits));
    hn::StoreU(hn::DemoteTo(Halfwords(), upper), Halfwords(), to);
  }
};

struct Float16 {
  using Element = uint16_t;
#if MAMBA_SCAN_HAS_F16
  using Halves = hn::Rebind<hwy::float16_t, Floats>;
  static HWY_INLINE Vec load(const uint16_t* from) {
    return hn::PromoteTo(Floats(), hn::BitCast(Halves(), hn::LoadU(Halfwords(), from)));
  }
  static HWY_INLINE void store(Vec value, uint16_t* to) {
    hn::StoreU(hn::BitCast(Halfwords(), hn::DemoteTo(Halves(), value)), Halfwords(), to);
  }
#else
  // Values below 2^31 compare the same signed, which every instruction set can do.
  static HWY_INLINE auto less(WordVec a, WordVec b) {
    const hn::RebindToSigned<Words> signed_words;
    return hn::RebindMask(Words(), hn::Lt(hn::BitCast(signed_words, a), hn::BitCast(signed_words, b)));
  }
  static HWY_INLINE Vec load(const uint16_t* from) {
    const hn::RebindToSigned<Words> signed_words;
    const WordVec half = hn::PromoteTo(Words(), hn::LoadU(Halfwords(), from));
    const WordVec sign = hn::ShiftLeft<16>(hn::And(half, word(0x8000)));
    const WordVec magnitude = hn::And(half, word(0x7FFF));
    const WordVec shifted = hn::ShiftLeft<13>(magnitude);
    const WordVec normal = hn::Add(shifted, word((127 - 15) << 23));
    const WordVec special = hn::Or(shifted, word(0x7F800000));
    // A subnormal is its integer times 2^-24; every step is normal in fp32, so flushing denormals does not matter.
    const Vec tiny = hn::Mul(hn::ConvertTo(Floats(), hn::BitCast(signed_words, magnitude)), constant(5.9604644775e-8f));
    const auto is_tiny = less(magnitude, word(0x0400));
    const auto is_special = less(word(0x7BFF), magnitude);
    const WordVec finite = hn::IfThenElse(is_tiny, hn::BitCast(Words(), tiny), normal);
    return hn::BitCast(Floats(), hn::Or(sign, hn::IfThenElse(is_special, special, finite)));
  }
  static HWY_INLINE void store(Vec value, uint16_t* to) {
    const hn::RebindToSigned<Words> signed_words;
    const WordVec bits = hn::BitCast(Words(), value);
    const WordVec sign = hn::And(hn::ShiftRight<16>(bits), word(0x8000));
    const WordVec magnitude = hn::And(bits, word(0x7FFFFFFF));
    // Below 2^-14 the unit of 0.5f's mantissa, 2^-24, is the unit of a subnormal half: the addition rounds.
    const Vec shifted = hn::Add(hn::BitCast(Floats(), magnitude), constant(0.5f));
    const WordVec tiny = hn::Sub(hn::BitCast(Words(), shifted), word(0x3F000000));
    const WordVec odd = hn::And(hn::ShiftRight<13>(magnitude), word(1));
    const WordVec rebased = hn::Add(hn::Sub(magnitude, word((127 - 15) << 23)), word(0x0FFF));
    const WordVec normal = hn::ShiftRight<13>(hn::Add(rebased, odd));
    const WordVec not_finite = hn::IfThenElse(less(word(0x7F800000), magnitude), word(0x7E00), word(0x7C00));
    WordVec half = hn::IfThenElse(less(magnitude, word(0x38800000)), tiny, normal);
    half = hn::IfThenElse(less(magnitude, word(0x47800000)), half, not_finite);
    const auto result = hn::BitCast(signed_words, hn::Or(sign, half));
    hn::StoreU(hn::DemoteTo(Halfwords(), result), Halfwords(), to);
  }
#endif
};

}  // namespace mamba_scan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBA_SCAN_CPU_STORAGE_INL_H_
