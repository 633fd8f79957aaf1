// Calls a kernel with arguments as a launch has them: an array of pointers to values.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

#include "cuda_language.h"
#include "kernel_image.h"

namespace emulator {

// The arguments lie outside of what kernel code may touch, so taking them out is not instrumented.
template <class... Parameters, std::size_t... I>
__attribute__((no_sanitize("thread"))) void invoke_kernel(void (*kernel)(Parameters...), void** arguments,
                                                          std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_cv_t<Parameters>*>(arguments[I])...);
}

template <class... Parameters>
__attribute__((no_sanitize("thread"))) void invoke_kernel(void (*kernel)(Parameters...), void** arguments) {
  invoke_kernel(kernel, arguments, std::index_sequence_for<Parameters...>());
}

}  // namespace emulator
