// Contexts: the device's primary context, and making a context current for a scope.
#pragma once

#include "driver/driver.h"

namespace mamba_scan::driver {

// Keeps a device's primary context (the one torch and cudart use) alive.
class PrimaryContext {
 public:
  PrimaryContext(const Driver& driver, int ordinal);
  ~PrimaryContext();
  PrimaryContext(PrimaryContext&& other) noexcept;
  PrimaryContext(const PrimaryContext&) = delete;
  PrimaryContext& operator=(const PrimaryContext&) = delete;
  PrimaryContext& operator=(PrimaryContext&&) = delete;

  CUcontext get() const { return context_; }

 private:
  const Driver* driver_;
  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
};

// Makes `context` current on this thread until the end of the scope. On the way of every call: where the context is
// current already, which is what torch leaves us, one driver call tells and nothing is pushed.
class ContextGuard {
 public:
  ContextGuard(const Driver& driver, CUcontext context) : driver_(driver) {
    CUcontext current = nullptr;
    driver.check(driver.api().cuCtxGetCurrent(&current), "Asking for the current CUDA context");
    if (current != context) {
      driver.check(driver.api().cuCtxPushCurrent(context), "Making a CUDA context current");
      pushed_ = true;
    }
  }
  ~ContextGuard() {
    CUcontext popped = nullptr;
    if (pushed_) driver_.api().cuCtxPopCurrent(&popped);
  }
  ContextGuard(const ContextGuard&) = delete;
  ContextGuard& operator=(const ContextGuard&) = delete;

 private:
  const Driver& driver_;
  bool pushed_ = false;
};

}  // namespace mamba_scan::driver
