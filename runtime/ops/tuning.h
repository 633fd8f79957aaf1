// Choices that were measured to be faster on a device than the one its plan's model makes. `mamba-scan tune` finds
// them; they lie beside the compiled kernels, in one note per kind of device. Like the cache, they can cost time and
// never a result: what cannot be read, or does not fit, is as if it were not there.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "driver/device.h"
#include "jit/disk_cache.h"
#include "ops/plan.h"
#include "ops/runtime.h"
#include "platform/export.h"

namespace mamba_scan::ops {

// Problems with the same number share a choice: the same sizes but for seqlen, of which the power of two counts, dtype,
// layout, alignment and options.
MAMBA_SCAN_API std::uint64_t problem_class(const SelectiveScanProblem& problem);

// What a plan has chosen, every detail of it.
MAMBA_SCAN_API PlanChoice choice_of(const ForwardPlan& plan);

struct ExpectedChoice {
  PlanChoice choice;
  double clocks = 0;  // that the model expects a scan to take
};

// The choice that is made without tuning, then all others that are possible, with the details that the model would
// choose for each, the one that should be fastest first.
MAMBA_SCAN_API std::vector<ExpectedChoice> plan_choices(const SelectiveScanProblem& problem,
                                                        const driver::DeviceReport& device);

// The possible ones that differ from a choice in one detail: by a factor of two, one stage, four blocks or, where warps
// take turns, one block. As many warps take turns on more rows, or more of them on fewer.
MAMBA_SCAN_API std::vector<ExpectedChoice> plan_choices_near(const SelectiveScanProblem& problem,
                                                             const driver::DeviceReport& device,
                                                             const PlanChoice& choice);

struct TunedChoice {
  PlanChoice choice;
  std::string problem;    // for people
  double us = 0;          // as measured
  double untuned_us = 0;  // of the model's choice, in the same run
};

// Of one device. Thread safe.
class MAMBA_SCAN_API Tuning {
 public:
  // Reads the note of this kind of device: its name, number of SMs and clocks, whatever the driver.
  Tuning(jit::DiskCache& cache, const driver::DeviceReport& device);

  std::optional<PlanChoice> find(const SelectiveScanProblem& problem) const;

  // For this process. Nothing: the model's choice again. Returns what was used.
  std::optional<TunedChoice> use(const SelectiveScanProblem& problem, std::optional<TunedChoice> choice);

  // The same for those to come, too, beside what other processes have kept since. Whether the cache has it now.
  bool keep(const SelectiveScanProblem& problem, std::optional<TunedChoice> choice);

  // Another one whenever find() may answer differently.
  std::uint64_t version() const { return version_.load(std::memory_order_acquire); }

 private:
  std::map<std::uint64_t, TunedChoice> kept() const;

  jit::DiskCache& cache_;
  std::string device_;  // for people, in the note
  std::string key_;     // of the note
  mutable std::mutex mutex_;
  std::map<std::uint64_t, TunedChoice> choices_;
  std::atomic<bool> empty_{true};
  std::atomic<std::uint64_t> version_{0};
};

// That of a device of runtime(), read from the cache the first time.
MAMBA_SCAN_API Tuning& device_tuning(const DeviceContext& device);

}  // namespace mamba_scan::ops
