#include "fiber.h"

#include <boost/context/detail/fcontext.hpp>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {
namespace context = boost::context::detail;
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStackBytes = 512 * 1024;  // frames with red zones are many times larger
void leave_stack(void** keep, const void* bottom, std::size_t bytes) {
  __sanitizer_start_switch_fiber(keep, bottom, bytes);
}
void enter_stack(void* kept, const void** bottom, std::size_t* bytes) {
  __sanitizer_finish_switch_fiber(kept, bottom, bytes);
}
// An abandoned fiber leaves its frames' red zones behind.
void forget_frames(char* stack) { __asan_unpoison_memory_region(stack, kStackBytes); }
#else
constexpr std::size_t kStackBytes = 128 * 1024;
void leave_stack(void**, const void*, std::size_t) {}
void enter_stack(void*, const void**, std::size_t*) {}
void forget_frames(char*) {}
#endif

constexpr std::uint64_t kCanary = 0x5ca1ab1e0ddba11ULL;

}  // namespace

struct Fiber::Switch {
  static void enter(context::transfer_t from) {
    Fiber* self = static_cast<Fiber*>(from.data);
    enter_stack(nullptr, &self->outside_stack_, &self->outside_bytes_);
    self->outside_ = from.fctx;
    self->body_(self->argument_);
    self->finished_ = true;
    leave_stack(nullptr, self->outside_stack_, self->outside_bytes_);
    context::jump_fcontext(self->outside_, nullptr);
    std::abort();  // a finished fiber is never resumed
  }
};

Fiber::Fiber() : bytes_(kStackBytes), stack_(new char[kStackBytes]) {}

void Fiber::start(void (*body)(void*), void* argument) {
  body_ = body;
  argument_ = argument;
  finished_ = false;
  forget_frames(stack_.get());
  std::memcpy(stack_.get(), &kCanary, sizeof kCanary);
  // The stack grows down from its highest address.
  inside_ = context::make_fcontext(stack_.get() + bytes_, bytes_, &Switch::enter);
}

void Fiber::resume() {
  void* kept = nullptr;
  leave_stack(&kept, stack_.get(), bytes_);
  const context::transfer_t back = context::jump_fcontext(inside_, this);
  enter_stack(kept, nullptr, nullptr);
  inside_ = back.fctx;
}

void Fiber::suspend() {
  void* kept = nullptr;
  leave_stack(&kept, outside_stack_, outside_bytes_);
  const context::transfer_t back = context::jump_fcontext(outside_, nullptr);
  enter_stack(kept, &outside_stack_, &outside_bytes_);
  outside_ = back.fctx;
}

bool Fiber::owns(const void* address) const {
  const std::less<const void*> before;
  return !before(address, stack_.get()) && before(address, stack_.get() + bytes_);
}

bool Fiber::overflowed() const { return std::memcmp(stack_.get(), &kCanary, sizeof kCanary) != 0; }

}  // namespace emulator
