// A compiled kernel and what its compiler said about it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mamba_scan::jit {

struct BinaryInfo {
  std::string variant;        // Variant::name()
  std::string entry;          // name to look up after loading
  std::string arch;           // "sm_90", or "compute_121" when the binary is PTX for a newer GPU
  std::string nvrtc_version;  // "13.0.88"
  bool is_ptx = false;
  int registers = -1;              // per thread; -1: not known (PTX)
  std::int64_t shared_bytes = -1;  // static, per block
  std::int64_t local_bytes = -1;   // stack frame, per thread
  std::int64_t spill_store_bytes = -1;
  std::int64_t spill_load_bytes = -1;
  double compile_ms = 0;
  std::string log;  // the compiler's own words
};

enum class BuildOutcome { kMemory, kDisk, kCompiled };

struct Binary {
  std::vector<char> bytes;
  BinaryInfo info;
  BuildOutcome outcome = BuildOutcome::kCompiled;
};

}  // namespace mamba_scan::jit
