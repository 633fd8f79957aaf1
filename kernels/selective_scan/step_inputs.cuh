// delta and delta * u of steps and channels, evaluated once and handed through shared memory to all lanes that need
// them: the others that share a channel (relay.cu), or those of another warp (served.cu, relay_served.cu).
#pragma once

#include "selective_scan/tile_outputs.cuh"
#include "selective_scan/tile_values.cuh"

namespace mamba_scan {
namespace {

// exp(delta * A) = 2^(delta * log2(e) * A). In relay.cu, where A comes as it is, delta has the factor.
constexpr float kDeltaFactor = kWarps > 1 && !kServed ? kLog2E : 1.0f;

// Of a step and channel.
struct __align__(8) StepInput {
  float delta;  // times kDeltaFactor
  float delta_u;
};
struct __align__(16) StepInputs {
  StepInput of_step[2];
};
constexpr int kInputsPitch = kTile / 2 + 1;  // of a channel: odd, so that those of adjacent channels lie in other banks
constexpr int kTileInputs = kSharesInputs ? kWarpChannels * kInputsPitch : 1;

// Of which channels and steps of a group a lane evaluates them.
constexpr int kInputChannels = kSharesInputs ? kOwned : kChannels;
constexpr int kInputSteps = kSharesInputs ? kOwnedSteps : kSteps;

// A group's, for a lane's channels, or those of kInputChannels and kInputSteps.
struct Inputs {
  float delta[kSteps][kChannels];
  float delta_u[kSteps][kChannels];
};

// Of the group from step `first` of a tile that has `existing` steps.
__device__ __forceinline__ void evaluate_inputs(DeltaReader& delta, Shift<MS_U_ACCESS> u_shift, const Stage& stage,
                                                int first, int existing, LaneId id, Inputs& inputs) {
  delta.read(stage.delta, first, id);
  InputReader all;
  Outputs owned;
  const int own = first + (kSharesInputs ? id.first_step : 0);
  if constexpr (kSharesInputs) {
    read_owned<MS_U_ACCESS>(stage.u, own, id, u_shift, owned);
  } else {
    all.read(stage.u, first, id, u_shift);
  }
  float dt[kSteps][kChannels];
  delta.steps([&](int t) { return own + t < existing; }, id, dt);
#pragma unroll
  for (int t = 0; t < kInputSteps; ++t)
#pragma unroll
    for (int i = 0; i < kInputChannels; ++i) {
      float u;
      if constexpr (kSharesInputs) {
        u = owned[i][t];
      } else {
        u = all.value(t, i);
      }
      inputs.delta[t][i] = dt[t][i] * kDeltaFactor, inputs.delta_u[t][i] = dt[t][i] * u;
    }
}

// What the lane has evaluated, to a tile's.
__device__ __forceinline__ void write_inputs(StepInputs* tile, int first, LaneId id, const Inputs& inputs) {
  if (!stores_outputs(id)) return;
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
    StepInputs* to = tile + channel_of(id, id.first_owned + i) * kInputsPitch + first / 2;
    if constexpr (kOwnedSteps == 1) {
      to[id.first_step / 2].of_step[id.first_step % 2] = {inputs.delta[0][i], inputs.delta_u[0][i]};
    } else {
#pragma unroll
      for (int t = 0; t < kOwnedSteps; t += 2)
        to[(id.first_step + t) / 2] = {
            {{inputs.delta[t][i], inputs.delta_u[t][i]}, {inputs.delta[t + 1][i], inputs.delta_u[t + 1][i]}}};
    }
  }
}

// Of all steps and the lane's channels.
__device__ __forceinline__ void read_inputs(const StepInputs* tile, int first, LaneId id, Inputs& inputs) {
#pragma unroll
  for (int r = 0; r < kChannels; ++r)
#pragma unroll
    for (int t = 0; t < kSteps; t += 2) {
      const StepInputs both = tile[channel_of(id, r) * kInputsPitch + (first + t) / 2];
#pragma unroll
      for (int k = 0; k < 2; ++k)
        inputs.delta[t + k][r] = both.of_step[k].delta, inputs.delta_u[t + k][r] = both.of_step[k].delta_u;
    }
}

}  // namespace
}  // namespace mamba_scan
