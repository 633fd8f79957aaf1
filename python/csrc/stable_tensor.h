// Thin owners of what the stable ABI hands over, cheaper per call than torch::stable::Tensor (no shared pointer).
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>
#include <memory>
#include <string>

#include "platform/error.h"
#include "tensor_arg.h"

namespace mamba_scan::binding {

// A call into torch failed; the message says which.
class TorchError : public Error {
 public:
  using Error::Error;
};

struct DeleteTensor {
  void operator()(AtenTensorOpaque* handle) const { aoti_torch_delete_tensor_object(handle); }
};
using OwnedTensor = std::unique_ptr<AtenTensorOpaque, DeleteTensor>;

// Throws TorchError with torch's own words, where this torch can tell them, when status is not success.
void require_success(AOTITorchError status, const char* what);

// Takes over one stack slot of a `Tensor` argument.
OwnedTensor take_tensor(std::uint64_t slot);
// Takes over one stack slot of a `Tensor?` argument; null when it was None.
OwnedTensor take_optional_tensor(std::uint64_t slot);
bool take_bool(std::uint64_t slot);
// What to put into a stack slot to return the tensor.
std::uint64_t give_tensor(OwnedTensor tensor);

// Fills everything of `arg` but its name; a null tensor leaves it absent.
void describe(const OwnedTensor& tensor, TensorArg& arg);

// Uninitialised memory on the device of `like`.
OwnedTensor empty_strided(int rank, const Index* sizes, const Index* strides, std::int32_t torch_dtype,
                          const TensorArg& like);
void* data_of(const OwnedTensor& tensor);
std::int32_t torch_dtype_of(const OwnedTensor& tensor);

}  // namespace mamba_scan::binding
