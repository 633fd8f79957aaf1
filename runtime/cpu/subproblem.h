// Reversed and packed scans as forward scans of single sequences over the same memory.
#pragma once

#include "platform/export.h"
#include "selective_scan/problem.h"

namespace mamba_scan::cpu {

// The same scan from the first step to the last: pointers at the last step, strides of time negated.
MAMBA_SCAN_API SelectiveScanProblem turned_around(const SelectiveScanProblem& problem);

// Where sequence i begins and the one before it ends, in steps of this part of a packed row.
Index sequence_begin(const SelectiveScanProblem& problem, Index i);

// Sequence i of a packed problem, with its own states and turned around if the problem is reversed.
SelectiveScanProblem one_sequence(const SelectiveScanProblem& problem, Index i);

}  // namespace mamba_scan::cpu
