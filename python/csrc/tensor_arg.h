// A tensor as a binding sees it, free of any framework's types, so that each binding only fills this in.
#pragma once

#include "selective_scan/problem.h"

namespace mamba_scan::binding {

enum class ScalarKind { kFloat32, kFloat16, kBFloat16, kInt32, kOther };
enum class DeviceKind { kCpu, kCuda, kOther };

inline constexpr int kMaxRank = 5;

struct TensorArg {
  const char* name = "";
  bool present = false;
  void* data = nullptr;
  int rank = 0;  // may exceed kMaxRank; only the first kMaxRank sizes and strides are kept
  Index sizes[kMaxRank] = {};
  Index strides[kMaxRank] = {};  // in elements
  ScalarKind kind = ScalarKind::kOther;
  DeviceKind device = DeviceKind::kOther;
  int device_index = 0;
};

}  // namespace mamba_scan::binding
