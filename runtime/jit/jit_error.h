// What goes wrong between a variant and its binary.
#pragma once

#include "platform/error.h"

namespace mamba_scan::jit {

// No usable NVRTC, a GPU it does not serve, or kernel text that does not compile. Never: a cache problem.
class JitError : public Error {
 public:
  using Error::Error;
};

// Kernel text that does not compile, and will not the next time.
class CompileError : public JitError {
 public:
  using JitError::JitError;
};

}  // namespace mamba_scan::jit
