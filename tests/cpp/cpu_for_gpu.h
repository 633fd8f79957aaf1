// The CPU backend where a GPU would run the kernel: what the fake driver is given to launch.
#pragma once

#include <optional>
#include <string>

#include "cpu/selective_scan.h"
#include "cpu/subproblem.h"
#include "selective_scan/forward_params.h"

namespace mamba_scan::test {

// Of a slice of the states, a scan of it and of all slices before it: the last launch's result is the whole's.
inline SelectiveScanProblem with_slices_before(const SelectiveScanForwardParams& params) {
  static SelectiveScanProblem first;
  SelectiveScanProblem problem = params.problem;
  if (params.partial_sum == nullptr) return problem;
  if (params.first_slice) first = problem;
  problem.dstate += (problem.A - first.A) / problem.A_state_stride;
  problem.A = first.A;
  problem.B = first.B;
  problem.C = first.C;
  problem.initial_state = first.initial_state;
  problem.final_state = first.final_state;
  return problem;
}

// Not for the kernels that only prepare a scan.
inline bool is_scan(const std::string& entry) {
  return entry == "selective_scan_forward" || entry == "selective_scan_served" || entry == "selective_scan_relay" ||
         entry == "selective_scan_relay_served" || entry == "selective_scan_whole_rows";
}

// The whole scan that a launch stands for, as the caller laid it out.
inline std::optional<SelectiveScanProblem> launched_scan(const std::string& entry, void** arguments) {
  if (!is_scan(entry)) return std::nullopt;
  auto problem = with_slices_before(*static_cast<const SelectiveScanForwardParams*>(arguments[0]));
  if (problem.reverse) {  // plan() has turned it round already, which the CPU backend would do again
    problem = cpu::turned_around(problem);
    problem.reverse = true;
  }
  return problem;
}

inline void run_on_cpu(const char* entry, void** arguments) {
  if (const auto problem = launched_scan(entry, arguments)) cpu::selective_scan(*problem, 1);
}

}  // namespace mamba_scan::test
