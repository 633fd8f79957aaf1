// A point in a stream: to wait for, or to take times between.
#pragma once

#include "driver/driver.h"

namespace mamba_scan::driver {

class Event {
 public:
  enum class Kind { kOrdering, kTiming };  // ordering alone costs the device less

  // The device's context must be current when it is made.
  Event(const Driver& driver, Kind kind);
  ~Event();
  Event(Event&& other) noexcept;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  Event& operator=(Event&&) = delete;

  CUevent get() const { return event_; }
  void record(CUstream stream) const;
  bool reached() const;
  void synchronize() const;

 private:
  const Driver* driver_;
  CUevent event_ = nullptr;
};

// Both events have been recorded and reached; both are kTiming.
double elapsed_us(const Driver& driver, const Event& start, const Event& end);

}  // namespace mamba_scan::driver
