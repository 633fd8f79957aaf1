#include <dlfcn.h>

#include "torch_symbol.h"

namespace mamba_scan::binding {

// RTLD_DEFAULT would find nothing: Python loads torch privately.
void* torch_symbol(TorchLibrary library, const char* name) {
  const char* file = library == TorchLibrary::kCuda ? "libtorch_cuda.so" : "libtorch_cpu.so";
  void* handle = dlopen(file, RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) return nullptr;
  void* symbol = dlsym(handle, name);
  dlclose(handle);  // gives back our reference only; the library stays
  return symbol;
}

}  // namespace mamba_scan::binding
