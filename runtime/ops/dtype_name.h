// How reports and messages spell a dtype: as torch does.
#pragma once

#include "selective_scan/problem.h"

namespace mamba_scan::ops {

inline const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
  }
  return "?";
}

}  // namespace mamba_scan::ops
