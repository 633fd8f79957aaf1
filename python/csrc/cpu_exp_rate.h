// How many exponentials per second the CPU backend can evaluate: the ceiling that a scan on the CPU is measured
// against.
#pragma once

namespace mamba_scan::binding {

// Runs the backend's own vector exponential on data that stay in the first-level cache, on `threads` threads at once
// for about `seconds`. threads = 0: as many as a scan would use.
double cpu_exp_rate(int threads, double seconds);

}  // namespace mamba_scan::binding
