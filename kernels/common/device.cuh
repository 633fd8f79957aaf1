// Everything a kernel needs from the machine that plain CUDA C++ without headers does not give: storage types for
// 16-bit floats, conversions, the fast exponential, vector accesses. The one place with inline PTX, and the one
// header that differs between a GPU and the emulator (tests/emulator), which runs the same kernels on a CPU.
#pragma once

#if defined(MAMBA_SCAN_EMULATOR)
#include "emulated_device.h"
#else

// Dynamic shared memory of the block, as an array.
#define MS_DYNAMIC_SHARED(TYPE, NAME) extern __shared__ TYPE NAME[]

// Are there bulk copies? The architecture that is compiled for may be older than the device; PTX has them since
// CUDA 12.
#if __CUDA_ARCH__ >= 900 && __CUDACC_VER_MAJOR__ >= 12
#define MS_HAS_BULK_COPIES 1
#else
#define MS_HAS_BULK_COPIES 0
#endif

namespace mamba_scan::device {

// 16-bit floats are stored as their bits; NVRTC without a toolkit knows neither __half nor __nv_bfloat16.
struct Float16 {
  unsigned short bits;
};
struct BFloat16 {
  unsigned short bits;
};

// 2^x, relative error below 2^-22; subnormal results are flushed to zero. One slot of the exponential unit.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// log2(x), absolute error below 2^-22 for x in (0.5, 2), relative error below 2^-21 elsewhere.
__device__ __forceinline__ float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1/x, 1 ulp.
__device__ __forceinline__ float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The larger one, and not a number where one is not. Since Ampere.
__device__ __forceinline__ float max_or_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

// a * b + c, but 0 where that is less, or not a number, and 1 where it is more.
__device__ __forceinline__ float fma_saturated(float a, float b, float c) {
  float y;
  asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(y) : "f"(a), "f"(b), "f"(c));
  return y;
}

__device__ __forceinline__ float to_float(float x) { return x; }

__device__ __forceinline__ float to_float(Float16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

__device__ __forceinline__ float to_float(BFloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

// Round to nearest even.
__device__ __forceinline__ void from_float(float x, float& out) { out = x; }

__device__ __forceinline__ void from_float(float x, Float16& out) {
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
}

__device__ __forceinline__ void from_float(float x, BFloat16& out) {
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else  // no such instruction before Ampere
  unsigned bits = __float_as_uint(x);
  unsigned rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out.bits = static_cast<unsigned short>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : rounded);
#endif
}

// BYTES (2, 4, 8 or 16) of global memory that no thread writes during the kernel, aligned to BYTES.
template <int BYTES>
__device__ __forceinline__ void load_global(const void* from, void* to) {
  if constexpr (BYTES == 16) {
    *static_cast<uint4*>(to) = __ldg(static_cast<const uint4*>(from));
  } else if constexpr (BYTES == 8) {
    *static_cast<uint2*>(to) = __ldg(static_cast<const uint2*>(from));
  } else if constexpr (BYTES == 4) {
    *static_cast<unsigned*>(to) = __ldg(static_cast<const unsigned*>(from));
  } else {
    static_assert(BYTES == 2, "2, 4, 8 or 16 bytes");
    *static_cast<unsigned short*>(to) = __ldg(static_cast<const unsigned short*>(from));
  }
}

// The whole vector in one instruction: written in C++, a struct of two words may become two stores, and two
// transactions.
template <int BYTES>
__device__ __forceinline__ void store_global(void* to, const void* from) {
  if constexpr (BYTES == 16) {
    const uint4 v = *static_cast<const uint4*>(from);
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
  } else if constexpr (BYTES == 8) {
    const uint2 v = *static_cast<const uint2*>(from);
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(v.x), "r"(v.y) : "memory");
  } else if constexpr (BYTES == 4) {
    *static_cast<unsigned*>(to) = *static_cast<const unsigned*>(from);
  } else {
    static_assert(BYTES == 2, "2, 4, 8 or 16 bytes");
    *static_cast<unsigned short*>(to) = *static_cast<const unsigned short*>(from);
  }
}

// x, but the compiler does not know that it is the same in every iteration of a loop: what is computed from it is
// computed anew each time instead of being kept in registers for the whole loop.
__device__ __forceinline__ int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// As instructions on shared memory have it.
__device__ __forceinline__ unsigned shared_address(const void* in_shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(in_shared));
}

// Entry (place - kPairZero) / kPairUnit, rounded, of a table of pairs in shared memory that nothing writes to any more.
// A unit is the last bit of a number that follows 2, and of the bits of 2 none is left when they are shifted by those
// of a pair's size.
constexpr float kPairZero = 2.0f, kPairUnit = 1.0f / 4194304.0f;
__device__ __forceinline__ float2 read_pair(const float2* table, float place) {
  const unsigned at = (__float_as_uint(place) << 3) + shared_address(table);
  float2 pair;
  asm("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(at));
  return pair;
}

// Copies BYTES (4, 8 or 16) from global to shared memory while the thread goes on; both aligned to BYTES. Visible to
// the thread after async_wait, to others after a barrier as well. Before Ampere there is no such instruction: an
// ordinary load and store.
template <int BYTES>
__device__ __forceinline__ void async_copy(void* to_shared, const void* from_global) {
#if __CUDA_ARCH__ >= 800
  const unsigned to = shared_address(to_shared);
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from_global) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from_global), "n"(BYTES) : "memory");
  }
#else
  load_global<BYTES>(from_global, to_shared);
#endif
}

// Closes the group of copies issued since the last call.
__device__ __forceinline__ void async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most PENDING of the latest groups are still under way.
template <int PENDING>
__device__ __forceinline__ void async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Named barriers, 0 to 15, of THREADS threads, whole warps of the block: waits until all have come, or counts among
// them and goes on. What any of them did to memory before is then done for those that waited.
template <int THREADS>
__device__ __forceinline__ void barrier_wait(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(THREADS) : "memory");
}
__device__ __forceinline__ void barrier_wait(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
template <int THREADS>
__device__ __forceinline__ void barrier_arrive(int id) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(THREADS) : "memory");
}

#if __CUDA_ARCH__ >= 800
// Something in shared memory that happens again and again: each time when it has been signalled `count` times, counted
// from event_init(), after which a barrier must come. What the signalling threads did before, those that have waited
// find done.
struct Event {
  unsigned long long state;
};

__device__ __forceinline__ void event_init(Event& event, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(&event)), "r"(count) : "memory");
}

// Before it is initialised anew, when nobody waits for it any more.
__device__ __forceinline__ void event_end(Event& event) {
  asm volatile("mbarrier.inval.shared.b64 [%0];" ::"r"(shared_address(&event)) : "memory");
}

// Has it, counted as by event_wait()? Then there is nothing to wait for any more.
__device__ __forceinline__ bool event_happened(Event& event, unsigned parity) {
  unsigned happened;
  asm volatile(
      "{\n"
      ".reg .pred happened;\n"
      "mbarrier.test_wait.parity.shared.b64 happened, [%1], %2;\n"
      "selp.u32 %0, 1, 0, happened;\n"
      "}"
      : "=r"(happened)
      : "r"(shared_address(&event)), "r"(parity)
      : "memory");
  return happened != 0;
}

__device__ __forceinline__ void event_signal(Event& event) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(shared_address(&event)) : "memory");
}

// Until it has happened once more than before, the times being counted from 0 and known by whether they are even
// (parity 0) or odd (1). It must not happen twice before all have waited for the first time.
__device__ __forceinline__ void event_wait(Event& event, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred happened;\n"
      "again:\n"
#if __CUDA_ARCH__ >= 900
      "mbarrier.try_wait.parity.shared.b64 happened, [%0], %1;\n"
#else
      "mbarrier.test_wait.parity.shared.b64 happened, [%0], %1;\n"
#endif
      "@!happened bra again;\n"
      "}" ::"r"(shared_address(&event)),
      "r"(parity)
      : "memory");
}
#endif

// A flag in global memory, from one thread of the grid to another: what the thread that sets it has done or seen
// before, whoever has waited for it finds done.
__device__ __forceinline__ void flag_set(unsigned* flag) {
  asm volatile("fence.acq_rel.gpu; st.relaxed.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory");
}
__device__ __forceinline__ void flag_wait(const unsigned* flag) {
  unsigned is_set;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(is_set) : "l"(flag) : "memory");
  } while (is_set == 0);
}

#if MS_HAS_BULK_COPIES
// Copies of any multiple of 16 bytes between addresses that are multiples of 16, by the engine for bulk copies, which
// one thread asks: it takes one copy after another, where those of async_copy() arrive together.

// event_signal() of an event that only happens when so many bytes of bulk_load() have arrived besides. Before the first
// bulk_load(): it lets the engine know what event_init() did.
__device__ __forceinline__ void event_signal_bytes(Event& event, int bytes) {
  asm volatile(
      "fence.mbarrier_init.release.cluster;\n"
      "{ .reg .b64 state; mbarrier.arrive.expect_tx.shared.b64 state, [%0], %1; }" ::"r"(shared_address(&event)),
      "r"(bytes)
      : "memory");
}

__device__ __forceinline__ void bulk_load(void* to_shared, const void* from_global, int bytes, Event& event) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to_shared)),
               "l"(from_global), "r"(bytes), "r"(shared_address(&event))
               : "memory");
}

// What the thread has written to shared memory so far, a bulk_store() finds that comes after a barrier.
__device__ __forceinline__ void bulk_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ void bulk_store(void* to_global, const void* from_shared, int bytes) {
  asm volatile(
      "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n"
      "cp.async.bulk.commit_group;" ::"l"(to_global),
      "r"(shared_address(from_shared)), "r"(bytes)
      : "memory");
}

// Until the thread's bulk_store()s have read what they store: before something else is written there, or the block
// ends.
__device__ __forceinline__ void bulk_wait() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
#endif

}  // namespace mamba_scan::device

#endif  // MAMBA_SCAN_EMULATOR
