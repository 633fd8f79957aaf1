// Functions of torch that not every torch has: a CPU-only build lacks the CUDA ones, an older one the newer ones.
#pragma once

namespace mamba_scan::binding {

enum class TorchLibrary { kCpu, kCuda };

// Looks in that library of the torch already loaded in this process; null when either is missing.
void* torch_symbol(TorchLibrary library, const char* name);

}  // namespace mamba_scan::binding
