#include "cpu_exp_rate.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#include "cpu/selective_scan.h"
#include "cpu/vector_math.h"

namespace mamba_scan::binding {
namespace {

constexpr std::size_t kCount = 2048;  // two arrays of 8 KiB

std::int64_t evaluate(const std::atomic<bool>& stop) {
  std::vector<float> from(kCount);
  std::vector<float> to(kCount);
  for (std::size_t i = 0; i < kCount; ++i) from[i] = -8.0f * static_cast<float>(i) / kCount;
  std::int64_t evaluated = 0;
  while (!stop.load(std::memory_order_relaxed)) {
    cpu::exp2_bounded(from.data(), to.data(), kCount);
    evaluated += kCount;
  }
  return evaluated;
}

}  // namespace

double cpu_exp_rate(int threads, double seconds) {
  using Clock = std::chrono::steady_clock;
  if (threads <= 0) threads = cpu::default_threads();
  std::atomic<bool> stop{false};
  std::atomic<std::int64_t> evaluated{0};
  std::vector<std::thread> workers;
  const auto begin = Clock::now();
  try {
    for (int i = 0; i < threads; ++i) workers.emplace_back([&] { evaluated += evaluate(stop); });
  } catch (const std::system_error&) {  // there are no more to be had: the rate is of those that run
    if (workers.empty()) throw;
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  stop = true;
  for (std::thread& worker : workers) worker.join();
  return static_cast<double>(evaluated) / std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace mamba_scan::binding
