// Reversed and packed scans as forward scans of single sequences over the same memory.
#pragma once

#include "selective_scan/problem.h"

namespace mamba_scan::cpu {

// The same scan from the first step to the last: pointers at the last step, strides of time negated.
SelectiveScanProblem turned_around(const SelectiveScanProblem& problem);

// Sequence i of a packed problem, with its own states and turned around if the problem is reversed.
SelectiveScanProblem one_sequence(const SelectiveScanProblem& problem, Index i);

}  // namespace mamba_scan::cpu
