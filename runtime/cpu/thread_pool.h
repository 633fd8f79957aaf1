// Threads that wait for work. One set serves the whole process, so that several callers together do not start more
// threads than the machine has use for.
#pragma once

#include <condition_variable>
#include <functional>
#include <list>
#include <mutex>

namespace mamba_scan::cpu {

class ThreadPool {
 public:
  // body(task, slot): `slot` is below the number of threads asked for and belongs to one thread at a time.
  using Body = std::function<void(long long task, int slot)>;

  // The pool of this process. It is never destroyed: its threads sleep until the process ends. A process made by
  // fork() gets a new one, because threads do not survive there.
  static ThreadPool& shared();

  // Calls body for every task in [0, tasks), in ascending order of start, on at most `threads` threads, the caller
  // among them, and returns when all are done. The caller needs no free worker to make progress, so concurrent and
  // nested calls cannot wait for each other in a circle. Throws what the first failing task threw; the tasks not
  // started by then are dropped.
  void run(long long tasks, int threads, const Body& body);

 private:
  struct Job;

  ThreadPool() = default;
  void grow(int workers);
  void serve();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::list<Job*> open_;  // jobs that still take workers
  int workers_ = 0;
};

// How many threads a call with this argument uses at most: itself, or for 0 MAMBA_SCAN_NUM_THREADS, or else the
// processors this process may run on.
int thread_limit(int requested);

}  // namespace mamba_scan::cpu
