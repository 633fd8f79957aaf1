// torch.ops.mamba_scan.selective_scan_forward: unpacks tensors, allocates outputs, calls the runtime.
#include "ops/selective_scan.h"

#include <torch/csrc/stable/library.h>

#include <cstdint>

#include "cuda_stream.h"
#include "guarded.h"
#include "problem_builder.h"
#include "stable_tensor.h"

namespace mamba_scan::binding {
namespace {

constexpr const char* kSchema =
    "selective_scan_forward(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
    "Tensor? delta_bias, Tensor? initial_state, Tensor? cu_seqlens, bool delta_softplus, bool seq_last, "
    "bool return_final_state, bool reverse, bool chunk_invariant) -> (Tensor y, Tensor final_state)";
constexpr int kTensorCount = 10;
constexpr int kRequiredCount = 5;
constexpr int kInitialState = 8;

// The slots of the boxed call in the order of the schema; they belong to us from here on, whatever happens next.
struct ForwardSlots {
  OwnedTensor tensors[kTensorCount];
  ForwardArguments arguments;
  bool return_final_state;

  explicit ForwardSlots(const StableIValue* stack) {
    for (int i = 0; i < kTensorCount; ++i) {
      tensors[i] = i < kRequiredCount ? take_tensor(stack[i]) : take_optional_tensor(stack[i]);
    }
    arguments.delta_softplus = take_bool(stack[kTensorCount]);
    arguments.seq_last = take_bool(stack[kTensorCount + 1]);
    return_final_state = take_bool(stack[kTensorCount + 2]);
    arguments.reverse = take_bool(stack[kTensorCount + 3]);
    arguments.chunk_invariant = take_bool(stack[kTensorCount + 4]);
  }

  void describe_all() {
    TensorArg* args[kTensorCount] = {&arguments.u,         &arguments.delta,      &arguments.A,
                                     &arguments.B,         &arguments.C,          &arguments.D,
                                     &arguments.z,         &arguments.delta_bias, &arguments.initial_state,
                                     &arguments.cu_seqlens};
    for (int i = 0; i < kTensorCount; ++i) describe(tensors[i], *args[i]);
  }
};

struct ForwardOutputs {
  OwnedTensor y;
  OwnedTensor final_state;  // (0,) when not wanted
};

ForwardOutputs allocate_outputs(const ForwardSlots& slots, ForwardCall& call) {
  const TensorArg& u = slots.arguments.u;
  ForwardOutputs outputs;
  outputs.y = empty_strided(3, call.y_sizes, call.y_strides, torch_dtype_of(slots.tensors[0]), u);
  const std::int32_t float32 = aoti_torch_dtype_float32();
  if (slots.return_final_state) {
    outputs.final_state = empty_strided(call.state_rank, call.state_sizes, call.state_strides, float32, u);
  } else {
    const Index none = 0;
    const Index step = 1;
    outputs.final_state = empty_strided(1, &none, &step, float32, u);
  }
  set_outputs(call, slots.arguments.seq_last, data_of(outputs.y),
              slots.return_final_state ? static_cast<float*>(data_of(outputs.final_state)) : nullptr);
  return outputs;
}

// Without a step there is nothing to scan: the state is handed on as it came.
void pass_state_on(const ForwardSlots& slots, const ForwardOutputs& outputs) {
  if (!slots.return_final_state) return;
  if (const OwnedTensor& initial_state = slots.tensors[kInitialState]) {
    require_success(aoti_torch_copy_(outputs.final_state.get(), initial_state.get(), 0), "copy the initial state");
  } else {
    require_success(aoti_torch_zero_(outputs.final_state.get()), "clear the final state");
  }
}

template <typename Launch>
void forward(StableIValue* stack, const Launch& launch) {
  ForwardSlots slots(stack);
  slots.describe_all();
  ForwardCall call = build_forward(slots.arguments);
  ForwardOutputs outputs = allocate_outputs(slots, call);
  SelectiveScanProblem& problem = call.problem;
  if (problem.seqlen == 0 && problem.batch > 0 && problem.dim > 0) {
    pass_state_on(slots, outputs);
    problem.final_state = {};
  }
  launch(problem, slots.arguments.u);  // checks its values even where nothing is to be scanned
  stack[0] = give_tensor(std::move(outputs.y));
  stack[1] = give_tensor(std::move(outputs.final_state));
}

void forward_cpu(StableIValue* stack, std::uint64_t, std::uint64_t) {
  guarded("selective_scan_forward", __FILE__, __LINE__, [&] {
    forward(stack, [](const SelectiveScanProblem& problem, const TensorArg&) { ops::selective_scan_cpu(problem); });
  });
}

// Scratch memory from torch's caching allocator: freed when the call returns, reused by torch on the same stream only.
class TorchScratch : public ops::ScratchAllocator {
 public:
  explicit TorchScratch(const TensorArg& like) : like_(like) {}
  void* allocate(std::size_t bytes) override {
    const Index floats = static_cast<Index>((bytes + sizeof(float) - 1) / sizeof(float));
    const Index step = 1;
    memory_ = empty_strided(1, &floats, &step, aoti_torch_dtype_float32(), like_);
    return data_of(memory_);
  }

 private:
  const TensorArg& like_;
  OwnedTensor memory_;
};

void forward_cuda(StableIValue* stack, std::uint64_t, std::uint64_t) {
  guarded("selective_scan_forward", __FILE__, __LINE__, [&] {
    forward(stack, [](const SelectiveScanProblem& problem, const TensorArg& u) {
      TorchScratch scratch(u);
      ops::selective_scan_cuda(problem, u.device_index, current_cuda_stream(u.device_index), scratch);
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY(mamba_scan, library) { library.def(kSchema); }
STABLE_TORCH_LIBRARY_IMPL(mamba_scan, CPU, library) { library.impl("selective_scan_forward", &forward_cpu); }
STABLE_TORCH_LIBRARY_IMPL(mamba_scan, CUDA, library) { library.impl("selective_scan_forward", &forward_cuda); }

}  // namespace mamba_scan::binding
