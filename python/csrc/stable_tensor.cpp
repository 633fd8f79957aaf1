#include "stable_tensor.h"

#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <cstring>

#include "stable_value.h"
#include "torch_symbol.h"

namespace mamba_scan::binding {
namespace {

// Constants within one torch; functions in its C interface because their values differ between versions.
struct TorchConstants {
  std::int32_t float32 = aoti_torch_dtype_float32();
  std::int32_t float16 = aoti_torch_dtype_float16();
  std::int32_t bfloat16 = aoti_torch_dtype_bfloat16();
  std::int32_t int32 = aoti_torch_dtype_int32();
  std::int32_t cpu = aoti_torch_device_type_cpu();
  std::int32_t cuda = aoti_torch_device_type_cuda();
};

const TorchConstants& constants() {
  static const TorchConstants values;
  return values;
}

AtenTensorHandle as_handle(std::uint64_t slot) {
  AtenTensorHandle handle;
  static_assert(sizeof(handle) == sizeof(slot));
  std::memcpy(&handle, &slot, sizeof(handle));
  return handle;
}

}  // namespace

void require_success(AOTITorchError status, const char* what) {
  if (status == 0) return;
  using What = const char* (*)();
  static const auto reason = reinterpret_cast<What>(
      torch_symbol(TorchLibrary::kCpu, "torch_exception_get_what_without_backtrace"));  // from torch 2.13
  std::string message = std::string("torch could not ") + what;
  if (reason != nullptr) message += std::string(": ") + reason();
  throw TorchError(message);
}

OwnedTensor take_tensor(std::uint64_t slot) { return OwnedTensor(as_handle(slot)); }

OwnedTensor take_optional_tensor(std::uint64_t slot) {
  if (slot == 0) return nullptr;
  std::uint64_t* boxed;
  static_assert(sizeof(boxed) == sizeof(slot));
  std::memcpy(&boxed, &slot, sizeof(boxed));
  OwnedTensor tensor(as_handle(*boxed));
  free_stable_value(boxed);
  return tensor;
}

bool take_bool(std::uint64_t slot) {
  bool value;
  std::memcpy(&value, &slot, sizeof(value));
  return value;
}

std::uint64_t give_tensor(OwnedTensor tensor) {
  const AtenTensorHandle handle = tensor.release();
  std::uint64_t slot;
  std::memcpy(&slot, &handle, sizeof(slot));
  return slot;
}

void describe(const OwnedTensor& tensor, TensorArg& arg) {
  if (tensor == nullptr) return;
  const TorchConstants& torch = constants();
  std::int64_t rank = 0;
  std::int64_t* sizes = nullptr;
  std::int64_t* strides = nullptr;
  std::int32_t dtype = 0;
  std::int32_t device = 0;
  require_success(aoti_torch_get_dim(tensor.get(), &rank), "tell the rank of a tensor");
  require_success(aoti_torch_get_sizes(tensor.get(), &sizes), "tell the sizes of a tensor");
  require_success(aoti_torch_get_strides(tensor.get(), &strides), "tell the strides of a tensor");
  require_success(aoti_torch_get_dtype(tensor.get(), &dtype), "tell the dtype of a tensor");
  require_success(aoti_torch_get_device_type(tensor.get(), &device), "tell the device of a tensor");
  require_success(aoti_torch_get_device_index(tensor.get(), &arg.device_index), "tell the device of a tensor");
  arg.present = true;
  arg.data = data_of(tensor);
  arg.rank = static_cast<int>(rank);
  const int kept = std::min(arg.rank, kMaxRank);
  std::copy(sizes, sizes + kept, arg.sizes);
  std::copy(strides, strides + kept, arg.strides);
  arg.kind = dtype == torch.float32    ? ScalarKind::kFloat32
             : dtype == torch.float16  ? ScalarKind::kFloat16
             : dtype == torch.bfloat16 ? ScalarKind::kBFloat16
             : dtype == torch.int32    ? ScalarKind::kInt32
                                       : ScalarKind::kOther;
  arg.device = device == torch.cpu ? DeviceKind::kCpu : device == torch.cuda ? DeviceKind::kCuda : DeviceKind::kOther;
}

OwnedTensor empty_strided(int rank, const Index* sizes, const Index* strides, std::int32_t torch_dtype,
                          const TensorArg& like) {
  std::int64_t size_list[kMaxRank];
  std::int64_t stride_list[kMaxRank];
  std::copy(sizes, sizes + rank, size_list);
  std::copy(strides, strides + rank, stride_list);
  const std::int32_t device = like.device == DeviceKind::kCuda ? constants().cuda : constants().cpu;
  AtenTensorHandle handle = nullptr;
  require_success(
      aoti_torch_empty_strided(rank, size_list, stride_list, torch_dtype, device, like.device_index, &handle),
      "allocate an output");
  return OwnedTensor(handle);
}

void* data_of(const OwnedTensor& tensor) {
  void* data = nullptr;
  require_success(aoti_torch_get_data_ptr(tensor.get(), &data), "tell where a tensor's data are");
  return data;
}

std::int32_t torch_dtype_of(const OwnedTensor& tensor) {
  std::int32_t dtype = 0;
  require_success(aoti_torch_get_dtype(tensor.get(), &dtype), "tell the dtype of a tensor");
  return dtype;
}

}  // namespace mamba_scan::binding
