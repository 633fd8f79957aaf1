#include "ops/plan_cache.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "ops/memory_layout.h"

namespace mamba_scan::ops {
namespace {

// What a plan may ask addresses to be a multiple of.
constexpr std::uintptr_t kWidest = kSectorBytes;

// Whether there is a tensor, and how it is aligned.
template <class Pointer>
void keep_alignment(Pointer& data) {
  if (data == nullptr) return;
  data = reinterpret_cast<Pointer>(kWidest + reinterpret_cast<std::uintptr_t>(data) % kWidest);
}

// Whether there is one.
template <class Pointer>
void keep_presence(Pointer& data) {
  if (data != nullptr) data = reinterpret_cast<Pointer>(kWidest);
}

// What a plan depends on: the problem with the like of addresses in place of addresses.
SelectiveScanProblem kind_of(const SelectiveScanProblem& problem) {
  SelectiveScanProblem kind;
  std::memcpy(static_cast<void*>(&kind), &problem, sizeof kind);  // what lies between its members, too
  const bool in_place = problem.initial_state.data != nullptr && problem.initial_state.data == problem.final_state.data;
  for (SequenceTensor* tensor : {&kind.u, &kind.delta, &kind.z, &kind.y}) keep_alignment(tensor->data);
  for (ProjectionTensor* tensor : {&kind.B, &kind.C}) keep_alignment(tensor->data);
  keep_presence(kind.A);
  keep_presence(kind.D);
  keep_presence(kind.delta_bias);
  keep_presence(kind.cu_seqlens);
  keep_presence(kind.initial_state.data);
  keep_presence(kind.final_state.data);
  if (in_place) kind.final_state.data = reinterpret_cast<float*>(2 * kWidest);
  return kind;
}

}  // namespace

std::optional<ForwardPlan> PlanCache::find(const SelectiveScanProblem& problem, int device,
                                           std::uint64_t tuning) const {
  const SelectiveScanProblem kind = kind_of(problem);
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
    return entry.device == device && entry.tuning == tuning && std::memcmp(&entry.kind, &kind, sizeof kind) == 0;
  });
  if (found == entries_.end()) return std::nullopt;
  ForwardPlan plan = found->plan;
  plan.params.problem = in_scan_order(problem);
  return plan;
}

void PlanCache::add(const SelectiveScanProblem& problem, int device, std::uint64_t tuning, const ForwardPlan& plan) {
  Entry& entry = entries_[oldest_];
  oldest_ = (oldest_ + 1) % entries_.size();
  const SelectiveScanProblem kind = kind_of(problem);
  std::memcpy(static_cast<void*>(&entry.kind), &kind, sizeof kind);
  entry.device = device;
  entry.tuning = tuning;
  entry.plan = plan;
}

}  // namespace mamba_scan::ops
