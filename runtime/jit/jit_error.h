// What goes wrong between a variant and its binary.
#pragma once

#include "platform/error.h"

namespace mamba_scan::jit {

// No usable NVRTC, a GPU it does not serve, or kernel text that does not compile. Never: a cache problem.
class JitError : public Error {
 public:
  using Error::Error;
};

}  // namespace mamba_scan::jit
