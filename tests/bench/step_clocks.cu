// Clocks that a scheduler takes for a step of 16 states, without anything that moves tiles, and with other instructions
// beside it: what bounds kernels/selective_scan/forward.cu, whose head quotes an H200's figures. With nvcc, on any GPU:
//
//   nvcc -std=c++17 -O3 -arch=native -o step_clocks tests/bench/step_clocks.cu && ./step_clocks
//
// A block to a multiprocessor, of two to four warps to a scheduler. A lane has 16 states of a channel: A in registers,
// B and C of a step from shared memory, the same for all lanes. The exponentials alone take 128 clocks where a
// multiprocessor evaluates 16 in a clock.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

constexpr int kStates = 16, kBesides = 8;  // registers that the other instructions go round

enum class Beside { kNothing, kFloatAdd, kFma, kIntegerAdd, kShuffle };

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <Beside BESIDE>
__device__ __forceinline__ void issue(float& value, int& number, float uniform, float a, float b, int lane) {
  if constexpr (BESIDE == Beside::kFloatAdd) asm volatile("add.rn.f32 %0, %0, %1;" : "+f"(value) : "f"(uniform));
  if constexpr (BESIDE == Beside::kFma) asm volatile("fma.rn.f32 %0, %1, %2, %0;" : "+f"(value) : "f"(a), "f"(b));
  if constexpr (BESIDE == Beside::kIntegerAdd) asm volatile("add.s32 %0, %0, %1;" : "+r"(number) : "r"(lane));
  if constexpr (BESIDE == Beside::kShuffle) asm volatile("shfl.sync.bfly.b32 %0, %0, 1, 31, -1;" : "+f"(value));
}

// COUNT instructions of this kind beside a step, UNROLL steps together.
template <Beside BESIDE, int COUNT, int UNROLL>
__global__ void __launch_bounds__(512, 1) take_steps(const float* in, float* out, int rounds, long long* clocks) {
  __shared__ float4 shared[256];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = static_cast<int>(threadIdx.x); i < 256; i += static_cast<int>(blockDim.x))
    shared[i] = make_float4(in[i], in[i + 1], in[i + 2], in[i + 3]);
  __syncthreads();
  float A[kStates], state[kStates], value[kBesides], y = 0.0f;
  int number[kBesides];
  for (int s = 0; s < kStates; ++s) A[s] = in[s + lane], state[s] = in[s + 8 + lane];
  for (int k = 0; k < kBesides; ++k) value[k] = in[k + 40 + lane], number[k] = __float_as_int(value[k]);
  const float uniform = in[3];
  const long long begin = clock64();
#pragma unroll 1
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int t = 0; t < UNROLL; ++t) {
      const int at = (round * UNROLL + t) & 63;
      const float4 inputs = shared[at];  // delta, and delta * u
      float B[kStates], C[kStates], sum = 0.0f;
#pragma unroll
      for (int s = 0; s < kStates; s += 4) {
        const float4 c = shared[64 + at + s], b = shared[100 + at + s];
        C[s] = c.x, C[s + 1] = c.y, C[s + 2] = c.z, C[s + 3] = c.w;
        B[s] = b.x, B[s + 1] = b.y, B[s + 2] = b.z, B[s + 3] = b.w;
      }
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        if (s < COUNT) issue<BESIDE>(value[s % kBesides], number[s % kBesides], uniform, A[s], inputs.x, lane);
        state[s] = exp2_fast(inputs.x * A[s]) * state[s] + inputs.z * B[s];
        sum += state[s] * C[s];
      }
      y += sum;
    }
  }
  const long long end = clock64();
  for (int k = 0; k < kBesides; ++k) y += value[k] + static_cast<float>(number[k]);
  for (int s = 0; s < kStates; ++s) y += state[s];
  out[blockIdx.x * blockDim.x + threadIdx.x] = y;  // or nothing would be computed
  if (threadIdx.x == 0) clocks[blockIdx.x] = end - begin;
}

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "step_clocks: %s\n", cudaGetErrorString(error));
  std::exit(1);
}

struct Buffers {
  float *in, *out;
  long long* clocks;
  int blocks;
};

template <Beside BESIDE, int COUNT, int UNROLL>
void measure(const Buffers& buffers) {
  constexpr int kSteps = 4000;
  std::printf("  %2d beside, unroll %d:", COUNT, UNROLL);
  for (const int warps : {2, 3, 4}) {  // of a scheduler
    for (int i = 0; i < 2; ++i)        // the first one loads the instructions
      take_steps<BESIDE, COUNT, UNROLL>
          <<<buffers.blocks, warps * 128>>>(buffers.in, buffers.out, kSteps / UNROLL, buffers.clocks);
    check(cudaGetLastError());
    long long clocks = 0;
    check(cudaMemcpy(&clocks, buffers.clocks, sizeof clocks, cudaMemcpyDeviceToHost));
    std::printf(" %6.1f", static_cast<double>(clocks) / kSteps / warps);
  }
  std::printf("\n");
}

template <Beside BESIDE>
void measure(const char* name, const Buffers& buffers) {
  std::printf("%s\n", name);
  measure<BESIDE, 4, 4>(buffers);
  measure<BESIDE, 8, 4>(buffers);
  measure<BESIDE, 16, 4>(buffers);
}

}  // namespace

int main() {
  Buffers buffers{};
  check(cudaDeviceGetAttribute(&buffers.blocks, cudaDevAttrMultiProcessorCount, 0));
  std::vector<float> in(2048);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = -0.01f - 0.5f * static_cast<float>(i * 37 % 101) / 101.0f;
  check(cudaMalloc(&buffers.in, in.size() * sizeof(float)));
  check(cudaMalloc(&buffers.out, static_cast<std::size_t>(buffers.blocks) * 512 * sizeof(float)));
  check(cudaMalloc(&buffers.clocks, static_cast<std::size_t>(buffers.blocks) * sizeof(long long)));
  check(cudaMemcpy(buffers.in, in.data(), in.size() * sizeof(float), cudaMemcpyHostToDevice));
  std::printf("clocks of a scheduler for a warp's step of 16 states, where it has 2, 3 and 4 warps\nnothing\n");
  measure<Beside::kNothing, 0, 1>(buffers);
  measure<Beside::kNothing, 0, 2>(buffers);
  measure<Beside::kNothing, 0, 4>(buffers);
  measure<Beside::kNothing, 0, 8>(buffers);
  measure<Beside::kFloatAdd>("fp32 adds", buffers);
  measure<Beside::kFma>("fp32 fmas", buffers);
  measure<Beside::kIntegerAdd>("integer adds, of each two of which the compiler makes one", buffers);
  measure<Beside::kShuffle>("shuffles", buffers);
  check(cudaFree(buffers.in));
  check(cudaFree(buffers.out));
  check(cudaFree(buffers.clocks));
  return 0;
}
