#include <windows.h>

#include "torch_symbol.h"

namespace mamba_scan::binding {

void* torch_symbol(TorchLibrary library, const char* name) {
  const HMODULE module = GetModuleHandleW(library == TorchLibrary::kCuda ? L"torch_cuda.dll" : L"torch_cpu.dll");
  if (module == nullptr) return nullptr;
  return reinterpret_cast<void*>(GetProcAddress(module, name));
}

}  // namespace mamba_scan::binding
