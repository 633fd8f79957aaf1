// One block of threads, run thread by thread: every thread is a fiber that runs until it must wait for others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "access_checker.h"
#include "fiber.h"
#include "kernel_calls.h"
#include "kernel_image.h"
#include "launch.h"

namespace emulator {

// Where in the kernel text a thread stands.
struct Place {
  const char* file = "";
  int line = 0;
  bool operator==(const Place& other) const;
  std::string text() const;  // "forward.cu:120"
};

// A call in which the lanes of a warp named by `mask` take part together.
struct CollectiveCall {
  Collective operation;
  unsigned mask;
  std::uint64_t value;  // the lane's contribution, as bits
  unsigned argument;    // source lane, delta or lane mask of a shuffle
  unsigned width;       // of a shuffle's segments
  Place place;
};

constexpr std::size_t kBulkUnit = 16;  // bytes that bulk copies are multiples of

// A copy to or from shared memory that goes on while its thread does something else.
struct AsyncCopy {
  void* to;
  const void* from;
  std::size_t bytes;
  const void* code;
};

class Block {
 public:
  Block(const KernelImage& kernel, const Launch& launch, Dim3 index, void** arguments, char* dynamic_shared,
        std::vector<std::unique_ptr<Fiber>>& fibers, AccessChecker& checker);

  // Returns when every thread has left the kernel. Throws EmulationError.
  void run();

  // The block that is running on this thread of the host; null outside a launch.
  static Block* current();

  // Called by the running thread of the kernel.
  Dim3 thread_index() const;
  Dim3 block_index() const { return index_; }
  Dim3 block_dim() const { return launch_.block; }
  Dim3 grid_dim() const { return launch_.grid; }
  char* dynamic_shared() const { return dynamic_shared_; }
  // All `count` arrivals (0: the whole block) release the waiting threads; returns how many of them had a true
  // predicate. A thread with wait = false only arrives.
  unsigned barrier(unsigned id, unsigned count, bool wait, bool predicate, Place place);
  // An event has happened when `count` threads have signalled; those that wait name the parity of the times it has.
  void event_init(const void* event, unsigned count, Place place);
  void event_end(const void* event, Place place);
  void event_signal(const void* event, Place place);
  void event_wait(const void* event, unsigned parity, Place place);
  bool event_happened(const void* event, unsigned parity, Place place);
  // A flag in global memory, by which blocks know what others have done.
  void publish(const void* flag) { checker_.publish(running_, flag); }
  void follow(const void* flag) { checker_.follow(running_, flag); }
  // Besides, an event may await bytes of bulk copies that the signals named, in either order.
  void event_signal_bytes(const void* event, std::size_t bytes, Place place);
  void bulk_load(const AsyncCopy& copy, const void* event, Place place);
  void bulk_store(const AsyncCopy& copy);
  void bulk_wait();
  std::uint64_t collective(const CollectiveCall& call);
  void access(const void* address, std::size_t bytes, AccessKind kind, const void* code);
  void async_copy(const AsyncCopy& copy);
  void async_commit();
  void async_wait(std::size_t pending);
  void yield();  // lets the others run: in loops that wait for a value in memory
  [[noreturn]] void fail(const std::string& what);

 private:
  enum class State { kReady, kAtBarrier, kInCollective, kLeft };
  struct Thread {
    State state = State::kReady;
    bool yielded = false;
    bool for_event = false;  // it waits for
    unsigned barrier_id = 0;
    Place place;
    CollectiveCall call{};
    std::uint64_t result = 0;
    std::vector<std::vector<AsyncCopy>> copies{1};  // by group; the last one is open
    std::vector<AsyncCopy> stores;                  // in bulk
  };
  struct Barrier {
    unsigned expected = 0;
    unsigned arrived = 0;
    unsigned predicates = 0;
    Place place;
    unsigned first = 0;
    std::vector<unsigned> arrivals, waiting;
  };
  struct Event {
    unsigned count = 0, signalled = 0, happened = 0;
    AccessChecker::Past past[2];    // of the times of either parity
    std::ptrdiff_t awaited = 0;     // bytes that signals have named and no copy has brought yet
    std::vector<AsyncCopy> copies;  // that nobody has waited for yet
  };
  struct Sweep {
    bool ran = false, moved = false;  // any thread; any but to wait in a loop
  };

  static void thread_body(void* block);
  void shuffle_order(std::vector<unsigned>& order);
  Sweep sweep(std::span<const unsigned> threads);  // a turn for each that is ready
  void resume(unsigned t);
  Event& event_at(const void* event, Place place);
  void signal(Event& event);
  void follow(Event& event, unsigned parity);
  void let_happen(Event& event);
  void access_all(const void* begin, std::size_t bytes, AccessKind kind, const void* code);
  void begin_copy(const AsyncCopy& copy);
  void end_copy(const AsyncCopy& copy);
  void complete_barrier(Barrier& barrier);
  bool collective_is_complete(unsigned warp, const CollectiveCall& call) const;
  void complete_collective(unsigned warp, const CollectiveCall& call);
  unsigned source_lane(const CollectiveCall& call, unsigned lane) const;
  std::uint64_t reduce(unsigned warp, const CollectiveCall& call, unsigned lane) const;
  std::string describe(unsigned thread) const;
  std::string describe_all() const;

  const KernelImage& kernel_;
  const Launch& launch_;
  Dim3 index_;
  void** arguments_;
  char* dynamic_shared_;
  std::vector<std::unique_ptr<Fiber>>& fibers_;  // at least one per thread
  AccessChecker& checker_;
  std::vector<Thread> threads_;
  std::size_t left_ = 0;  // of the threads, the kernel
  Barrier barriers_[16];
  std::map<const void*, Event> events_;
  unsigned running_ = 0;
  std::optional<std::string> failure_;
  std::mt19937 random_;
};

}  // namespace emulator
