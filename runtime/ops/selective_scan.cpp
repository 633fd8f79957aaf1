#include "ops/selective_scan.h"

#include <algorithm>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "cpu/selective_scan.h"
#include "driver/context.h"
#include "driver/event.h"
#include "ops/ceil_div.h"
#include "ops/dtype_name.h"
#include "ops/launch_split.h"
#include "ops/memory_layout.h"
#include "ops/plan.h"
#include "ops/plan_cache.h"
#include "ops/runtime.h"
#include "ops/tuning.h"

namespace mamba_scan::ops {
namespace {

bool is_empty(const SelectiveScanProblem& problem) {
  return problem.batch == 0 || problem.dim == 0 || (problem.seqlen == 0 && problem.final_state.data == nullptr);
}

struct Kernels {
  const jit::LoadedKernel* scan = nullptr;     // whichever plan.h's ScanKernel says
  const jit::LoadedKernel* carry = nullptr;    // null unless the variant is cut
  const jit::LoadedKernel* compose = nullptr;  // null unless it is chunk_invariant as well
  const jit::LoadedKernel* prepare = nullptr;  // null unless B and C are prepared
};

// Which kernels a variant became on a device, found without making strings: the path of every call after the first.
class KernelTable {
 public:
  Kernels get(Runtime& runtime, const ForwardVariant& variant, const DeviceContext& device) {
    const Key key{device.report.ordinal, variant};
    {
      std::shared_lock lock(mutex_);
      if (const auto found = kernels_.find(key); found != kernels_.end()) return found->second;
    }
    Kernels kernels;
    const auto start = [&](jit::Variant kernel) {  // compiles, side by side if there are threads
      return std::async(std::launch::async | std::launch::deferred, [&, kernel = std::move(kernel)] {
        const driver::ContextGuard guard(*device.driver, device.context);
        return &runtime.kernels().get(kernel, device.report);
      });
    };
    std::future<const jit::LoadedKernel*> carry, prepare;
    if (variant.cut) carry = start(variant.carry());
    if (variant.prepared) prepare = start(variant.prepare());
    kernels.scan = &runtime.kernels().get(variant.scan(), device.report);
    constexpr std::size_t kAllowedAnyway = 48 << 10;
    // How much rows that are moved whole take is known at each launch only.
    const std::size_t shared = variant.kernel() == ScanKernel::kWholeRows ? device.report.shared_per_block_optin
                                                                          : variant.dynamic_shared_bytes();
    if (shared > kAllowedAnyway) kernels.scan->kernel.allow_dynamic_shared(shared);
    if (variant.cut && variant.chunk_invariant)
      kernels.compose = &runtime.kernels().get(variant.compose(), device.report);
    if (variant.cut) kernels.carry = carry.get();
    if (variant.cut && variant.carry_shared_bytes() > kAllowedAnyway)
      kernels.carry->kernel.allow_dynamic_shared(variant.carry_shared_bytes());
    if (variant.prepared) kernels.prepare = prepare.get();
    std::unique_lock lock(mutex_);
    return kernels_.emplace(key, kernels).first->second;
  }

 private:
  using Key = std::pair<int, ForwardVariant>;
  std::shared_mutex mutex_;
  std::map<Key, Kernels> kernels_;
};

// Lives as long as the runtime, whose kernels it points at; never destroyed, as the runtime is not.
KernelTable& kernel_table() {
  static KernelTable* table = new KernelTable;
  return *table;
}

trace::KernelLaunch describe(const SelectiveScanProblem& p, const jit::LoadedKernel& kernel,
                             const driver::LaunchConfig& config, int device) {
  trace::KernelLaunch launch;
  launch.variant = kernel.info.variant;
  launch.shape = "batch=" + std::to_string(p.batch) + " seqlen=" + std::to_string(p.seqlen) +
                 " dim=" + std::to_string(p.dim) + " dstate=" + std::to_string(p.dstate);
  launch.dtype = dtype_name(p.dtype);
  launch.device = device;
  launch.stream = reinterpret_cast<std::uintptr_t>(config.stream);
  launch.grid[0] = config.grid[0];
  launch.block[0] = config.block[0];
  launch.shared_bytes =
      config.dynamic_shared_bytes + static_cast<unsigned>(kernel.info.shared_bytes > 0 ? kernel.info.shared_bytes : 0);
  launch.registers = kernel.info.registers;
  return launch;
}

// work: what the launch stands for; nothing for carries and preparation, which are our own overhead.
void launch(SelectiveScanForwardParams params, const jit::LoadedKernel& kernel, const driver::LaunchConfig& config,
            Runtime& rt, const DeviceContext& device, Work work) {
  const driver::Driver& driver = *device.driver;
  void* arguments[] = {&params};

  trace::Recorder* recorder = rt.recorder();
  if (recorder == nullptr) {
    kernel.kernel.launch(config, arguments);
    return;
  }
  trace::KernelLaunch record = describe(params.problem, kernel, config, device.report.ordinal);
  record.bytes = work.bytes;
  record.exps = work.exps;
  record.host_start_us = recorder->now_us();
  if (recorder->wants_device_times()) {
    const driver::Event start(driver, driver::Event::Kind::kTiming), end(driver, driver::Event::Kind::kTiming);
    start.record(config.stream);
    kernel.kernel.launch(config, arguments);
    record.host_duration_us = recorder->now_us() - record.host_start_us;
    end.record(config.stream);
    end.synchronize();
    record.device_duration_us = driver::elapsed_us(driver, start, end);
  } else {
    kernel.kernel.launch(config, arguments);
    record.host_duration_us = recorder->now_us() - record.host_start_us;
  }
  recorder->kernel_launch(record);
}

ForwardPlan plan_for(const SelectiveScanProblem& problem, const DeviceContext& device) {
  thread_local PlanCache cache;
  const Tuning& tuning = device_tuning(device);
  const std::uint64_t version = tuning.version();  // before what is found: that of a later version is found again
  if (const std::optional<ForwardPlan> known = cache.find(problem, device.report.ordinal, version)) return *known;
  const std::optional<PlanChoice> tuned = tuning.find(problem);
  const ForwardPlan plan = plan_forward(problem, device.report, tuned ? &*tuned : nullptr);
  cache.add(problem, device.report.ordinal, version, plan);
  return plan;
}

std::size_t scratch_bytes(const ForwardPlan& plan) {
  return 2 * plan.prepared_bytes + plan.carry_state_bytes + plan.carry_delta_bytes + plan.carry_ready_bytes +
         plan.partial_sum_bytes;
}

void set_scratch(ForwardPlan& plan, void* scratch) {
  auto* memory = static_cast<char*>(scratch);
  const auto take = [&]<class T>(std::size_t bytes, T*& part) {
    if (bytes == 0) return;
    part = reinterpret_cast<T*>(memory);
    memory += bytes;
  };
  SelectiveScanForwardParams& params = plan.params;
  take(plan.prepared_bytes, params.prepared_B);
  take(plan.prepared_bytes, params.prepared_C);
  take(plan.carry_state_bytes, params.carry_state);
  take(plan.carry_delta_bytes, params.carry_delta);
  take(plan.carry_ready_bytes, params.carry_ready);
  take(plan.partial_sum_bytes, params.partial_sum);
}

void run(const ForwardPlan& plan, Runtime& rt, const DeviceContext& device, void* stream) {
  for (int i = 0; i < plan.slices; ++i) {
    const SlicePlan slice = slice_of(plan, i);
    const Kernels kernels = kernel_table().get(rt, slice.variant, device);
    const auto run_blocks = [&](const jit::LoadedKernel& kernel, const SelectiveScanForwardParams& params,
                                unsigned blocks, unsigned threads, Work work, std::size_t shared = 0) {
      driver::LaunchConfig config;
      config.grid[0] = blocks;
      config.block[0] = threads;
      config.dynamic_shared_bytes = static_cast<unsigned>(shared);
      config.stream = static_cast<driver::CUstream>(stream);
      launch(params, kernel, config, rt, device, work);
    };
    const auto slots = static_cast<unsigned>(slice.params.slots);
    if (slice.params.carry_ready != nullptr) {
      const auto flags = static_cast<driver::CUdeviceptr>(reinterpret_cast<std::uintptr_t>(slice.params.carry_ready));
      device.driver->check(
          device.driver->api().cuMemsetD8Async(flags, 0, plan.carry_ready_bytes, static_cast<driver::CUstream>(stream)),
          "Clearing the flags of a scan");
    }
    const ForwardVariant& v = slice.variant;
    if (kernels.prepare != nullptr)
      run_blocks(*kernels.prepare, slice.params, prepare_blocks(slice), kPrepareThreads, Work{});
    if (kernels.carry != nullptr)
      run_blocks(*kernels.carry, carry_params(v, slice.params), slots, v.carry_threads(), Work{},
                 v.carry_shared_bytes());
    if (kernels.compose != nullptr)
      run_blocks(*kernels.compose, slice.params, compose_blocks(slice), kForwardBlockThreads, Work{});
    run_blocks(*kernels.scan, slice.params, v.scan_blocks(slice.params), v.scan_threads(),
               forward_work(slice.params.problem), v.scan_shared_bytes(slice.params));
  }
}

constexpr std::size_t kScratchAlignment = 256;  // as ScratchAllocator has it

// In several launches. Their scratch memory is one allocation: the states handed on, then what each launch needs for
// itself, one after another in the same place.
void run_in_pieces(const SelectiveScanProblem& problem, Runtime& rt, const DeviceContext& device, void* stream,
                   ScratchAllocator& scratch) {
  LaunchSplit split = split_launches(problem, device.report);
  const std::size_t states = ceil_div(split.state_bytes, kScratchAlignment) * kScratchAlignment;
  // The plans tell how much memory that is, and depend on whether there are states: until these have their place they
  // have an address that nobody looks at.
  hand_on_states(split, reinterpret_cast<void*>(kScratchAlignment));
  std::vector<ForwardPlan> plans;
  std::size_t most = 0;
  for (const LaunchPiece& piece : split.pieces) {
    plans.push_back(plan_for(piece.problem, device));
    most = std::max(most, scratch_bytes(plans.back()));
  }
  auto* memory = states + most > 0 ? static_cast<char*>(scratch.allocate(states + most)) : nullptr;
  hand_on_states(split, memory);
  for (std::size_t i = 0; i < plans.size(); ++i) {
    plans[i].params.problem = in_scan_order(split.pieces[i].problem);
    if (scratch_bytes(plans[i]) > 0) set_scratch(plans[i], memory + states);
    run(plans[i], rt, device, stream);
  }
}

}  // namespace

void selective_scan_cpu(const SelectiveScanProblem& problem, int threads) {
  check(problem);
  check_sequences(problem);
  if (!is_empty(problem)) cpu::selective_scan(problem, threads);
}

void selective_scan_cuda(const SelectiveScanProblem& problem, int device_ordinal, void* stream,
                         ScratchAllocator& scratch) {
  check(problem);
  if (is_empty(problem)) return;

  Runtime& rt = runtime();
  const DeviceContext& device = rt.device(device_ordinal);
  const driver::ContextGuard guard(*device.driver, device.context);
  if (needs_split(problem, device.report)) {
    run_in_pieces(problem, rt, device, stream, scratch);
    return;
  }
  ForwardPlan plan = plan_for(problem, device);
  if (const std::size_t bytes = scratch_bytes(plan); bytes > 0) set_scratch(plan, scratch.allocate(bytes));
  run(plan, rt, device, stream);
}

}  // namespace mamba_scan::ops
