#include "jit/compile_options.h"

#include "jit/jit_error.h"

namespace mamba_scan::jit {

CompileTarget choose_target(int capability, const NvrtcFacts& facts) {
  const std::string number = std::to_string(capability);
  if (facts.lists(capability)) return {"sm_" + number, false};
  int newest = 0;
  for (int arch : facts.archs) {
    if (arch < capability) newest = arch;
  }
  if (newest == 0) {
    throw JitError("NVRTC " + facts.version + " no longer compiles for sm_" + number + " (its oldest is sm_" +
                   std::to_string(facts.archs.empty() ? 0 : facts.archs.front()) +
                   "); install an older one: python -m pip install nvidia-cuda-nvrtc-cu12");
  }
  return {"compute_" + std::to_string(newest), true};
}

std::vector<std::string> compile_options(const Variant& variant, const CompileTarget& target, const NvrtcFacts& facts,
                                         bool line_info) {
  std::vector<std::string> options = {"--std=c++17", "--gpu-architecture=" + target.arch};
  // Registers, shared memory and real spills, in the log. PTX has none of them yet.
  if (!target.is_ptx) options.push_back("-Xptxas=-v");
  // Since 12.9 NVRTC keeps a cache of its own, in the user's home; ours is enough.
  if (facts.major > 12 || (facts.major == 12 && facts.minor >= 9)) options.push_back("--no-cache");
  if (line_info) options.push_back("-lineinfo");
  for (const auto& [name, value] : variant.defines) options.push_back("-D" + name + "=" + value);
  return options;
}

}  // namespace mamba_scan::jit
