// The CPU backend of the selective scan (selective_scan/problem.h): the formula as it stands, in sequential order
// for every channel and state, with fp32 accumulation. It serves all of problem.h.
//
// Bit for bit the same whatever the number of threads, and wherever a sequence is cut, when the second part starts
// from the first part's final state (chunk_invariant or not): no way of dividing the work changes the order of an
// addition. Numbers below 1.2e-38 count as zero: on x86-64 inputs and results alike, elsewhere decay factors only.
#pragma once

#include "platform/export.h"
#include "selective_scan/problem.h"

namespace mamba_scan::cpu {

// The problem must be one that a backend can serve (ops::check); nothing is checked here. threads = 0:
// MAMBA_SCAN_NUM_THREADS, else all processors. May be called from several threads at once.
MAMBA_SCAN_API void selective_scan(const SelectiveScanProblem& problem, int threads = 0);

// What threads = 0 means here and now.
MAMBA_SCAN_API int default_threads();

}  // namespace mamba_scan::cpu
