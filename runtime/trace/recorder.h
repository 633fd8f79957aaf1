// What ops, jit and streaming report. A recorder is optional; with none attached a report costs one pointer test.
#pragma once

#include <cstdint>
#include <string>

namespace mamba_scan::trace {

// All times are microseconds since the recorder's start, on the host's steady clock unless said otherwise.
struct KernelLaunch {
  std::string variant;
  std::string shape;  // "batch=1 seqlen=2048 dim=1536 dstate=16"
  std::string dtype;
  int device = 0;
  std::uintptr_t stream = 0;
  unsigned grid[3] = {1, 1, 1};
  unsigned block[3] = {1, 1, 1};
  unsigned shared_bytes = 0;
  int registers = -1;
  std::int64_t bytes = 0;  // device memory that must move: every input read once, every output written once
  std::int64_t exps = 0;   // exponentials that must be evaluated
  double host_start_us = 0;
  double host_duration_us = 0;
  double device_duration_us = -1;  // from events; -1: not measured
};

struct Compile {
  std::string variant;
  std::string arch;
  std::string outcome;  // "memory", "disk", "compiled", "failed"
  std::string key;      // cache key, hex
  double start_us = 0;
  double duration_us = 0;
  double compile_ms = 0;
  std::string log;
};

struct Copy {
  std::string direction;  // "host_to_device", "device_to_host", "device_to_device"
  std::int64_t bytes = 0;
  double start_us = 0;
  double duration_us = 0;
};

struct Chunk {
  std::int64_t index = 0;
  std::int64_t first_step = 0;
  std::int64_t steps = 0;
  double start_us = 0;
  double duration_us = 0;
};

class Recorder {
 public:
  virtual ~Recorder() = default;
  virtual double now_us() const = 0;
  // Then every kernel is launched between two events and waited for: right times, but nothing overlaps any more.
  virtual bool wants_device_times() const { return false; }
  virtual void kernel_launch(const KernelLaunch&) = 0;
  virtual void compile(const Compile&) = 0;
  virtual void copy(const Copy&) = 0;
  virtual void chunk(const Chunk&) = 0;
};

}  // namespace mamba_scan::trace
