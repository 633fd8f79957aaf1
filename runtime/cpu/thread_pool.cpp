#include "cpu/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <exception>
#include <string>
#include <system_error>
#include <thread>

#include "platform/environment.h"
#include "platform/log.h"
#include "platform/processors.h"

namespace mamba_scan::cpu {

// Lives on the stack of run(); every field but `next` is guarded by the pool's mutex.
struct ThreadPool::Job {
  const Body& body;
  const long long tasks;
  int places;  // workers that may still join
  std::atomic<long long> next{0};
  int joined = 0;
  int active = 0;
  std::condition_variable idle{};
  std::exception_ptr error{};

  void work(int slot, std::mutex& mutex) {
    try {
      for (long long task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) body(task, slot);
    } catch (...) {
      next.store(tasks, std::memory_order_relaxed);
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  }
};

ThreadPool& ThreadPool::shared() {
  struct Owned {
    ThreadPool pool;
    unsigned long process;
  };
  static std::atomic<Owned*> current{nullptr};
  const unsigned long process = platform::process_id();
  Owned* owned = current.load(std::memory_order_acquire);
  // No lock here: the thread that held it might not exist in a forked process. A loser's pool has no threads yet.
  while (!owned || owned->process != process) {
    auto* fresh = new Owned{{}, process};
    if (current.compare_exchange_strong(owned, fresh, std::memory_order_acq_rel)) return fresh->pool;
    delete fresh;
  }
  return owned->pool;
}

void ThreadPool::run(long long tasks, int threads, const Body& body) {
  const long long workers = std::min<long long>(threads, tasks) - 1;
  if (workers <= 0) {
    for (long long task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  Job job{.body = body, .tasks = tasks, .places = static_cast<int>(workers)};
  std::list<Job*> entry{&job};
  {
    const std::lock_guard lock(mutex_);
    grow(job.places);
    open_.splice(open_.end(), entry);
  }
  for (long long i = 0; i < workers; ++i) wake_.notify_one();
  job.work(0, mutex_);
  std::unique_lock lock(mutex_);
  if (job.places > 0) open_.remove(&job);
  job.idle.wait(lock, [&] { return job.active == 0; });
  lock.unlock();
  if (job.error) std::rethrow_exception(job.error);
}

void ThreadPool::grow(int workers) {
  while (workers_ < workers) {
    try {
      std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
      return;  // the system gives no more threads: those there are, and the caller, do the work
    }
    ++workers_;
  }
}

void ThreadPool::serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return !open_.empty(); });
    Job& job = *open_.front();
    const int slot = ++job.joined;
    ++job.active;
    if (--job.places == 0) open_.pop_front();
    lock.unlock();
    job.work(slot, mutex_);
    lock.lock();
    if (--job.active == 0) job.idle.notify_one();
  }
}

int thread_limit(int requested) {
  if (requested > 0) return requested;
  if (const auto text = platform::environment_variable("MAMBA_SCAN_NUM_THREADS")) {
    int value = 0;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (error == std::errc() && end == text->data() + text->size() && value > 0) return value;
    platform::warn_once("MAMBA_SCAN_NUM_THREADS", "MAMBA_SCAN_NUM_THREADS=" + *text +
                                                      " is not a number of threads, 1 or more; using all processors");
  }
  static const int processors = platform::usable_processors();
  return processors;
}

}  // namespace mamba_scan::cpu
