// What identifies a kernel before it is compiled: a source file and the constants it is specialised with.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace mamba_scan::jit {

struct Variant {
  std::string source;  // path inside kernels/, e.g. "selective_scan/forward.cu"
  std::string entry;   // extern "C" name of the kernel, e.g. "selective_scan_forward"
  // Passed to the compiler as -DNAME=VALUE in this order; names are prefixed MS_ (NVRTC's own header uses short ones).
  std::vector<std::pair<std::string, std::string>> defines;

  // Readable and unique, e.g. "selective_scan_forward[MS_DTYPE=1,MS_DSTATE=16]".
  std::string name() const;
  bool operator==(const Variant&) const = default;
};

}  // namespace mamba_scan::jit
