#include "cpu/vector_math.h"

#include <algorithm>
#include <cstdint>

#include "cpu/denormals.h"

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/vector_math.cpp"
#include "hwy/foreach_target.h"  // must come before highway.h and the -inl headers
// clang-format on
#include "cpu/phase-inl.h"
#include "cpu/storage-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mamba_scan::cpu::HWY_NAMESPACE {

// Applies operation(load(...)) and store to whole vectors, the last one padded. Two vectors per turn: enough
// independent work for any out-of-order processor.
template <class From, class To, class Operation>
HWY_INLINE void map(const typename From::Element* from, typename To::Element* to, size_t count,
                    const Operation& operation) {
  size_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Vec first = operation(From::load(from + i));
    const Vec second = operation(From::load(from + i + kLanes));
    To::store(first, to + i);
    To::store(second, to + i + kLanes);
  }
  for (; i < count; i += kLanes) {
    typename From::Element in[kLanes] = {};
    typename To::Element out[kLanes];
    const size_t rest = std::min(kLanes, count - i);
    std::copy_n(from + i, rest, in);
    To::store(operation(From::load(in)), out);
    std::copy_n(out, rest, to + i);
  }
}

void exp2_array(const float* from, float* to, size_t count) {
  map<Float32, Float32>(from, to, count, [](Vec x) HWY_ATTR { return exp2_of_product(x, constant(1.0f)); });
}
void exp2_bounded_array(const float* from, float* to, size_t count) {
  map<Float32, Float32>(from, to, count, [](Vec x) HWY_ATTR { return exp2_of_product_bounded(x, constant(1.0f)); });
}
void softplus_array(const float* from, float* to, size_t count) {
  map<Float32, Float32>(from, to, count, [](Vec x) HWY_ATTR { return softplus(x); });
}
void silu_array(const float* from, float* to, size_t count) {
  map<Float32, Float32>(from, to, count, [](Vec x) HWY_ATTR { return silu(x); });
}
void cos_sin_array(const float* x, const float* rate, float* cos, float* sin, size_t count) {
  for (size_t i = 0; i < count; i += kLanes) {
    alignas(64) float rows[5][kLanes] = {};  // x, the rate in quarter turns high and low, cos, sin
    const size_t rest = std::min(kLanes, count - i);
    for (size_t lane = 0; lane < rest; ++lane) {
      const double turn = 0.63661977236758134 * static_cast<double>(rate[i + lane]);
      rows[0][lane] = x[i + lane];
      rows[1][lane] = static_cast<float>(turn);
      rows[2][lane] = static_cast<float>(turn - static_cast<double>(rows[1][lane]));
    }
    const Floats d;
    const Phase phase = phase_of(hn::Load(d, rows[0]), hn::Load(d, rows[1]), hn::Load(d, rows[2]));
    hn::Store(phase.cos, d, rows[3]);
    hn::Store(phase.sin, d, rows[4]);
    std::copy_n(rows[3], rest, cos + i);
    std::copy_n(rows[4], rest, sin + i);
  }
}
void from_float16(const uint16_t* from, float* to, size_t count) {
  map<Float16, Float32>(from, to, count, [](Vec x) HWY_ATTR { return x; });
}
void to_float16(const float* from, uint16_t* to, size_t count) {
  map<Float32, Float16>(from, to, count, [](Vec x) HWY_ATTR { return x; });
}
void from_bfloat16(const uint16_t* from, float* to, size_t count) {
  map<BFloat16, Float32>(from, to, count, [](Vec x) HWY_ATTR { return x; });
}
void to_bfloat16(const float* from, uint16_t* to, size_t count) {
  map<Float32, BFloat16>(from, to, count, [](Vec x) HWY_ATTR { return x; });
}

}  // namespace mamba_scan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba_scan::cpu {

HWY_EXPORT(exp2_array);
HWY_EXPORT(exp2_bounded_array);
HWY_EXPORT(softplus_array);
HWY_EXPORT(silu_array);
HWY_EXPORT(cos_sin_array);
HWY_EXPORT(from_float16);
HWY_EXPORT(to_float16);
HWY_EXPORT(from_bfloat16);
HWY_EXPORT(to_bfloat16);

void cos_sin(const float* x, const float* rate, float* cos, float* sin, std::size_t count) {
  const DenormalsAreZero guard;
  HWY_DYNAMIC_DISPATCH(cos_sin_array)(x, rate, cos, sin, count);
}

#define MAMBA_SCAN_DISPATCH(name, implementation, From, To) \
  void name(const From* from, To* to, std::size_t count) {  \
    const DenormalsAreZero guard;                           \
    HWY_DYNAMIC_DISPATCH(implementation)(from, to, count);  \
  }
MAMBA_SCAN_DISPATCH(exp2, exp2_array, float, float)
MAMBA_SCAN_DISPATCH(exp2_bounded, exp2_bounded_array, float, float)
MAMBA_SCAN_DISPATCH(softplus, softplus_array, float, float)
MAMBA_SCAN_DISPATCH(silu, silu_array, float, float)
MAMBA_SCAN_DISPATCH(float16_to_float, from_float16, unsigned short, float)
MAMBA_SCAN_DISPATCH(float_to_float16, to_float16, float, unsigned short)
MAMBA_SCAN_DISPATCH(bfloat16_to_float, from_bfloat16, unsigned short, float)
MAMBA_SCAN_DISPATCH(float_to_bfloat16, to_bfloat16, float, unsigned short)
#undef MAMBA_SCAN_DISPATCH

}  // namespace mamba_scan::cpu
#endif  // HWY_ONCE
