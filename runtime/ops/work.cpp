#include "ops/work.h"

#include <initializer_list>

namespace mamba_scan::ops {

Work forward_work(const SelectiveScanProblem& problem) {
  constexpr Index kFloat = 4;
  const Index element = problem.dtype == DType::kFloat32 ? 4 : 2;
  const Index parts = problem.is_complex ? 2 : 1;
  const Index steps = problem.batch * problem.seqlen;
  const Index weights = problem.dim * problem.dstate * parts * kFloat;  // A, and B or C where constant

  Work work;
  work.exps = steps * problem.dim * problem.dstate;
  work.bytes = steps * problem.dim * element * (problem.z.data ? 4 : 3) + weights;
  for (const ProjectionTensor* tensor : {&problem.B, &problem.C})
    work.bytes += tensor->constant ? weights : steps * problem.ngroups * problem.dstate * parts * element;
  const Index states = problem.cu_seqlens ? problem.sequences : problem.batch;
  for (const StateTensor* tensor : {&problem.initial_state, &problem.final_state})
    work.bytes += tensor->data ? states * weights : 0;
  for (const float* vector : {problem.D, problem.delta_bias}) work.bytes += vector ? problem.dim * kFloat : 0;
  work.bytes += problem.cu_seqlens ? (problem.sequences + 1) * static_cast<Index>(sizeof(int)) : 0;
  return work;
}

}  // namespace mamba_scan::ops
