// A turn on a row's steps, as relay.cu describes it: the passes, and how states are handed on.
#pragma once

#include "selective_scan/step_inputs.cuh"

namespace mamba_scan {
namespace {

using States = float[kChannels][kStates];

// A lane hands its states on in vectors; those of adjacent lanes are adjacent.
constexpr int kHeld = kChannels * kStates;
constexpr int kHeldVector = kHeld < 4 ? kHeld : 4;
static_assert(kHeld % kHeldVector == 0 && (kHeldVector & (kHeldVector - 1)) == 0, "whole vectors");

struct __align__(4 * kHeldVector) HeldVector {
  float value[kHeldVector];
};

// Element k of a lane's states, counted over its channels, is in vector k / kHeldVector.
__device__ __forceinline__ void write_handed(float* to, LaneId id, const States& state) {
#pragma unroll
  for (int first = 0; first < kHeld; first += kHeldVector) {
    HeldVector vector;
#pragma unroll
    for (int k = 0; k < kHeldVector; ++k) vector.value[k] = state[(first + k) / kStates][(first + k) % kStates];
    reinterpret_cast<HeldVector*>(to + first * 32)[id.lane] = vector;
  }
}

__device__ __forceinline__ void read_handed(const float* from, LaneId id, States& state) {
#pragma unroll
  for (int first = 0; first < kHeld; first += kHeldVector) {
    const HeldVector vector = reinterpret_cast<const HeldVector*>(from + first * 32)[id.lane];
#pragma unroll
    for (int k = 0; k < kHeldVector; ++k) state[(first + k) / kStates][(first + k) % kStates] = vector.value[k];
  }
}

// The barrier with a warp's number is where it waits for the warp of the turn before. That one cannot arrive a second
// time before the wait is over: the state has to come round to it first.
constexpr int kOfTwoWarps = 64;

struct Steps {
  float decay[kSteps][kChannels][kStates];
  float input[kSteps][kChannels][kStates];
};

// What a turn makes of the state it begins with: keep * state + add.
struct Effect {
  States keep, add;
};

// kept: A of the lane, as write_handed() leaves it. B(t, to): of step t, for the lane's states.
template <class Projection>
__device__ __forceinline__ void scan_locally(const float* kept, const Inputs& inputs, LaneId id, const Projection& B,
                                             Steps& steps, Effect& effect) {
  States A;
  read_handed(kept, id, A);
  float delta_sum[kChannels];
#pragma unroll
  for (int r = 0; r < kChannels; ++r) delta_sum[r] = 0.0f;
  set_zero(effect.add);
#pragma unroll
  for (int t = 0; t < kSteps; ++t) {
    float of_step[kStates];
    B(t, of_step);
#pragma unroll
    for (int r = 0; r < kChannels; ++r) {
      delta_sum[r] += inputs.delta[t][r];
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        steps.decay[t][r][s] = exp2_fast(inputs.delta[t][r] * A[r][s]);
        steps.input[t][r][s] = inputs.delta_u[t][r] * of_step[s];
        effect.add[r][s] =
            t == 0 ? steps.input[t][r][s] : steps.decay[t][r][s] * effect.add[r][s] + steps.input[t][r][s];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kChannels; ++r)
#pragma unroll
    for (int s = 0; s < kStates; ++s) effect.keep[r][s] = exp2_fast(delta_sum[r] * A[r][s]);
}

// Waits for the state that the turn begins with, and hands on the one that it ends with. This is what all turns of a
// row wait for, one after another, so it stands in a loop of a single round: the compiler moves nothing into a loop,
// and otherwise did half of the local pass after the wait, and of the output pass before handing on.
__device__ __forceinline__ void pass_on(const SelectiveScanForwardParams& params, float (&handed)[kWarps][kHeld * 32],
                                        int warp, bool first, bool last, LaneId id, const Effect& effect,
                                        States& begin) {
  const int next = (warp + 1) % kWarps;
#pragma unroll 1
  do {
    if (!first) barrier_wait<kOfTwoWarps>(warp);
    read_handed(handed[warp], id, begin);
    if (!last) {
      States end;
#pragma unroll
      for (int r = 0; r < kChannels; ++r)
#pragma unroll
        for (int s = 0; s < kStates; ++s) end[r][s] = effect.keep[r][s] * begin[r][s] + effect.add[r][s];
      write_handed(handed[next], id, end);
      barrier_arrive<kOfTwoWarps>(next);
    }
  } while (params.segment_tiles != 0);  // never: there are no segments
}

// Step t of the output pass: from the state before it to that after it, and the lane's share of y.
template <class Projection>
__device__ __forceinline__ void take_step(const Steps& steps, int t, const Projection& C, States& state,
                                          float (&sum)[kChannels]) {
  float of_step[kStates];
  C(t, of_step);
#pragma unroll
  for (int r = 0; r < kChannels; ++r) {
    sum[r] = 0.0f;
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      state[r][s] = steps.decay[t][r][s] * state[r][s] + steps.input[t][r][s];
      sum[r] += state[r][s] * of_step[s];
    }
  }
}

}  // namespace
}  // namespace mamba_scan
