// From the arguments of the operator to the runtime's problem struct: every check that memory safety needs, and
// the mapping of axes. The Python layer checks the same before and explains better; this is what a direct call of
// the operator meets.
#pragma once

#include "selective_scan/problem.h"
#include "tensor_arg.h"

namespace mamba_scan::binding {

// Shapes as in mamba_scan.selective_scan; seq_last = the layout "bdl". Complex numbers come as real tensors with one
// more axis of 2 behind the others, (re, im): A of rank 3 says that A, B, C and the states are complex.
struct ForwardArguments {
  TensorArg u{"u"};
  TensorArg delta{"delta"};
  TensorArg A{"A"};
  TensorArg B{"B"};
  TensorArg C{"C"};
  TensorArg D{"D"};
  TensorArg z{"z"};
  TensorArg delta_bias{"delta_bias"};
  TensorArg initial_state{"initial_state"};
  TensorArg cu_seqlens{"cu_seqlens"};
  bool delta_softplus = false;
  bool seq_last = false;
  bool reverse = false;
  bool chunk_invariant = false;
};

struct ForwardCall {
  SelectiveScanProblem problem;
  Index y_sizes[3];  // y is dense, batch outermost; its innermost axis is the one that is contiguous in u
  Index y_strides[3];
  int state_rank;
  Index state_sizes[4];  // (batch, dim, dstate), or (sequences, dim, dstate) when packed; with (re, im) when complex
  Index state_strides[4];
};

// Throws ArgumentError. problem.y and problem.final_state stay empty until set_outputs.
ForwardCall build_forward(const ForwardArguments& arguments);

// final_state may be null: not wanted.
void set_outputs(ForwardCall& call, bool seq_last, void* y, float* final_state);

}  // namespace mamba_scan::binding
