// How warps that take turns on a row hand its states on (relay.cu, relay_served.cu).
#pragma once

#include "selective_scan/step_inputs.cuh"
#include "selective_scan/wrapped.cuh"

namespace mamba_scan {
namespace {

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

// What the first turn begins with is there before any: the warp that would have had the turn before says so.
__device__ __forceinline__ void announce_first(int warp) {
  if (warp == kWarps - 1) barrier_arrive<kOfTwoWarps>(0);
}

// After the last turn, when all of the warp's are over: is the warp the one that would have the next? Then what the
// last one ends with is there for it.
__device__ __forceinline__ bool await_last(int warp, unsigned turns) {
  if (static_cast<unsigned>(warp) != turns % kWarps) return false;
  barrier_wait<kOfTwoWarps>(warp);
  return true;
}

}  // namespace
}  // namespace mamba_scan
