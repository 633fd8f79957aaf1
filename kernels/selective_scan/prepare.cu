// B and C of all steps in fp32, in the order in which the scan's lanes read them (place_of_state() of tile_values.cuh),
// once for all the warps that read them rather than by each of them anew. Reference: expand_projection(), with which
// the scan does the same for itself when it is not prepared.
//
//   prepared_B, prepared_C     [batch, group][step][padded state]     steps rounded up to whole tiles
//
// Steps past the end and padding states are zeros, so that every tile is whole. Grid: first B, then C; of each, for
// every batch and group, a block of kPrepareThreads for every kBlockSteps steps. A block brings its steps through
// shared memory: it reads elements along whichever of states and steps is closer together in memory, adjacent threads
// adjacent elements, and writes vectors of 16 bytes.
//
// Constants: MS_PREPARE_STEPS, the steps of a block, and of warp_tile.cuh MS_DTYPE, MS_DSTATE, MS_LANES, MS_STATES and
// MS_TILE.
//
// Cost: memory alone, 4 bytes written for each element read; about 15 instructions an element take a fifth of that
// time.
#include "selective_scan/tile_values.cuh"

namespace mamba_scan {
namespace {

constexpr int kBlockSteps = MS_PREPARE_STEPS;
// Floats from a step to the next in shared memory, whole vectors where steps are: an odd number of vectors, so that the
// same state of adjacent steps lies in as many banks as vectors allow.
constexpr int kStepPitch = kPaddedStates % 8 == 0 ? kPaddedStates + 4 : kPaddedStates;

static_assert(kBlockSteps % 4 == 0 && kTile % 4 == 0, "a block's steps are whole vectors, whatever the states");

__device__ constexpr int next_power_of_two(int value) {
  return value <= 1 ? 1 : 2 * next_power_of_two((value + 1) / 2);
}

// A block's steps of a batch and group; what lies past the existing ones becomes zero. Threads are laid out along the
// inner axis, whose elements are closer together in memory, so that each walks along the outer one in equal strides.
template <bool BY_STEPS>
__device__ __forceinline__ void read_steps(const ProjectionTensor& x, const Element* row, Index first_step, Index steps,
                                           float* to) {
  constexpr int kInner = BY_STEPS ? kBlockSteps : kPaddedStates, kOuter = BY_STEPS ? kPaddedStates : kBlockSteps;
  constexpr int kMostAcross = BY_STEPS ? kPrepareThreads : 32;
  constexpr int kAcross = kInner >= kMostAcross ? kMostAcross : next_power_of_two(kInner);
  constexpr int kDown = kPrepareThreads / kAcross;
  constexpr int kOfThread = (kOuter + kDown - 1) / kDown;   // elements
  constexpr int kTogether = kOfThread < 8 ? kOfThread : 8;  // on their way at once
  const int thread = static_cast<int>(threadIdx.x), down = kDown == 1 ? 0 : thread / kAcross;
  const int existing_steps = static_cast<int>(min(max(steps - first_step, Index{0}), Index{kBlockSteps}));
#pragma unroll
  for (int across = 0; across < kInner; across += kAcross) {
    const int inner = across + thread % kAcross;
    if (kInner % kAcross != 0 && inner >= kInner) break;
    const bool inner_exists = inner < (BY_STEPS ? existing_steps : kDState);
    const Index stride = BY_STEPS ? x.state_stride : x.seq_stride;
    const Element* from =
        row + first_step * x.seq_stride + inner * (BY_STEPS ? x.seq_stride : x.state_stride) + down * stride;
#pragma unroll
    for (int base = 0; base < kOuter; base += kDown * kTogether) {
      Element value[kTogether];
      const auto exists = [&](int k) {
        return inner_exists && base + k * kDown + down < (BY_STEPS ? kDState : existing_steps);
      };
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
        load_global<kElementBytes>(exists(k) ? from : row, &value[k]);  // no branch, so that none waits for another
        from += kDown * stride;
      }
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
        const int outer = base + k * kDown + down;
        if (kOuter % (kDown * kTogether) != 0 && outer >= kOuter) break;
        const int step = BY_STEPS ? inner : outer, n = BY_STEPS ? outer : inner;
        to[step * kStepPitch + place_of_state(n)] = exists(k) ? to_float(value[k]) : 0.0f;
      }
    }
  }
}

__device__ __forceinline__ void read_steps(const ProjectionTensor& x, const Element* row, Index first_step, Index steps,
                                           float* to) {
  const auto distance = [](Index stride) { return stride < 0 ? -stride : stride; };
  if (distance(x.seq_stride) < distance(x.state_stride)) {
    read_steps<true>(x, row, first_step, steps, to);
  } else {
    read_steps<false>(x, row, first_step, steps, to);
  }
}

__device__ __forceinline__ void write_steps(const float* from, int steps, float* to) {
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) * 4; i < steps * kPaddedStates; i += kPrepareThreads * 4) {
    const int place = kStepPitch == kPaddedStates ? i : i / kPaddedStates * kStepPitch + i % kPaddedStates;
    store_global<16>(to + i, from + place);
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kPrepareThreads)
    selective_scan_prepare(const SelectiveScanForwardParams params) {
  __shared__ __align__(16) float shared[kBlockSteps * kStepPitch];
  const SelectiveScanProblem& p = params.problem;
  const Index row_steps = static_cast<Index>(params.tiles_per_row) * kTile;
  const int blocks_per_row = static_cast<int>((row_steps + kBlockSteps - 1) / kBlockSteps);
  const int batch_groups = static_cast<int>(p.batch * p.ngroups);
  const int row = static_cast<int>(blockIdx.x) / blocks_per_row;
  const int batch_group = row % batch_groups;
  const bool is_C = row >= batch_groups;
  const Index first = static_cast<Index>(static_cast<int>(blockIdx.x) % blocks_per_row) * kBlockSteps;

  const ProjectionTensor& x = is_C ? p.C : p.B;
  const int groups = static_cast<int>(p.ngroups);
  const Element* from = static_cast<const Element*>(x.data) + batch_group / groups * x.batch_stride +
                        batch_group % groups * x.group_stride;
  read_steps(x, from, first, p.seqlen, shared);
  __syncthreads();
  float* to = is_C ? params.prepared_C : params.prepared_B;
  write_steps(shared, static_cast<int>(min(static_cast<Index>(kBlockSteps), row_steps - first)),
              to + (batch_group * row_steps + first) * kPaddedStates);
}

}  // namespace mamba_scan
