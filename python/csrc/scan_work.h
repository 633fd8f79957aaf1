// The least work of a scan that is described and not there: no tensors, only their sizes.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace mamba_scan::binding {

struct ScanDescription {
  std::int64_t batch = 1;
  std::int64_t seqlen = 1;
  std::int64_t dim = 1;
  std::int64_t dstate = 16;
  std::int64_t groups = 1;
  std::string dtype = "float32";
  std::string features;        // words: D z delta_bias initial_state final_state constant_B constant_C complex
  std::int64_t sequences = 0;  // more than 0: packed
};

// Bytes that must move and exponentials that must be evaluated. Throws ArgumentError for an unknown word.
std::pair<std::int64_t, std::int64_t> scan_work(const ScanDescription& description);

}  // namespace mamba_scan::binding
