#include "stable_value.h"

#if defined(_WIN32)
#include <windows.h>
#endif

#include "torch_symbol.h"

namespace mamba_scan::binding {

#if defined(_WIN32)

void free_stable_value(std::uint64_t* boxed) {
  using Delete = std::int32_t (*)(std::uint64_t*);
  using Free = void (*)(void*);
  // From torch 2.13 torch frees it itself; before, operator delete of an MSVC build is free() of the UCRT.
  static const auto delete_value =
      reinterpret_cast<Delete>(torch_symbol(TorchLibrary::kCpu, "torch_delete_stable_ivalue"));
  if (delete_value != nullptr) {
    delete_value(boxed);
    return;
  }
  static const auto ucrt_free =
      reinterpret_cast<Free>(reinterpret_cast<void*>(GetProcAddress(GetModuleHandleW(L"ucrtbase.dll"), "free")));
  if (ucrt_free != nullptr) ucrt_free(boxed);  // else: eight bytes leak, which is better than a broken heap
}

#else

void free_stable_value(std::uint64_t* boxed) { delete boxed; }  // one heap for the whole process

#endif

}  // namespace mamba_scan::binding
