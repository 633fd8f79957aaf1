#include "cuda_stream.h"

#include <cstdint>

#include "stable_tensor.h"
#include "torch_symbol.h"

namespace mamba_scan::binding {

void* current_cuda_stream(int device_index) {
  using GetStream = std::int32_t (*)(std::int32_t, void**);
  static const auto get_stream =
      reinterpret_cast<GetStream>(torch_symbol(TorchLibrary::kCuda, "aoti_torch_get_current_cuda_stream"));
  if (get_stream == nullptr) {
    throw TorchError("the current CUDA stream was asked for, but the loaded torch has no CUDA; install a CUDA build");
  }
  void* stream = nullptr;
  require_success(get_stream(device_index, &stream), "tell its current CUDA stream");
  return stream;
}

}  // namespace mamba_scan::binding
