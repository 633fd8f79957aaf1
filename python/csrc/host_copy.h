// Copies between arrays in host memory on several threads: one thread moves a fifth of what a PCIe link takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mamba_scan::binding {

// One axis of a copy: how many pieces, and how far apart they are on either side, in bytes.
struct CopyAxis {
  std::int64_t size;
  std::int64_t destination_stride;
  std::int64_t source_stride;
};

// Copies `run_bytes` contiguous bytes for every index of `axes` (outermost first; none means a single run).
// The two sides must not overlap. Uses the calling thread and up to threads - 1 more.
void copy_runs(std::byte* destination, const std::byte* source, std::int64_t run_bytes,
               const std::vector<CopyAxis>& axes, int threads);

}  // namespace mamba_scan::binding
