// Keeps the calling thread's locale across a call into a library that changes it.
#pragma once

#include <memory>

namespace mamba_scan::platform {

class ThreadLocaleGuard {
 public:
  ThreadLocaleGuard();
  ~ThreadLocaleGuard();
  ThreadLocaleGuard(const ThreadLocaleGuard&) = delete;
  ThreadLocaleGuard& operator=(const ThreadLocaleGuard&) = delete;

 private:
  struct Saved;
  std::unique_ptr<Saved> saved_;
};

}  // namespace mamba_scan::platform
