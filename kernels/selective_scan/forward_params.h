// The one argument of selective_scan/forward.cu: the problem and how it is cut into blocks.
#pragma once

#include "selective_scan/problem.h"

namespace mamba_scan {

struct SelectiveScanForwardParams {
  SelectiveScanProblem problem;
  int channels_per_group;  // dim / ngroups
  int blocks_per_group;    // ceil(channels_per_group / channels per block)
};

}  // namespace mamba_scan
