#include "kernel_calls.h"

#include "block.h"

namespace emulator {

Dim3 thread_index() { return Block::current()->thread_index(); }
Dim3 block_index() { return Block::current()->block_index(); }
Dim3 block_dim() { return Block::current()->block_dim(); }
Dim3 grid_dim() { return Block::current()->grid_dim(); }
char* dynamic_shared() { return Block::current()->dynamic_shared(); }

unsigned barrier(unsigned id, unsigned count, bool wait, bool predicate, const char* file, int line) {
  return Block::current()->barrier(id, count, wait, predicate, {file, line});
}

void event_init(const void* event, unsigned count, const char* file, int line) {
  Block::current()->event_init(event, count, {file, line});
}
void event_end(const void* event, const char* file, int line) { Block::current()->event_end(event, {file, line}); }
void event_signal(const void* event, const char* file, int line) {
  Block::current()->event_signal(event, {file, line});
}
void event_wait(const void* event, unsigned parity, const char* file, int line) {
  Block::current()->event_wait(event, parity, {file, line});
}
bool event_happened(const void* event, unsigned parity, const char* file, int line) {
  return Block::current()->event_happened(event, parity, {file, line});
}

std::uint64_t collective(Collective operation, unsigned mask, std::uint64_t value, unsigned argument, unsigned width,
                         const char* file, int line) {
  return Block::current()->collective({operation, mask, value, argument, width, {file, line}});
}

void atomic_access(const void* address, std::size_t bytes) {
  Block::current()->yield();
  Block::current()->access(address, bytes, AccessKind::kAtomic, __builtin_return_address(0));
}

void flag_set(unsigned* flag) {
  atomic_access(flag, sizeof *flag);
  Block::current()->publish(flag);
  *flag = 1;
}

void flag_wait(const unsigned* flag) {
  do {
    atomic_access(flag, sizeof *flag);
  } while (*flag == 0);
  Block::current()->follow(flag);
}

void yield() { Block::current()->yield(); }

void fail(const char* what) { Block::current()->fail(what); }

void require_aligned(const void* address, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(address) % bytes != 0)
    Block::current()->fail("an access of " + std::to_string(bytes) + " bytes is not aligned to as many");
}

void async_copy(void* to_shared, const void* from_global, std::size_t bytes) {
  require_aligned(to_shared, bytes);
  require_aligned(from_global, bytes);
  Block::current()->async_copy({to_shared, from_global, bytes, __builtin_return_address(0)});
}

void event_signal_bytes(const void* event, std::size_t bytes, const char* file, int line) {
  Block::current()->event_signal_bytes(event, bytes, {file, line});
}

static AsyncCopy bulk_copy(void* to, const void* from, std::size_t bytes, const void* code) {
  require_aligned(to, kBulkUnit);
  require_aligned(from, kBulkUnit);
  if (bytes % kBulkUnit != 0)
    Block::current()->fail("a bulk copy of " + std::to_string(bytes) + " bytes, which is no multiple of 16");
  return {to, from, bytes, code};
}

void bulk_load(void* to_shared, const void* from_global, std::size_t bytes, const void* event, const char* file,
               int line) {
  Block::current()->bulk_load(bulk_copy(to_shared, from_global, bytes, __builtin_return_address(0)), event,
                              {file, line});
}
void bulk_store(void* to_global, const void* from_shared, std::size_t bytes) {
  Block::current()->bulk_store(bulk_copy(to_global, from_shared, bytes, __builtin_return_address(0)));
}
void bulk_wait() { Block::current()->bulk_wait(); }

void async_commit() { Block::current()->async_commit(); }
void async_wait(std::size_t pending) { Block::current()->async_wait(pending); }

}  // namespace emulator

// GCC and Clang put a call before every memory access of code compiled with -fsanitize=thread. The kernels are
// compiled that way, but these functions, not the sanitizer's library, are what they call.
#define EMULATED_HOOK(NAME, BYTES, KIND)                                                      \
  extern "C" void NAME(void* address) {                                                       \
    if (emulator::Block* block = emulator::Block::current())                                  \
      block->access(address, BYTES, emulator::AccessKind::KIND, __builtin_return_address(0)); \
  }
#define EMULATED_HOOKS(BYTES)                               \
  EMULATED_HOOK(__tsan_read##BYTES, BYTES, kRead)           \
  EMULATED_HOOK(__tsan_write##BYTES, BYTES, kWrite)         \
  EMULATED_HOOK(__tsan_unaligned_read##BYTES, BYTES, kRead) \
  EMULATED_HOOK(__tsan_unaligned_write##BYTES, BYTES, kWrite)

EMULATED_HOOKS(1)
EMULATED_HOOKS(2)
EMULATED_HOOKS(4)
EMULATED_HOOKS(8)
EMULATED_HOOKS(16)

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_read_range(void* address, unsigned long bytes) {
  if (emulator::Block* block = emulator::Block::current())
    block->access(address, bytes, emulator::AccessKind::kRead, __builtin_return_address(0));
}
void __tsan_write_range(void* address, unsigned long bytes) {
  if (emulator::Block* block = emulator::Block::current())
    block->access(address, bytes, emulator::AccessKind::kWrite, __builtin_return_address(0));
}
}
