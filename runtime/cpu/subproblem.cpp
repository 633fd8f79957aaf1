#include "cpu/subproblem.h"

#include <algorithm>
#include <initializer_list>

namespace mamba_scan::cpu {
namespace {

// Moves every tensor that varies in time to `step`.
void begin_at(SelectiveScanProblem& problem, Index step) {
  const Index element_size = problem.dtype == DType::kFloat32 ? 4 : 2;
  const auto advance = [&](void*& data, Index seq_stride) {
    if (data != nullptr) data = static_cast<char*>(data) + step * seq_stride * element_size;
  };
  for (SequenceTensor* tensor : {&problem.u, &problem.delta, &problem.z, &problem.y}) {
    advance(tensor->data, tensor->seq_stride);
  }
  for (ProjectionTensor* tensor : {&problem.B, &problem.C}) {
    if (!tensor->constant) advance(tensor->data, tensor->seq_stride);
  }
}

}  // namespace

SelectiveScanProblem turned_around(const SelectiveScanProblem& problem) {
  SelectiveScanProblem turned = problem;
  if (problem.seqlen > 0) begin_at(turned, problem.seqlen - 1);
  for (SequenceTensor* tensor : {&turned.u, &turned.delta, &turned.z, &turned.y}) {
    tensor->seq_stride = -tensor->seq_stride;
  }
  for (ProjectionTensor* tensor : {&turned.B, &turned.C}) tensor->seq_stride = -tensor->seq_stride;
  turned.reverse = !problem.reverse;
  return turned;
}

Index sequence_begin(const SelectiveScanProblem& problem, Index i) {
  return std::clamp<Index>(problem.cu_seqlens[i] - problem.packed_begin, 0, problem.seqlen);
}

SelectiveScanProblem one_sequence(const SelectiveScanProblem& problem, Index i) {
  SelectiveScanProblem sequence = problem;
  begin_at(sequence, sequence_begin(problem, i));
  sequence.seqlen = sequence_begin(problem, i + 1) - sequence_begin(problem, i);
  for (StateTensor* state : {&sequence.initial_state, &sequence.final_state}) {
    if (state->data != nullptr) state->data += i * state->batch_stride;
  }
  sequence.cu_seqlens = nullptr;
  sequence.sequences = 0;
  sequence.packed_begin = 0;
  return problem.reverse ? turned_around(sequence) : sequence;
}

}  // namespace mamba_scan::cpu
