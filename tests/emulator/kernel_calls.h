// What emulated kernel code calls in the emulator. Implemented apart from the kernels, whose code is instrumented.
#pragma once

#include <cstddef>
#include <cstdint>

#include "launch.h"

namespace emulator {

enum class Collective {
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kBallot,
  kAny,
  kAll,
  kMatchAny,
  kSyncWarp,
  kReduceAdd,
  kReduceMin,
  kReduceMax,
};

Dim3 thread_index();
Dim3 block_index();
Dim3 block_dim();
Dim3 grid_dim();
char* dynamic_shared();

// `count` 0: the whole block. Returns how many predicates were true.
unsigned barrier(unsigned id, unsigned count, bool wait, bool predicate, const char* file, int line);
void event_init(const void* event, unsigned count, const char* file, int line);
void event_end(const void* event, const char* file, int line);
void event_signal(const void* event, const char* file, int line);
void event_wait(const void* event, unsigned parity, const char* file, int line);
bool event_happened(const void* event, unsigned parity, const char* file, int line);
std::uint64_t collective(Collective operation, unsigned mask, std::uint64_t value, unsigned argument, unsigned width,
                         const char* file, int line);
// To be called before an atomic operation; other threads get their turn first, so that waiting loops end.
void atomic_access(const void* address, std::size_t bytes);
void flag_set(unsigned* flag);
void flag_wait(const unsigned* flag);
void yield();
[[noreturn]] void fail(const char* what);
void require_aligned(const void* address, std::size_t bytes);
// Copies by the running thread, in groups: waiting leaves at most `pending` of the latest groups under way.
void async_copy(void* to_shared, const void* from_global, std::size_t bytes);
void event_signal_bytes(const void* event, std::size_t bytes, const char* file, int line);
void bulk_load(void* to_shared, const void* from_global, std::size_t bytes, const void* event, const char* file,
               int line);
void bulk_store(void* to_global, const void* from_shared, std::size_t bytes);
void bulk_wait();
void async_commit();
void async_wait(std::size_t pending);

}  // namespace emulator
