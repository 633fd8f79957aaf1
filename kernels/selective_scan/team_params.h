// The argument of selective_scan/team.cu: the problem and how it is shared out.
#pragma once

#include "selective_scan/problem.h"

namespace mamba_scan {

struct SelectiveScanTeamParams {
  SelectiveScanProblem problem;
  int channels_per_group;  // dim / ngroups
  int blocks_per_group;    // ceil(channels_per_group / channels per block)
  int tiles;               // of each segment
  // From a tile to the next, in bytes.
  Index u_step, delta_step, z_step, y_step, B_step, C_step;
};

}  // namespace mamba_scan
