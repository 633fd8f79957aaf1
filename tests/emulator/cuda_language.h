// CUDA C++ as NVRTC offers it without any header, for a host compiler. Included before a kernel's text, outside of
// the namespace that holds it.
#pragma once

#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "cuda_types.h"
#include "kernel_calls.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __constant__ static const
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(BYTES) __attribute__((aligned(BYTES)))
// The emulator finds a kernel's static shared memory by the section it lies in.
#define __shared__ static __attribute__((section(EMULATED_SHARED_SECTION)))
#define __builtin_assume(CONDITION) ((CONDITION) ? void() : ::emulator::fail("a false assumption: " #CONDITION))

#define threadIdx (::emulator::thread_index())
#define blockIdx (::emulator::block_index())
#define blockDim (::emulator::block_dim())
#define gridDim (::emulator::grid_dim())
using dim3 = ::emulator::Dim3;
constexpr int warpSize = 32;

#define EMULATED_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATED_PLACE) { ::emulator::barrier(0, 0, true, false, file, line); }
inline int __syncthreads_count(int predicate, EMULATED_PLACE) {
  return static_cast<int>(::emulator::barrier(0, 0, true, predicate != 0, file, line));
}
inline int __syncthreads_or(int predicate, EMULATED_PLACE) { return __syncthreads_count(predicate, file, line) != 0; }
inline int __syncthreads_and(int predicate, EMULATED_PLACE) {
  return __syncthreads_count(predicate == 0, file, line) == 0;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) { ::emulator::yield(); }
[[noreturn]] inline void __trap() { ::emulator::fail("__trap()"); }

// Warps. Values travel as 64 bits.
namespace emulator {
template <class Value>
Value shuffle(Collective operation, unsigned mask, Value value, unsigned argument, int width, const char* file,
              int line) {
  static_assert(sizeof(Value) == 4 || sizeof(Value) == 8, "shuffles move 4 or 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = collective(operation, mask, bits, argument, static_cast<unsigned>(width), file, line);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
}  // namespace emulator

template <class Value>
Value __shfl_sync(unsigned mask, Value value, int lane, int width = 32, EMULATED_PLACE) {
  return ::emulator::shuffle(::emulator::Collective::kShuffle, mask, value, lane, width, file, line);
}
template <class Value>
Value __shfl_up_sync(unsigned mask, Value value, unsigned delta, int width = 32, EMULATED_PLACE) {
  return ::emulator::shuffle(::emulator::Collective::kShuffleUp, mask, value, delta, width, file, line);
}
template <class Value>
Value __shfl_down_sync(unsigned mask, Value value, unsigned delta, int width = 32, EMULATED_PLACE) {
  return ::emulator::shuffle(::emulator::Collective::kShuffleDown, mask, value, delta, width, file, line);
}
template <class Value>
Value __shfl_xor_sync(unsigned mask, Value value, int lane_mask, int width = 32, EMULATED_PLACE) {
  return ::emulator::shuffle(::emulator::Collective::kShuffleXor, mask, value, lane_mask, width, file, line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATED_PLACE) {
  ::emulator::collective(::emulator::Collective::kSyncWarp, mask, 0, 0, 32, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATED_PLACE) {
  return static_cast<unsigned>(
      ::emulator::collective(::emulator::Collective::kBallot, mask, predicate != 0, 0, 32, file, line));
}
inline int __any_sync(unsigned mask, int predicate, EMULATED_PLACE) {
  return static_cast<int>(
      ::emulator::collective(::emulator::Collective::kAny, mask, predicate != 0, 0, 32, file, line));
}
inline int __all_sync(unsigned mask, int predicate, EMULATED_PLACE) {
  return static_cast<int>(
      ::emulator::collective(::emulator::Collective::kAll, mask, predicate != 0, 0, 32, file, line));
}
template <class Value>
unsigned __match_any_sync(unsigned mask, Value value, EMULATED_PLACE) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return static_cast<unsigned>(
      ::emulator::collective(::emulator::Collective::kMatchAny, mask, bits, 0, 32, file, line));
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, EMULATED_PLACE) {
  return static_cast<unsigned>(
      ::emulator::collective(::emulator::Collective::kReduceAdd, mask, value, 0, 32, file, line));
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value, EMULATED_PLACE) {
  return static_cast<unsigned>(
      ::emulator::collective(::emulator::Collective::kReduceMin, mask, value, 0, 32, file, line));
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, EMULATED_PLACE) {
  return static_cast<unsigned>(
      ::emulator::collective(::emulator::Collective::kReduceMax, mask, value, 0, 32, file, line));
}

#include "cuda_math.h"
#include "cuda_memory.h"
