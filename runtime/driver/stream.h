// A stream of our own (callers usually bring theirs).
#pragma once

#include "driver/driver.h"
#include "driver/event.h"

namespace mamba_scan::driver {

// Does not wait for the default stream. The device's context must be current when it is made.
class Stream {
 public:
  explicit Stream(const Driver& driver);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  CUstream get() const { return stream_; }
  void synchronize() const;
  bool idle() const;                        // everything enqueued has run
  void wait_for(const Event& event) const;  // what is enqueued from now on waits, the host does not

 private:
  const Driver& driver_;
  CUstream stream_ = nullptr;
};

}  // namespace mamba_scan::driver
