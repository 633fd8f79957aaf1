// kernels/common/device.cuh for a CPU: the same functions, without PTX. Included inside the namespace of an emulated
// kernel, so it includes nothing itself; cuda_language.h came before.
#pragma once

#define MS_HAS_BULK_COPIES 1

// Dynamic shared memory. On a GPU: extern __shared__ TYPE NAME[];
#define MS_DYNAMIC_SHARED(TYPE, NAME) TYPE* NAME = reinterpret_cast<TYPE*>(::emulator::dynamic_shared())

namespace mamba_scan::device {

struct Float16 {
  unsigned short bits;
};
struct BFloat16 {
  unsigned short bits;
};

inline float exp2_fast(float x) { return ::emulator::flush(::exp2f(::emulator::flush(x))); }
inline float log2_fast(float x) { return ::emulator::flush(::log2f(::emulator::flush(x))); }
inline float reciprocal_fast(float x) { return ::emulator::flush(1.0f / ::emulator::flush(x)); }

inline float max_or_nan(float a, float b) { return a != a || a > b ? a : b; }

inline float fma_saturated(float a, float b, float c) {
  const float y = ::fmaf(a, b, c);
  return y > 0.0f ? (y < 1.0f ? y : 1.0f) : 0.0f;
}

inline float to_float(float x) { return x; }

inline float to_float(Float16 x) {
  const unsigned sign = (x.bits & 0x8000u) << 16, exponent = x.bits >> 10 & 0x1fu, mantissa = x.bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const unsigned wide = exponent == 0x1fu ? 0xffu : exponent + 112u;
  return __uint_as_float(sign | wide << 23 | mantissa << 13);
}

inline float to_float(BFloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

inline void from_float(float x, float& out) { out = x; }

inline void from_float(float x, Float16& out) {
  const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  unsigned half;
  if (magnitude > 0x7f800000u) {  // NaN
    out.bits = 0x7fffu;
    return;
  }
  if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: a subnormal, in units of 2^-24; adding 0.5 rounds to even
    half = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  out.bits = static_cast<unsigned short>(sign | half);
}

inline void from_float(float x, BFloat16& out) {
  const unsigned bits = __float_as_uint(x);
  const unsigned rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  out.bits = static_cast<unsigned short>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : rounded);
}

template <int BYTES>
struct Bits;
template <>
struct Bits<16> {
  using Type = uint4;
};
template <>
struct Bits<8> {
  using Type = uint2;
};
template <>
struct Bits<4> {
  using Type = unsigned;
};
template <>
struct Bits<2> {
  using Type = unsigned short;
};

template <int BYTES>
inline void load_global(const void* from, void* to) {
  using Type = typename Bits<BYTES>::Type;
  ::emulator::require_aligned(from, BYTES);
  *static_cast<Type*>(to) = *static_cast<const Type*>(from);
}

template <int BYTES>
inline void store_global(void* to, const void* from) {
  using Type = typename Bits<BYTES>::Type;
  ::emulator::require_aligned(to, BYTES);
  *static_cast<Type*>(to) = *static_cast<const Type*>(from);
}

inline int opaque(int x) { return x; }

constexpr float kPairZero = 2.0f, kPairUnit = 1.0f / 4194304.0f;
inline float2 read_pair(const float2* table, float place) {
  return table[static_cast<int>((place - kPairZero) / kPairUnit)];
}

// The bytes arrive when they are waited for and are poison until then.
template <int BYTES>
inline void async_copy(void* to_shared, const void* from_global) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async moves 4, 8 or 16 bytes");
  ::emulator::async_copy(to_shared, from_global, BYTES);
}
inline void async_commit() { ::emulator::async_commit(); }
template <int PENDING>
inline void async_wait() {
  ::emulator::async_wait(PENDING);
}

template <int THREADS>
inline void barrier_wait(int id, EMULATED_PLACE) {
  ::emulator::barrier(static_cast<unsigned>(id), THREADS, true, false, file, line);
}
inline void barrier_wait(int id, int threads, EMULATED_PLACE) {
  ::emulator::barrier(static_cast<unsigned>(id), static_cast<unsigned>(threads), true, false, file, line);
}
template <int THREADS>
inline void barrier_arrive(int id, EMULATED_PLACE) {
  ::emulator::barrier(static_cast<unsigned>(id), THREADS, false, false, file, line);
}

struct Event {
  unsigned long long state;
};
inline void event_init(Event& event, int count, EMULATED_PLACE) {
  ::emulator::event_init(&event, static_cast<unsigned>(count), file, line);
}
inline void event_end(Event& event, EMULATED_PLACE) { ::emulator::event_end(&event, file, line); }
inline void event_signal(Event& event, EMULATED_PLACE) { ::emulator::event_signal(&event, file, line); }
inline void event_wait(Event& event, unsigned parity, EMULATED_PLACE) {
  ::emulator::event_wait(&event, parity, file, line);
}
inline bool event_happened(Event& event, unsigned parity, EMULATED_PLACE) {
  return ::emulator::event_happened(&event, parity, file, line);
}

inline void flag_set(unsigned* flag) { ::emulator::flag_set(flag); }
inline void flag_wait(const unsigned* flag) { ::emulator::flag_wait(flag); }

inline void event_signal_bytes(Event& event, int bytes, EMULATED_PLACE) {
  ::emulator::event_signal_bytes(&event, static_cast<std::size_t>(bytes), file, line);
}
inline void bulk_load(void* to_shared, const void* from_global, int bytes, Event& event, EMULATED_PLACE) {
  ::emulator::bulk_load(to_shared, from_global, static_cast<std::size_t>(bytes), &event, file, line);
}
inline void bulk_fence() {}  // that one is missing is not found
inline void bulk_store(void* to_global, const void* from_shared, int bytes) {
  ::emulator::bulk_store(to_global, from_shared, static_cast<std::size_t>(bytes));
}
inline void bulk_wait() { ::emulator::bulk_wait(); }

}  // namespace mamba_scan::device
