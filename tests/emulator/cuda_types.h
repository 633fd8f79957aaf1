// The vector types of CUDA C++, with CUDA's alignments.
#pragma once

#define EMULATED_VECTOR_TYPES(T, NAME, BYTES)                                \
  struct NAME##1 { T x; };                                                   \
  struct alignas(2 * BYTES) NAME##2 { T x, y; };                             \
  struct NAME##3 { T x, y, z; };                                             \
  struct alignas(4 * BYTES < 16 ? 4 * BYTES : 16) NAME##4 { T x, y, z, w; }; \
  inline NAME##1 make_##NAME##1(T x) { return {x}; }                         \
  inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                 \
  inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }         \
  inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }

EMULATED_VECTOR_TYPES(signed char, char, 1)
EMULATED_VECTOR_TYPES(unsigned char, uchar, 1)
EMULATED_VECTOR_TYPES(short, short, 2)
EMULATED_VECTOR_TYPES(unsigned short, ushort, 2)
EMULATED_VECTOR_TYPES(int, int, 4)
EMULATED_VECTOR_TYPES(unsigned, uint, 4)
EMULATED_VECTOR_TYPES(float, float, 4)
EMULATED_VECTOR_TYPES(long long, longlong, 8)
EMULATED_VECTOR_TYPES(unsigned long long, ulonglong, 8)
EMULATED_VECTOR_TYPES(double, double, 8)
#undef EMULATED_VECTOR_TYPES
