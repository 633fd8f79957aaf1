// The plans of a thread's latest kinds of scan: a model calls the same few again and again, and planning anew would be
// a third of what a short call costs on the host.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "ops/plan.h"
#include "platform/export.h"

namespace mamba_scan::ops {

class MAMBA_SCAN_API PlanCache {
 public:
  // The plan of a scan that differed at most in where its tensors lie, made for this one; nothing if there was none on
  // the device, or another tuning since.
  std::optional<ForwardPlan> find(const SelectiveScanProblem& problem, int device, std::uint64_t tuning) const;

  // In place of the oldest.
  void add(const SelectiveScanProblem& problem, int device, std::uint64_t tuning, const ForwardPlan& plan);

 private:
  struct Entry {
    SelectiveScanProblem kind;
    int device = -1;
    std::uint64_t tuning = 0;
    ForwardPlan plan;
  };
  std::array<Entry, 8> entries_{};
  std::size_t oldest_ = 0;
};

}  // namespace mamba_scan::ops
