#include "driver/stream.h"

namespace mamba_scan::driver {

Stream::Stream(const Driver& driver) : driver_(driver) {
  driver.check(driver.api().cuStreamCreate(&stream_, kStreamNonBlocking), "Making a CUDA stream");
}

Stream::~Stream() { driver_.api().cuStreamDestroy(stream_); }

void Stream::synchronize() const {
  driver_.check(driver_.api().cuStreamSynchronize(stream_), "Waiting for a CUDA stream");
}

bool Stream::idle() const {
  const Result result = driver_.api().cuStreamQuery(stream_);
  if (result == Result::kNotReady) return false;
  driver_.check(result, "Asking whether a CUDA stream is idle");
  return true;
}

void Stream::wait_for(const Event& event) const {
  driver_.check(driver_.api().cuStreamWaitEvent(stream_, event.get(), 0), "Letting a CUDA stream wait for an event");
}

}  // namespace mamba_scan::driver
