// Keeps everything that is reported, in memory, and writes it as Chrome Trace Event JSON.
#pragma once

#include <chrono>
#include <mutex>
#include <string>
#include <vector>

#include "platform/export.h"
#include "trace/recorder.h"

namespace mamba_scan::trace {

// Thread safe. Reports are appended under one lock; a report that arrives while another thread reads waits for a copy.
class MAMBA_SCAN_API MemoryRecorder final : public Recorder {
 public:
  // device_times: kernels are timed with a pair of events each and waited for; not while a CUDA graph is captured.
  explicit MemoryRecorder(bool device_times = false);

  double now_us() const override;
  bool wants_device_times() const override { return device_times_; }
  void kernel_launch(const KernelLaunch& launch) override;
  void compile(const Compile& compile) override;
  void copy(const Copy& copy) override;
  void chunk(const Chunk& chunk) override;

  std::vector<KernelLaunch> kernel_launches() const;
  std::vector<Compile> compiles() const;
  std::vector<Copy> copies() const;
  std::vector<Chunk> chunks() const;

  void clear();

  // Object form, keys in the order displayTimeUnit, traceEvents, mambaScan; times in microseconds with three decimals.
  std::string to_json() const;

 private:
  const bool device_times_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  mutable std::mutex mutex_;
  std::vector<KernelLaunch> kernel_launches_;
  std::vector<Compile> compiles_;
  std::vector<Copy> copies_;
  std::vector<Chunk> chunks_;
};

}  // namespace mamba_scan::trace
