#include "cpu/instruction_sets.h"

#include "cpu/scan_kernels.h"
#include "hwy/highway.h"
#include "platform/error.h"

namespace mamba_scan::cpu {

std::string instruction_set() { return kernels::target_name(); }

std::vector<std::string> supported_instruction_sets() {
  std::vector<std::string> names;
  for (const auto target : hwy::SupportedAndGeneratedTargets()) names.emplace_back(hwy::TargetName(target));
  return names;
}

void use_instruction_set(const std::string& name) {
  hwy::SetSupportedTargetsForTest(0);
  const auto targets = hwy::SupportedAndGeneratedTargets();
  if (!name.empty()) {
    auto wanted = targets.begin();
    while (wanted != targets.end() && name != hwy::TargetName(*wanted)) ++wanted;
    if (wanted == targets.end()) {
      std::string known;
      for (const auto target : targets) known.append(known.empty() ? "" : ", ").append(hwy::TargetName(target));
      std::string message = "instruction set: got ";
      message.append(name).append(", this processor and build have ").append(known);
      throw ArgumentError(message);
    }
    hwy::SetSupportedTargetsForTest(*wanted);
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace mamba_scan::cpu
