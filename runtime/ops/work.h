// What any kernel must do for a scan, whatever its plan: the two terms of the roof.
#pragma once

#include <cstdint>

#include "platform/export.h"
#include "selective_scan/problem.h"

namespace mamba_scan::ops {

struct Work {
  std::int64_t bytes = 0;  // every tensor that is there read or written once
  std::int64_t exps = 0;   // evaluations on the exponential unit; sin and cos of a complex decay are arithmetic
};

MAMBA_SCAN_API Work forward_work(const SelectiveScanProblem& problem);

}  // namespace mamba_scan::ops
