#include "jit/variant.h"

namespace mamba_scan::jit {

std::string Variant::name() const {
  std::string out = entry + "[";
  for (const auto& [define, value] : defines) {
    if (out.back() != '[') out += ",";
    out += define + "=" + value;
  }
  return out + "]";
}

}  // namespace mamba_scan::jit
