// Problems without data, for tests of plans: only sizes, strides and alignment matter.
#pragma once

#include "selective_scan/problem.h"

namespace mamba_scan::test {

alignas(16) inline float memory[8];

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

}  // namespace mamba_scan::test
