#include "planted_kernels.h"

#define EMULATED_SHARED_SECTION "emulated_shared_planted"
#define MAMBA_SCAN_EMULATOR 1
#include "kernel_invoke.h"

// Written as for NVRTC.
namespace planted {

#include "common/activation_table.cuh"
#include "common/device.cuh"

__global__ void block_sum(const float* in, float* out) {
  __shared__ float sum[256];
  const int t = static_cast<int>(threadIdx.x);
  sum[t] = in[blockIdx.x * blockDim.x + t];
  __syncthreads();
  for (int half = static_cast<int>(blockDim.x) / 2; half > 0; half /= 2) {
    if (t < half) sum[t] += sum[t + half];
    __syncthreads();
  }
  if (t == 0) out[blockIdx.x] = sum[0];
}

__global__ void transpose(const float* in, float* out, int rows, int columns) {
  __shared__ float tile[16][17];
  const int x = threadIdx.x, y = threadIdx.y;
  const int column = blockIdx.x * 16 + x, row = blockIdx.y * 16 + y;
  if (row < rows && column < columns) tile[y][x] = in[row * columns + column];
  __syncthreads();
  const int to_row = blockIdx.x * 16 + y, to_column = blockIdx.y * 16 + x;
  if (to_row < columns && to_column < rows) out[to_row * rows + to_column] = tile[x][y];
}

__global__ void tabulate(const float* in, float* softplus, float* sigmoid, int count) {
  namespace device = mamba_scan::device;
  __shared__ device::ActivationTable table;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  device::fill_table(table, thread, threads);
  __syncthreads();
  for (int i = thread; i < count; i += threads) {
    softplus[i] = device::softplus(table, in[i]);
    sigmoid[i] = device::sigmoid(table, in[i]);
  }
}

__global__ void warp_sums(const double* in, double* out) {
  double sum = in[threadIdx.x];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if (threadIdx.x % 32 == 0) out[threadIdx.x / 32] = sum;
}

__global__ void shuffles(int* out) {
  const int lane = threadIdx.x;
  out[lane] = __shfl_sync(0xffffffffu, lane, 5);
  out[32 + lane] = __shfl_up_sync(0xffffffffu, lane, 3, 8);
  out[64 + lane] = __shfl_down_sync(0xffffffffu, lane, 3, 8);
  out[96 + lane] = __shfl_xor_sync(0xffffffffu, lane, 9, 8);
  if (lane % 2 == 0) out[128 + lane] = __shfl_sync(0x55555555u, lane, 30);
  if (lane % 2 == 1) out[128 + lane] = __shfl_sync(0xaaaaaaaau, lane, 31);
}

__global__ void votes(unsigned* out) {
  const unsigned lane = threadIdx.x;
  if (lane >= 24) return;
  const unsigned mask = 0x00ffffffu;
  const unsigned ballot = __ballot_sync(mask, lane % 3 == 0);
  const int any = __any_sync(mask, lane == 23), none = __any_sync(mask, lane == 24);
  const int all = __all_sync(mask, lane < 24), not_all = __all_sync(mask, lane > 0);
  const unsigned match = __match_any_sync(mask, lane / 8), sum = __reduce_add_sync(mask, lane);
  if (lane != 9) return;
  out[0] = ballot, out[1] = any, out[2] = none, out[3] = all, out[4] = not_all, out[5] = match, out[6] = sum;
}

__global__ void histogram(const int* in, int* counts, float* total, unsigned long long* first) {
  atomicAdd(&counts[in[blockIdx.x * blockDim.x + threadIdx.x]], 1);
  atomicAdd(total, 0.5f);
  atomicCAS(first, ~0ull, 7ull);
}

__global__ void dynamic_reverse(int* data) {
  MS_DYNAMIC_SHARED(int, copy);
  copy[threadIdx.x] = data[threadIdx.x];
  __syncthreads();
  data[threadIdx.x] = copy[blockDim.x - 1 - threadIdx.x];
}

// Warp 0 fills, warps 1 and 2 drain; warp 3 has no part in it.
__global__ void named_barriers(int* out) {
  __shared__ int slot[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int round = 0; round < 3; ++round) {
    if (warp == 0) {
      slot[lane] = 100 * round + lane;
      ::emulator::barrier(1, 96, false, false, "full", 1);
      ::emulator::barrier(2, 96, true, false, "empty", 2);
    } else if (warp < 3) {
      ::emulator::barrier(1, 96, true, false, "full", 3);
      out[(warp - 1) * 96 + round * 32 + lane] = slot[31 - lane];
      ::emulator::barrier(2, 96, false, false, "empty", 4);
    }
  }
}

// Warp 0 fills two slots in turns, warps 1 and 2 drain each; nothing but events says when. Warp 1 waits only for those
// that have not happened yet.
__global__ void events(int* out) {
  __shared__ int slot[2][32];
  __shared__ mamba_scan::device::Event full[2], empty[2];
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x < 2) event_init(full[lane], 1), event_init(empty[lane], 2);
  __syncthreads();
  for (unsigned round = 0; round < 5; ++round) {
    const unsigned at = round % 2, parity = round / 2 % 2;
    if (warp == 0) {
      if (round >= 2) event_wait(empty[at], 1 - parity);
      slot[at][lane] = static_cast<int>(100 * round + lane);
    } else {
      if (warp == 2 || !event_happened(full[at], parity)) event_wait(full[at], parity);
      out[(warp - 1) * 160 + round * 32 + lane] = slot[at][31 - lane];
    }
    __syncwarp();
    if (lane == 0) event_signal(warp == 0 ? full[at] : empty[at]);
  }
}

__global__ void wait_for_flag(int* flag, int* out) {
  if (threadIdx.x == 0) {
    while (atomicAdd(flag, 0) == 0) {
    }
    out[0] = 1;
  }
  if (threadIdx.x == 33) atomicExch(flag, 1);
}

// The first warp hands its numbers to the second, of the same block or another. mistake 1: does not wait for the other
// lanes before it sets the flag, 2: sets it before it writes, 3: the other lanes do not wait for the one that waits for
// it.
__global__ void hand_over(unsigned* flag, int* numbers, int* out, int mistake) {
  using namespace mamba_scan::device;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (blockIdx.x == 0 && threadIdx.x < 32) {
    if (mistake == 2 && lane == 0) flag_set(flag);
    numbers[lane] = 3 * lane;
    if (mistake != 1) __syncwarp();
    if (mistake != 2 && lane == 0) flag_set(flag);
  } else {
    if (lane == 0) flag_wait(flag);
    if (mistake != 3) __syncwarp();
    out[lane] = numbers[31 - lane];
  }
}

__global__ void indices(int* out) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * static_cast<int>(blockDim.x * blockDim.y * blockDim.z) + thread] = block * 1000 + thread;
}

// Every 16-bit pattern to fp32, and fp32 patterns to both 16-bit types.
__global__ void convert(const unsigned short* bits, float* from_half, float* from_bfloat, const float* values,
                        unsigned short* to_half, unsigned short* to_bfloat) {
  using namespace mamba_scan::device;
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  from_half[i] = to_float(Float16{bits[i]});
  from_bfloat[i] = to_float(BFloat16{bits[i]});
  Float16 half;
  BFloat16 bfloat;
  from_float(values[i], half);
  from_float(values[i], bfloat);
  to_half[i] = half.bits;
  to_bfloat[i] = bfloat.bits;
}

__global__ void reads_poison(float* out) {
  __shared__ float never_written[64];
  out[threadIdx.x] = never_written[threadIdx.x];
}

// The double buffer of a tiled kernel: one barrier per tile is enough.
__global__ void pipeline(const int* in, int* out, int tiles) {
  __shared__ int buffer[2][64];
  const int t = threadIdx.x;
  for (int tile = 0; tile < tiles; ++tile) {
    buffer[tile % 2][t] = in[tile * 64 + t];
    __syncthreads();
    out[tile * 64 + t] = buffer[tile % 2][63 - t];
  }
}

// A warp's ring of two tiles. mistake 1: does not wait, 2: waits but does not tell the others, 3: overwrites a tile
// that others may still read.
__global__ void async_copies(const float* in, float* out, int tiles, int mistake) {
  using namespace mamba_scan::device;
  __shared__ __align__(16) float buffer[2][128];
  const int t = threadIdx.x;
  async_copy<16>(&buffer[0][4 * t], in + 4 * t);
  async_commit();
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles && mistake == 3) async_copy<16>(&buffer[(tile + 1) % 2][4 * t], in + (tile + 1) * 128 + 4 * t);
    if (mistake != 1 && mistake != 3) async_wait<0>();
    if (mistake == 3) {
      async_commit();
      async_wait<1>();
    }
    if (mistake != 2) __syncwarp();
    if (tile + 1 < tiles && mistake != 3) async_copy<16>(&buffer[(tile + 1) % 2][4 * t], in + (tile + 1) * 128 + 4 * t);
    if (mistake != 3) async_commit();
    for (int i = 0; i < 4; ++i) out[tile * 128 + t + 32 * i] = buffer[tile % 2][127 - t - 32 * i];
  }
}

__global__ void missing_barrier(float* out) {
  __shared__ float shared[64];
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  // __syncthreads() belongs here
  out[threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void missing_warp_barrier(int* out) {
  __shared__ int shared[32];
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  const int all = __shfl_sync(0xffffffffu, 1, 0);  // brings the lanes together but orders no memory
  out[threadIdx.x] = all + shared[threadIdx.x ^ 1u];
}

__global__ void blocks_race(int* out) {
  if (threadIdx.x == 0) out[0] = static_cast<int>(blockIdx.x);
}

__global__ void atomic_and_plain(int* out) {
  if (threadIdx.x == 0) out[0] = 0;
  atomicAdd(out, 1);
}

__global__ void leaves_before_barrier(int* out) {
  if (threadIdx.x == 7) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void two_barriers(int* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

__global__ void barrier_counts(int*) { ::emulator::barrier(3, threadIdx.x < 32 ? 64 : 96, true, false, "count", 1); }

// Warp 0 says twice that something is ready before warp 1 has looked.
__global__ void arrives_twice(int* out) {
  __shared__ int ready[2][32];
  const int lane = threadIdx.x % 32;
  for (int round = 0; round < 2; ++round) {
    if (threadIdx.x < 32) {
      ready[round][lane] = round;
      __syncwarp();
      ::emulator::barrier(1, 64, false, false, "ready", 1);
    } else {
      ::emulator::barrier(1, 64, true, false, "ready", 2);
      out[lane] = ready[round][lane];
    }
  }
}

__global__ void event_not_waited_for(int* out) {
  __shared__ int slot[32];
  __shared__ mamba_scan::device::Event full;
  const int lane = threadIdx.x % 32;
  if (threadIdx.x == 0) event_init(full, 1);
  __syncthreads();
  if (threadIdx.x < 32) {
    slot[lane] = lane;
    __syncwarp();
    if (lane == 0) event_signal(full);
  } else {
    // event_wait(full, 0) belongs here
    out[lane] = slot[lane];
  }
}

__global__ void event_never_happens(int* out) {
  __shared__ mamba_scan::device::Event full;
  if (threadIdx.x == 0) event_init(full, 2);
  __syncthreads();
  if (threadIdx.x == 0) event_signal(full);
  event_wait(full, 0);
  out[threadIdx.x] = 1;
}

// One thread copies 64 numbers in bulk, all wait for them, and it stores what they make of them.
__global__ void bulk_copies(const int* in, int* out) {
  alignas(16) __shared__ int numbers[64];
  __shared__ mamba_scan::device::Event arrival;
  if (threadIdx.x == 0) {
    event_init(arrival, 1);
    event_signal_bytes(arrival, 256);
    bulk_load(numbers, in, 128, arrival);
    bulk_load(numbers + 32, in + 32, 128, arrival);
  }
  __syncthreads();
  event_wait(arrival, 0);
  numbers[threadIdx.x] += 1;
  mamba_scan::device::bulk_fence();
  __syncthreads();
  if (threadIdx.x != 0) return;
  mamba_scan::device::bulk_store(out, numbers, 256);
  mamba_scan::device::bulk_wait();
}

// Of the 128 bytes announced, so many.
__device__ void copy_32_in_bulk(int* to, const int* from, int bytes, mamba_scan::device::Event& arrival) {
  if (threadIdx.x == 0) {
    event_init(arrival, 1);
    event_signal_bytes(arrival, 128);
    bulk_load(to, from, bytes, arrival);
  }
  __syncwarp();
}

__global__ void bulk_copy_not_waited_for(const int* in, int* out) {
  alignas(16) __shared__ int numbers[32];
  __shared__ mamba_scan::device::Event arrival;
  copy_32_in_bulk(numbers, in, 128, arrival);
  // event_wait(arrival, 0) belongs here
  out[threadIdx.x] = numbers[threadIdx.x];
}

__global__ void bulk_copy_of_too_few_bytes(const int* in, int* out) {
  alignas(16) __shared__ int numbers[32];
  __shared__ mamba_scan::device::Event arrival;
  copy_32_in_bulk(numbers, in, 112, arrival);
  event_wait(arrival, 0);
  out[threadIdx.x] = numbers[threadIdx.x];
}

__global__ void bulk_store_overtaken(const int* in, int* out) {
  alignas(16) __shared__ int numbers[32];
  numbers[threadIdx.x] = in[threadIdx.x];
  mamba_scan::device::bulk_fence();
  __syncwarp();
  if (threadIdx.x == 0) mamba_scan::device::bulk_store(out, numbers, 128);
  __syncwarp();
  numbers[threadIdx.x] = 0;  // bulk_wait() belongs before this
  if (threadIdx.x == 0) mamba_scan::device::bulk_wait();
}

__global__ void not_an_event(int*) {
  __shared__ mamba_scan::device::Event full;
  event_signal(full);
}

__global__ void lane_missing(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
  __syncthreads();
}

__global__ void not_in_own_mask(int* out) { out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 0); }

__global__ void reads_outside_mask(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20);
}

__global__ void lane_left(int* out) {
  if (threadIdx.x == 31) return;
  out[threadIdx.x] = __any_sync(0xffffffffu, 1);
}

// mode 0: write behind the end, 1: read before the start, 2: write to what is read-only
__global__ void out_of_bounds(int* out, int* in, int count, int mode) {
  if (mode == 0) out[count] = 1;
  if (mode == 1) out[0] = in[-1];
  if (mode == 2) in[0] = 1;
}

__global__ void misaligned(const float* in, float4* out) { mamba_scan::device::load_global<16>(in + 1, out); }

__global__ void dynamic_overflow(int* out) {
  MS_DYNAMIC_SHARED(int, shared);
  shared[threadIdx.x + 1] = 0;
  out[threadIdx.x] = 0;
}

__global__ void wild_pointer(int** pointers, int* out) { out[0] = *pointers[0]; }

__global__ void waits_for_ever(int* flag) {
  while (atomicAdd(flag, 0) == 0) {
  }
}

__global__ void trap(int* out) {
  if (out[0] == 0) __trap();
}

__global__ void others_local(int* out) {
  __shared__ int* shared[32];
  volatile int own = static_cast<int>(threadIdx.x);
  shared[threadIdx.x] = const_cast<int*>(&own);
  __syncwarp();
  out[threadIdx.x] = *shared[31 - threadIdx.x] + own;
  __syncwarp();
}

}  // namespace planted

extern "C" {
extern char __start_emulated_shared_planted[];
extern char __stop_emulated_shared_planted[];
}

namespace emulator {

#define PLANTED(IMAGE, KERNEL)                                                                                     \
  const KernelImage IMAGE = {                                                                                      \
      #KERNEL,                                                                                                     \
      [](void** arguments) __attribute__((no_sanitize("thread"))) { invoke_kernel(&planted::KERNEL, arguments); }, \
      __start_emulated_shared_planted, __stop_emulated_shared_planted}

PLANTED(kBlockSum, block_sum);
PLANTED(kTranspose, transpose);
PLANTED(kWarpSums, warp_sums);
PLANTED(kShuffles, shuffles);
PLANTED(kTabulate, tabulate);
PLANTED(kVotes, votes);
PLANTED(kHistogram, histogram);
PLANTED(kDynamicReverse, dynamic_reverse);
PLANTED(kNamedBarriers, named_barriers);
PLANTED(kEvents, events);
PLANTED(kWaitForFlag, wait_for_flag);
PLANTED(kHandOver, hand_over);
PLANTED(kIndices, indices);
PLANTED(kConvert, convert);
PLANTED(kReadsPoison, reads_poison);
PLANTED(kPipeline, pipeline);
PLANTED(kAsyncCopies, async_copies);
PLANTED(kMissingBarrier, missing_barrier);
PLANTED(kMissingWarpBarrier, missing_warp_barrier);
PLANTED(kBlocksRace, blocks_race);
PLANTED(kAtomicAndPlain, atomic_and_plain);
PLANTED(kLeavesBeforeBarrier, leaves_before_barrier);
PLANTED(kTwoBarriers, two_barriers);
PLANTED(kBarrierCounts, barrier_counts);
PLANTED(kArrivesTwice, arrives_twice);
PLANTED(kEventNotWaitedFor, event_not_waited_for);
PLANTED(kEventNeverHappens, event_never_happens);
PLANTED(kBulkCopies, bulk_copies);
PLANTED(kBulkCopyNotWaitedFor, bulk_copy_not_waited_for);
PLANTED(kBulkCopyOfTooFewBytes, bulk_copy_of_too_few_bytes);
PLANTED(kBulkStoreOvertaken, bulk_store_overtaken);
PLANTED(kNotAnEvent, not_an_event);
PLANTED(kLaneMissing, lane_missing);
PLANTED(kNotInOwnMask, not_in_own_mask);
PLANTED(kReadsOutsideMask, reads_outside_mask);
PLANTED(kLaneLeft, lane_left);
PLANTED(kOutOfBounds, out_of_bounds);
PLANTED(kMisaligned, misaligned);
PLANTED(kDynamicOverflow, dynamic_overflow);
PLANTED(kWildPointer, wild_pointer);
PLANTED(kWaitsForEver, waits_for_ever);
PLANTED(kTrap, trap);
PLANTED(kOthersLocal, others_local);

}  // namespace emulator
