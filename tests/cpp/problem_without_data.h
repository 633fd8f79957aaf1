// Problems without data, for tests of plans: only sizes, strides and alignment matter.
#pragma once

#include <random>

#include "selective_scan/problem.h"

namespace mamba_scan::test {

alignas(32) inline float memory[8];

// (batch, seqlen, dim), or seq_last: (batch, dim, seqlen); one B and C for all channels.
inline SelectiveScanProblem problem_of(Index batch, Index seqlen, Index dim, Index dstate = 16,
                                       DType dtype = DType::kFloat16, bool seq_last = false) {
  SelectiveScanProblem p{};
  p.batch = batch;
  p.seqlen = seqlen;
  p.dim = dim;
  p.dstate = dstate;
  p.ngroups = 1;
  p.dtype = dtype;
  const SequenceTensor tensor{memory, seqlen * dim, seq_last ? 1 : dim, seq_last ? seqlen : 1};
  p.u = p.delta = p.y = tensor;
  p.B = p.C = {memory, seqlen * dstate, seq_last ? 1 : dstate, 0, seq_last ? seqlen : 1, false};
  p.A = memory;
  p.A_dim_stride = dstate;
  p.A_state_stride = 1;
  return p;
}

// The same with what a layer of a Mamba model has besides.
inline SelectiveScanProblem full(SelectiveScanProblem p) {
  p.z = p.u;
  p.D = p.delta_bias = memory;
  p.delta_softplus = true;
  return p;
}

// Sizes up to these, in one to three groups.
struct MostOfProblem {
  Index batch, seqlen, channels_of_group, dstate;
  Index fewest_steps = 1;
};

// Of any dtype and layout, with all of the optional inputs or none, in either direction.
inline SelectiveScanProblem random_problem(std::mt19937& random, const MostOfProblem& most) {
  const auto pick = [&](Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); };
  const Index groups = pick(1, 3), batch = pick(1, most.batch), seqlen = pick(most.fewest_steps, most.seqlen);
  const Index dim = groups * pick(1, most.channels_of_group), dstate = pick(1, most.dstate);
  const auto dtype = static_cast<DType>(pick(0, 2));
  SelectiveScanProblem p = problem_of(batch, seqlen, dim, dstate, dtype, pick(0, 1) == 1);
  p.ngroups = groups;
  if (pick(0, 1)) p.z = p.u, p.D = p.delta_bias = memory;
  p.reverse = pick(0, 1) == 1;
  return p;
}

}  // namespace mamba_scan::test
