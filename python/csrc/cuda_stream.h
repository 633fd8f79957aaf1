// torch's current CUDA stream, without linking a CUDA library of torch's.
#pragma once

namespace mamba_scan::binding {

// Throws TorchError when this torch has no CUDA.
void* current_cuda_stream(int device_index);

}  // namespace mamba_scan::binding
