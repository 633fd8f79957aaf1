// The scan for problems with fewer vectors of channels than threads.
#pragma once

#include "selective_scan/problem.h"

namespace mamba_scan::cpu {

// Divides the states of a vector of channels over the threads, and time for all that needs no state: a stretch of
// steps is first staged (softplus, conversions) in pieces of time, then each thread takes blocks of states through
// the whole stretch, then pieces of time again have their partial sums added in the order of the blocks, gated and
// stored. No exponential is computed twice and every result is the one that a single thread gets.
void scan_split_states(const SelectiveScanProblem& problem, int threads);

}  // namespace mamba_scan::cpu
