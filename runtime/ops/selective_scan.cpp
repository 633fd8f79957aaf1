#include "ops/selective_scan.h"

#include <future>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>

#include "cpu/selective_scan.h"
#include "driver/context.h"
#include "driver/event.h"
#include "ops/dtype_name.h"
#include "ops/plan.h"
#include "ops/runtime.h"

namespace mamba_scan::ops {
namespace {

bool is_empty(const SelectiveScanProblem& problem) {
  return problem.batch == 0 || problem.dim == 0 || (problem.seqlen == 0 && problem.final_state.data == nullptr);
}

struct Kernels {
  const jit::LoadedKernel* forward = nullptr;
  const jit::LoadedKernel* carry = nullptr;  // null unless the variant is cut
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
    std::future<const jit::LoadedKernel*> carry;
    if (variant.cut) {  // two compiles, side by side
      carry = std::async(std::launch::async, [&] {
        const driver::ContextGuard guard(*device.driver, device.context);
        return &runtime.kernels().get(variant.carry(), device.report);
      });
    }
    kernels.forward = &runtime.kernels().get(variant.forward(), device.report);
    if (variant.cut) kernels.carry = carry.get();
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

trace::KernelLaunch describe(const ForwardPlan& plan, const jit::LoadedKernel& kernel, int device, void* stream) {
  const SelectiveScanProblem& p = plan.params.problem;
  trace::KernelLaunch launch;
  launch.variant = kernel.info.variant;
  launch.shape = "batch=" + std::to_string(p.batch) + " seqlen=" + std::to_string(p.seqlen) +
                 " dim=" + std::to_string(p.dim) + " dstate=" + std::to_string(p.dstate);
  launch.dtype = dtype_name(p.dtype);
  launch.device = device;
  launch.stream = reinterpret_cast<std::uintptr_t>(stream);
  launch.grid[0] = static_cast<unsigned>(plan.params.slots);
  launch.block[0] = kForwardBlockThreads;
  launch.shared_bytes = static_cast<unsigned>(kernel.info.shared_bytes > 0 ? kernel.info.shared_bytes : 0);
  launch.registers = kernel.info.registers;
  return launch;
}

// work: what the launch stands for; nothing for the carries, which are our own overhead.
void launch(const ForwardPlan& plan, const jit::LoadedKernel& kernel, Runtime& rt, const DeviceContext& device,
            void* stream, Work work) {
  const driver::Driver& driver = *device.driver;
  driver::LaunchConfig config;
  config.grid[0] = static_cast<unsigned>(plan.params.slots);
  config.block[0] = kForwardBlockThreads;
  config.stream = static_cast<driver::CUstream>(stream);
  SelectiveScanForwardParams params = plan.params;
  void* arguments[] = {&params};

  trace::Recorder* recorder = rt.recorder();
  if (recorder == nullptr) {
    kernel.kernel.launch(config, arguments);
    return;
  }
  trace::KernelLaunch record = describe(plan, kernel, device.report.ordinal, stream);
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

}  // namespace

void selective_scan_cpu(const SelectiveScanProblem& problem, int threads) {
  check(problem);
  if (!is_empty(problem)) cpu::selective_scan(problem, threads);
}

void selective_scan_cuda(const SelectiveScanProblem& problem, int device_ordinal, void* stream,
                         ScratchAllocator& scratch) {
  check(problem);
  if (is_empty(problem)) return;

  Runtime& rt = runtime();
  const DeviceContext& device = rt.device(device_ordinal);
  const driver::ContextGuard guard(*device.driver, device.context);
  ForwardPlan plan = plan_forward(problem, device.report);
  const Kernels kernels = kernel_table().get(rt, plan.variant, device);
  if (plan.variant.cut) {
    auto* memory = static_cast<char*>(scratch.allocate(plan.carry_state_bytes + plan.carry_delta_bytes));
    plan.params.carry_state = reinterpret_cast<float*>(memory);
    plan.params.carry_delta = reinterpret_cast<float*>(memory + plan.carry_state_bytes);
    launch(plan, *kernels.carry, rt, device, stream, Work{});
  }
  launch(plan, *kernels.forward, rt, device, stream, forward_work(problem));
}

}  // namespace mamba_scan::ops
