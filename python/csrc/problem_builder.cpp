#include "problem_builder.h"

#include <initializer_list>
#include <string>

#include "platform/error.h"

namespace mamba_scan::binding {
namespace {

std::string shape_text(const TensorArg& tensor) {
  std::string text = "(";
  for (int i = 0; i < tensor.rank && i < kMaxRank; ++i) text += (i ? ", " : "") + std::to_string(tensor.sizes[i]);
  if (tensor.rank > kMaxRank) text += ", ...";
  return text + (tensor.rank == 1 ? ",)" : ")");
}

[[noreturn]] void fail(const TensorArg& tensor, const std::string& got, const std::string& needed) {
  throw ArgumentError(std::string("selective_scan: ") + tensor.name + " has " + got + ", needs " + needed);
}

void require_shape(const TensorArg& tensor, std::initializer_list<Index> sizes) {
  bool same = tensor.rank == static_cast<int>(sizes.size());
  int axis = 0;
  for (const Index size : sizes) {
    same = same && tensor.sizes[axis] == size;
    ++axis;
  }
  if (same) return;
  std::string needed = "(";
  for (const Index size : sizes) needed += (needed.size() > 1 ? ", " : "") + std::to_string(size);
  fail(tensor, "shape " + shape_text(tensor), "shape " + needed + (sizes.size() == 1 ? ",)" : ")"));
}

void require_kind(const TensorArg& tensor, ScalarKind kind, const char* needed) {
  if (tensor.kind != kind) fail(tensor, "another dtype", needed);
}

DType problem_dtype(const TensorArg& u) {
  switch (u.kind) {
    case ScalarKind::kFloat32:
      return DType::kFloat32;
    case ScalarKind::kFloat16:
      return DType::kFloat16;
    case ScalarKind::kBFloat16:
      return DType::kBFloat16;
    case ScalarKind::kInt32:
    case ScalarKind::kOther:
      break;
  }
  fail(u, "an unsupported dtype", "float32, float16 or bfloat16");
}

// Axis numbers of u, delta, z and y.
struct Axes {
  int seq;
  int dim;
};

Axes axes_of(bool seq_last) { return seq_last ? Axes{2, 1} : Axes{1, 2}; }

SequenceTensor sequence(const TensorArg& tensor, Axes axes) {
  return {tensor.data, tensor.strides[0], tensor.strides[axes.seq], tensor.strides[axes.dim]};
}

// The same tensor without its last axis, the (re, im) of a complex one.
TensorArg real_part(const TensorArg& tensor) {
  if (tensor.rank < 1 || tensor.rank > kMaxRank || tensor.sizes[tensor.rank - 1] != 2) {
    fail(tensor, "shape " + shape_text(tensor), "a last axis of 2, (re, im), because A is complex");
  }
  TensorArg real = tensor;
  --real.rank;
  return real;
}

// The operand whose shape says how many groups there are, or null: one group. A projection without a group axis
// serves every group.
const TensorArg* grouped_operand(const ForwardArguments& arguments, bool is_complex) {
  const int rank = is_complex ? 5 : 4;
  if (arguments.B.rank == rank) return &arguments.B;
  return arguments.C.rank == rank ? &arguments.C : nullptr;
}

// B or C: (batch, seqlen, dstate), (batch, seqlen, ngroups, dstate), the "bdl" forms of both, or (dim, dstate).
ProjectionTensor real_projection(const TensorArg& tensor, const SelectiveScanProblem& problem, ScalarKind kind,
                                 bool seq_last) {
  const Index* strides = tensor.strides;
  switch (tensor.rank) {
    case 2:
      require_kind(tensor, ScalarKind::kFloat32, "float32, because it is constant in time");
      require_shape(tensor, {problem.dim, problem.dstate});
      return {tensor.data, 0, 0, strides[0], strides[1], true};
    case 3:
      require_kind(tensor, kind, "the dtype of u");
      if (seq_last) {
        require_shape(tensor, {problem.batch, problem.dstate, problem.seqlen});
        return {tensor.data, strides[0], strides[2], 0, strides[1], false};
      }
      require_shape(tensor, {problem.batch, problem.seqlen, problem.dstate});
      return {tensor.data, strides[0], strides[1], 0, strides[2], false};
    case 4:
      require_kind(tensor, kind, "the dtype of u");
      if (seq_last) {
        require_shape(tensor, {problem.batch, problem.ngroups, problem.dstate, problem.seqlen});
        return {tensor.data, strides[0], strides[3], strides[1], strides[2], false};
      }
      require_shape(tensor, {problem.batch, problem.seqlen, problem.ngroups, problem.dstate});
      return {tensor.data, strides[0], strides[1], strides[2], strides[3], false};
    default:
      fail(tensor, "shape " + shape_text(tensor), "2, 3 or 4 axes");
  }
}

ProjectionTensor projection(const TensorArg& tensor, const SelectiveScanProblem& problem, ScalarKind kind,
                            bool seq_last) {
  if (!problem.is_complex) return real_projection(tensor, problem, kind, seq_last);
  ProjectionTensor result = real_projection(real_part(tensor), problem, kind, seq_last);
  result.imag_stride = tensor.strides[tensor.rank - 1];
  return result;
}

// Their values are checked where they can be read: ops::check_sequences on the host, the kernels on a device.
void set_sequences(const TensorArg& cu_seqlens, SelectiveScanProblem& problem) {
  if (!cu_seqlens.present) return;
  require_kind(cu_seqlens, ScalarKind::kInt32, "int32");
  if (cu_seqlens.rank != 1 || cu_seqlens.sizes[0] < 2) {
    fail(cu_seqlens, "shape " + shape_text(cu_seqlens), "shape (sequences + 1,) with at least one sequence");
  }
  if (cu_seqlens.strides[0] != 1) fail(cu_seqlens, "a stride of " + std::to_string(cu_seqlens.strides[0]), "1");
  if (problem.batch != 1) {
    throw ArgumentError("selective_scan: u has batch " + std::to_string(problem.batch) +
                        ", needs 1 with cu_seqlens, which packs all sequences in one row");
  }
  problem.cu_seqlens = static_cast<const int*>(cu_seqlens.data);
  problem.sequences = cu_seqlens.sizes[0] - 1;
}

StateTensor initial_state(const TensorArg& tensor, const ForwardCall& call) {
  if (!tensor.present) return {};
  require_kind(tensor, ScalarKind::kFloat32, "float32");
  const Index* sizes = call.state_sizes;
  if (!call.problem.is_complex) {
    require_shape(tensor, {sizes[0], sizes[1], sizes[2]});
    return {static_cast<float*>(tensor.data), tensor.strides[0], tensor.strides[1], tensor.strides[2]};
  }
  require_shape(tensor, {sizes[0], sizes[1], sizes[2], 2});
  return {static_cast<float*>(tensor.data), tensor.strides[0], tensor.strides[1], tensor.strides[2], tensor.strides[3]};
}

const float* channel_vector(const TensorArg& tensor, Index dim) {
  if (!tensor.present) return nullptr;
  require_kind(tensor, ScalarKind::kFloat32, "float32");
  require_shape(tensor, {dim});
  if (dim > 1 && tensor.strides[0] != 1) fail(tensor, "a stride of " + std::to_string(tensor.strides[0]), "1");
  return static_cast<const float*>(tensor.data);
}

void require_same_device(const ForwardArguments& arguments) {
  const TensorArg& u = arguments.u;
  for (const TensorArg* tensor :
       {&arguments.delta, &arguments.A, &arguments.B, &arguments.C, &arguments.D, &arguments.z, &arguments.delta_bias,
        &arguments.initial_state, &arguments.cu_seqlens}) {
    if (tensor->present && (tensor->device != u.device || tensor->device_index != u.device_index)) {
      fail(*tensor, "another device", "the device of u");
    }
  }
}

void dense_strides(ForwardCall& call, const TensorArg& u) {
  const bool swapped = u.strides[1] == 1 && u.strides[2] != 1;
  const Index inner = swapped ? 1 : 2;
  const Index middle = swapped ? 2 : 1;
  call.y_strides[inner] = 1;
  call.y_strides[middle] = call.y_sizes[inner];
  call.y_strides[0] = call.y_sizes[1] * call.y_sizes[2];
}

void set_state_sizes(ForwardCall& call) {
  const SelectiveScanProblem& problem = call.problem;
  const Index sizes[4] = {problem.cu_seqlens ? problem.sequences : problem.batch, problem.dim, problem.dstate, 2};
  call.state_rank = problem.is_complex ? 4 : 3;
  Index stride = 1;
  for (int axis = call.state_rank - 1; axis >= 0; --axis) {
    call.state_sizes[axis] = sizes[axis];
    call.state_strides[axis] = stride;
    stride *= sizes[axis];
  }
}

}  // namespace

ForwardCall build_forward(const ForwardArguments& arguments) {
  const TensorArg& u = arguments.u;
  const Axes axes = axes_of(arguments.seq_last);
  if (u.rank != 3) fail(u, "shape " + shape_text(u), "3 axes");
  if (arguments.A.rank != 2 && arguments.A.rank != 3) {
    fail(arguments.A, "shape " + shape_text(arguments.A), "shape (dim, dstate)");
  }
  require_same_device(arguments);

  ForwardCall call{};
  SelectiveScanProblem& problem = call.problem;
  problem.dtype = problem_dtype(u);
  problem.batch = u.sizes[0];
  problem.seqlen = u.sizes[axes.seq];
  problem.dim = u.sizes[axes.dim];
  problem.dstate = arguments.A.sizes[1];
  problem.delta_softplus = arguments.delta_softplus;
  problem.reverse = arguments.reverse;
  problem.chunk_invariant = arguments.chunk_invariant;
  problem.is_complex = arguments.A.rank == 3;
  if (problem.dstate < 1) fail(arguments.A, "shape " + shape_text(arguments.A), "at least one state");

  require_kind(arguments.delta, u.kind, "the dtype of u");
  require_shape(arguments.delta, {u.sizes[0], u.sizes[1], u.sizes[2]});
  problem.u = sequence(u, axes);
  problem.delta = sequence(arguments.delta, axes);
  if (arguments.z.present) {
    require_kind(arguments.z, u.kind, "the dtype of u");
    require_shape(arguments.z, {u.sizes[0], u.sizes[1], u.sizes[2]});
    problem.z = sequence(arguments.z, axes);
  }

  require_kind(arguments.A, ScalarKind::kFloat32, "float32");
  require_shape(problem.is_complex ? real_part(arguments.A) : arguments.A, {problem.dim, problem.dstate});
  problem.A = static_cast<const float*>(arguments.A.data);
  problem.A_dim_stride = arguments.A.strides[0];
  problem.A_state_stride = arguments.A.strides[1];
  problem.A_imag_stride = arguments.A.strides[2];
  problem.D = channel_vector(arguments.D, problem.dim);
  problem.delta_bias = channel_vector(arguments.delta_bias, problem.dim);

  problem.ngroups = 1;
  if (const TensorArg* grouped = grouped_operand(arguments, problem.is_complex)) {
    problem.ngroups = grouped->sizes[arguments.seq_last ? 1 : 2];
    if (problem.ngroups < 1 || problem.dim % problem.ngroups != 0) {
      fail(*grouped, std::to_string(problem.ngroups) + " groups", "a divisor of dim = " + std::to_string(problem.dim));
    }
  }
  problem.B = projection(arguments.B, problem, u.kind, arguments.seq_last);
  problem.C = projection(arguments.C, problem, u.kind, arguments.seq_last);

  set_sequences(arguments.cu_seqlens, problem);
  set_state_sizes(call);
  problem.initial_state = initial_state(arguments.initial_state, call);

  for (int i = 0; i < 3; ++i) call.y_sizes[i] = u.sizes[i];
  dense_strides(call, u);
  return call;
}

void set_outputs(ForwardCall& call, bool seq_last, void* y, float* final_state) {
  const Axes axes = axes_of(seq_last);
  call.problem.y = {y, call.y_strides[0], call.y_strides[axes.seq], call.y_strides[axes.dim]};
  if (final_state != nullptr) {
    call.problem.final_state = {final_state, call.state_strides[0], call.state_strides[1], call.state_strides[2],
                                call.problem.is_complex ? Index{1} : Index{0}};
  }
}

}  // namespace mamba_scan::binding
