#include "ops/memory_layout.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace mamba_scan::ops {

int element_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// The stride of adjacent steps.
static Index step_direction(const SelectiveScanProblem& problem) { return problem.reverse ? -1 : 1; }

// The problem as the kernels see it: step 0 is the first one scanned.
SelectiveScanProblem in_scan_order(SelectiveScanProblem problem) {
  if (!problem.reverse) return problem;
  const Index last = std::max<Index>(problem.seqlen - 1, 0);
  // A single step counts as adjacent to others whatever its stride, by which kernels then find where a tile begins.
  const bool one_step = problem.seqlen == 1, seq_contiguous = problem.y.seq_stride == 1;
  const auto turn = [&](auto& tensor, bool adjacent) {
    if (tensor.data != nullptr)
      tensor.data = static_cast<char*>(tensor.data) + last * tensor.seq_stride * element_size(problem.dtype);
    tensor.seq_stride = one_step && adjacent ? -1 : -tensor.seq_stride;
  };
  for (SequenceTensor* tensor : {&problem.u, &problem.delta, &problem.z, &problem.y}) turn(*tensor, seq_contiguous);
  for (ProjectionTensor* tensor : {&problem.B, &problem.C})
    if (!tensor->constant) turn(*tensor, true);
  return problem;
}

// Adjacent along the sequence rather than along the channels? An axis of length 1 is adjacent to anything, but a
// chunk-invariant call with a single step must do as the calls with more.
bool is_seq_contiguous(const SelectiveScanProblem& problem) {
  const bool one_step = problem.seqlen == 1;
  if (one_step && !problem.chunk_invariant) return false;
  return problem.y.seq_stride == step_direction(problem) && (problem.y.dim_stride != 1 || problem.dim == 1 || one_step);
}

// Elements of the widest asynchronous copy that rows of `columns` elements divide into; 0: not even 4 bytes.
int copy_width(int columns, DType dtype) {
  const int bytes = columns * element_size(dtype);
  for (int width : {16, 8, 4})
    if (bytes % width == 0) return width / element_size(dtype);
  return 0;
}

static bool is_aligned(const void* data, int elements, DType dtype) {
  return reinterpret_cast<std::uintptr_t>(data) % static_cast<std::size_t>(elements * element_size(dtype)) == 0;
}

// Do strides along an axis lead from aligned vectors of `width` elements to aligned ones?
static bool stays_aligned(Index stride, Index extent, int width) { return extent <= 1 || stride % width == 0; }

// Are vectors of steps aligned? Of a reversed scan's tile the last step comes first in memory, so that tiles end where
// `data` does.
static bool steps_are_aligned(const void* data, int elements, const SelectiveScanProblem& problem) {
  const int past_end = problem.reverse ? element_size(problem.dtype) : 0;
  return is_aligned(static_cast<const char*>(data) + past_end, elements, problem.dtype);
}

static bool has_adjacent_elements(const SequenceTensor& tensor, const SelectiveScanProblem& problem,
                                  bool seq_contiguous) {
  const Index along = seq_contiguous ? tensor.seq_stride : tensor.dim_stride;
  const Index extent = seq_contiguous ? problem.seqlen : problem.dim;
  return extent <= 1 || along == (seq_contiguous ? step_direction(problem) : 1);
}

// Does every row of every tile begin with a vector of `width` elements? Warps start at a group's first channel.
static bool rows_are_aligned(const SequenceTensor& tensor, const SelectiveScanProblem& problem, bool seq_contiguous,
                             int width) {
  const Index across = seq_contiguous ? tensor.dim_stride : tensor.seq_stride;
  const Index extent = seq_contiguous ? problem.dim : problem.seqlen;
  const Index groups = seq_contiguous ? 1 : problem.ngroups;
  return stays_aligned(across, extent, width) && stays_aligned(tensor.batch_stride, problem.batch, width) &&
         stays_aligned(problem.dim / problem.ngroups, groups, width) &&
         (seq_contiguous ? steps_are_aligned(tensor.data, width, problem)
                         : is_aligned(tensor.data, width, problem.dtype));
}

Access access_of(const SequenceTensor& tensor, const SelectiveScanProblem& problem, bool seq_contiguous, int columns) {
  if (!has_adjacent_elements(tensor, problem, seq_contiguous)) return Access::kElementwise;
  const int width = copy_width(columns, problem.dtype);
  const bool aligned = width > 0 && rows_are_aligned(tensor, problem, seq_contiguous, width);
  return aligned ? Access::kVectors : Access::kWords;
}

int adjacent_rows_vector(const SelectiveScanProblem& problem) {
  const auto follow_one_another = [&](const SequenceTensor& x) {
    return x.seq_stride == step_direction(problem) && (x.dim_stride == problem.seqlen || problem.dim == 1);
  };
  int width = 16 / element_size(problem.dtype);
  while (problem.seqlen % width != 0) width /= 2;
  for (const SequenceTensor* x : {&problem.u, &problem.delta, &problem.z}) {
    if (x->data == nullptr) continue;
    if (!follow_one_another(*x)) return 0;
    while (!stays_aligned(x->batch_stride, problem.batch, width) || !steps_are_aligned(x->data, width, problem))
      width /= 2;
  }
  return problem.seqlen > 0 && follow_one_another(problem.y) ? width : 0;
}

bool fills_sectors(const SequenceTensor& tensor, const SelectiveScanProblem& problem, bool seq_contiguous,
                   int columns) {
  const int width = kSectorBytes / element_size(problem.dtype);
  return columns % width == 0 && has_adjacent_elements(tensor, problem, seq_contiguous) &&
         rows_are_aligned(tensor, problem, seq_contiguous, width);
}

// Pairs side by side, or one number at a time.
static ProjectionLayout complex_layout_of(const ProjectionTensor& tensor, const SelectiveScanProblem& problem) {
  const int dstate = static_cast<int>(problem.dstate), width = copy_width(2 * dstate, problem.dtype);
  const bool dense = tensor.imag_stride == 1 && (tensor.state_stride == 2 || dstate == 1);
  const bool aligned = dense && width > 0 && stays_aligned(tensor.seq_stride, problem.seqlen, width) &&
                       stays_aligned(tensor.group_stride, problem.ngroups, width) &&
                       stays_aligned(tensor.batch_stride, problem.batch, width) &&
                       is_aligned(tensor.data, width, problem.dtype);
  return {aligned ? ProjectionOrder::kStates : ProjectionOrder::kStrided, Access::kVectors};
}

ProjectionLayout layout_of(const ProjectionTensor& tensor, const SelectiveScanProblem& problem, int tile) {
  if (tensor.constant) return {ProjectionOrder::kConstant, Access::kVectors};
  if (problem.is_complex) return complex_layout_of(tensor, problem);
  const auto rows_stay_aligned = [&](int width, Index across, Index across_extent) {
    return width > 0 && stays_aligned(across, across_extent, width) &&
           stays_aligned(tensor.group_stride, problem.ngroups, width) &&
           stays_aligned(tensor.batch_stride, problem.batch, width);
  };
  const bool by_states = tensor.state_stride == 1 || problem.dstate == 1;
  const bool by_steps = tensor.seq_stride == step_direction(problem) || problem.seqlen == 1;
  const int of_states = copy_width(static_cast<int>(problem.dstate), problem.dtype);
  if (by_states && rows_stay_aligned(of_states, tensor.seq_stride, problem.seqlen) &&
      is_aligned(tensor.data, of_states, problem.dtype))
    return {ProjectionOrder::kStates, Access::kVectors};
  const int of_steps = copy_width(tile, problem.dtype);
  if (by_steps && rows_stay_aligned(of_steps, tensor.state_stride, problem.dstate) &&
      steps_are_aligned(tensor.data, of_steps, problem))
    return {ProjectionOrder::kSteps, Access::kVectors};
  if (by_states && problem.dstate > 1) return {ProjectionOrder::kStates, Access::kWords};
  if (by_steps) return {ProjectionOrder::kSteps, Access::kWords};
  if (by_states) return {ProjectionOrder::kStates, Access::kWords};
  return {ProjectionOrder::kStrided, Access::kVectors};
}

}  // namespace mamba_scan::ops
