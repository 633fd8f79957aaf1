// 16-bit floats by arithmetic, for references: nothing shared with the kernels' conversions.
#pragma once

#include <cmath>
#include <limits>

namespace emulator {

// exponent_bits and mantissa_bits describe the format; one sign bit comes on top.
inline double small_float_value(unsigned bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = static_cast<int>(bits) & ((1 << mantissa_bits) - 1);
  const double sign = (bits >> (exponent_bits + mantissa_bits) & 1) != 0 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1)
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

// Round to nearest even; not for NaN.
inline unsigned short nearest_small_float(double value, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const unsigned sign = std::signbit(value) ? 1u << (exponent_bits + mantissa_bits) : 0u;
  const unsigned infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
  const double magnitude = std::fabs(value);
  if (std::isinf(magnitude)) return static_cast<unsigned short>(sign | infinity);
  int exponent = 0;
  if (magnitude != 0) exponent = std::ilogb(magnitude);
  exponent = exponent < 1 - bias ? 1 - bias : exponent;
  // In units of the last place of numbers with this exponent; 2^mantissa_bits more is the next exponent.
  const auto units = static_cast<long>(std::nearbyint(std::ldexp(magnitude, mantissa_bits - exponent)));
  const long steps = (static_cast<long>(exponent + bias - 1) << mantissa_bits) + units;
  return static_cast<unsigned short>(sign |
                                     (steps >= static_cast<long>(infinity) ? infinity : static_cast<unsigned>(steps)));
}

inline double float16_value(unsigned short bits) { return small_float_value(bits, 5, 10); }
inline double bfloat16_value(unsigned short bits) { return small_float_value(bits, 8, 7); }
inline unsigned short nearest_float16(double value) { return nearest_small_float(value, 5, 10); }
inline unsigned short nearest_bfloat16(double value) { return nearest_small_float(value, 8, 7); }

}  // namespace emulator
