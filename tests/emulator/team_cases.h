// The problems that the emulator runs with the team kernel, each in one shape whatever the plan would choose.
#pragma once

#include <optional>
#include <vector>

#include "ops/team_plan.h"
#include "scan_case.h"

namespace emulator {

struct TeamCase {
  ScanCase scan;
  mamba_scan::ops::TeamShape shape;
};

std::vector<TeamCase> team_cases();

// Throws std::runtime_error where the kernel does not serve the problem: every case is meant for it.
mamba_scan::ops::TeamPlan plan_case(const mamba_scan::SelectiveScanProblem& problem, const TeamCase& team);

}  // namespace emulator
