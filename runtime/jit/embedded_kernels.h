// The kernel text that cmake/EmbedKernels.cmake put into this binary.
#pragma once

#include <span>
#include <string_view>

namespace mamba_scan::jit {

struct EmbeddedFile {
  std::string_view path;  // inside kernels/, with forward slashes
  std::string_view text;
};

std::span<const EmbeddedFile> embedded_kernels();

}  // namespace mamba_scan::jit
