// One kernel thread's stack and registers, on Boost.Context.
#pragma once

#include <cstddef>
#include <memory>

namespace emulator {

// Kernel code holds nothing that needs a destructor, so a fiber may be abandoned anywhere and started afresh:
// that is how a failed launch stops without unwinding through instrumented kernel code.
class Fiber {
 public:
  Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void start(void (*body)(void*), void* argument);  // runs at the next resume()
  void resume();                                    // until the body suspends or returns
  void suspend();                                   // called from inside the body

  bool finished() const { return finished_; }
  bool owns(const void* address) const;  // lies on this stack
  bool overflowed() const;               // the far end of the stack was written

 private:
  struct Switch;
  std::size_t bytes_;
  std::unique_ptr<char[]> stack_;
  void* inside_ = nullptr;   // where the body continues
  void* outside_ = nullptr;  // where resume() continues
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  bool finished_ = true;
  // AddressSanitizer must know which stack is in use.
  const void* outside_stack_ = nullptr;
  std::size_t outside_bytes_ = 0;
};

}  // namespace emulator
