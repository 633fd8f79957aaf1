#include "driver/event.h"

#include <utility>

namespace mamba_scan::driver {

Event::Event(const Driver& driver, Kind kind) : driver_(&driver) {
  driver.check(driver.api().cuEventCreate(&event_, kind == Kind::kTiming ? kEventDefault : kEventDisableTiming),
               "Making a CUDA event");
}

Event::Event(Event&& other) noexcept : driver_(other.driver_), event_(std::exchange(other.event_, nullptr)) {}

Event::~Event() {
  if (event_) driver_->api().cuEventDestroy(event_);
}

void Event::record(CUstream stream) const {
  driver_->check(driver_->api().cuEventRecord(event_, stream), "Recording a CUDA event");
}

bool Event::reached() const {
  const Result result = driver_->api().cuEventQuery(event_);
  if (result == Result::kNotReady) return false;
  driver_->check(result, "Asking whether a CUDA event was reached");
  return true;
}

void Event::synchronize() const {
  driver_->check(driver_->api().cuEventSynchronize(event_), "Waiting for a CUDA event");
}

double elapsed_us(const Driver& driver, const Event& start, const Event& end) {
  float milliseconds = 0;
  driver.check(driver.api().cuEventElapsedTime(&milliseconds, start.get(), end.get()),
               "Taking the time between two CUDA events");
  return 1000.0 * milliseconds;
}

}  // namespace mamba_scan::driver
