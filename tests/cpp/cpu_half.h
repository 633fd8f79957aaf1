// 16-bit floats by their definition, slow and independent of the code under test.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "selective_scan/problem.h"

namespace cpu_tests {

struct HalfFormat {
  int mantissa_bits;
  int exponent_bits;
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int highest_exponent() const { return (1 << exponent_bits) - 1; }
};
inline constexpr HalfFormat kFloat16Format{10, 5};
inline constexpr HalfFormat kBFloat16Format{7, 8};

inline HalfFormat half_format(mamba_scan::DType dtype) {
  return dtype == mamba_scan::DType::kFloat16 ? kFloat16Format : kBFloat16Format;
}

inline double half_to_double(std::uint16_t bits, HalfFormat format) {
  const int mantissa = bits & ((1 << format.mantissa_bits) - 1);
  const int exponent = (bits >> format.mantissa_bits) & format.highest_exponent();
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == format.highest_exponent()) {
    return mantissa ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  }
  const int implied = exponent == 0 ? 0 : 1 << format.mantissa_bits;
  const int power = (exponent == 0 ? 1 : exponent) - format.bias() - format.mantissa_bits;
  return sign * std::ldexp(mantissa + implied, power);
}

// Round to nearest, ties to even.
inline std::uint16_t double_to_half(double value, HalfFormat format) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const auto infinity = static_cast<std::uint16_t>(format.highest_exponent() << format.mantissa_bits);
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | infinity | 1 << (format.mantissa_bits - 1));
  const double magnitude = std::fabs(value);
  if (std::isinf(magnitude)) return static_cast<std::uint16_t>(sign | infinity);
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude = m * 2^exponent, m in [0.5, 1)
  const int power = std::max(exponent - 1, 1 - format.bias()) - format.mantissa_bits;  // of the last bit
  const auto units = static_cast<long long>(std::nearbyint(std::ldexp(magnitude, -power)));
  if (units == 0) return sign;
  // A subnormal has field 0; a mantissa that rounds up to the next power of two carries into the exponent by itself.
  const long long field = power + format.mantissa_bits + format.bias() - 1;
  const long long bits = (field << format.mantissa_bits) + units;
  return static_cast<std::uint16_t>(sign | (bits > infinity ? infinity : bits));
}

}  // namespace cpu_tests
