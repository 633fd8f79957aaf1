// Records for the length of a scope.
#pragma once

#include "trace/recorder.h"

namespace mamba_scan::trace {

// Host is what reports (ops::Runtime): Recorder* exchange_recorder(Recorder*). Whatever recorded before does so again
// afterwards. Calls that other threads began inside the scope must have returned before the recorder dies.
template <class Host>
class ScopedRecording {
 public:
  ScopedRecording(Host& host, Recorder& recorder) : host_(host), previous_(host.exchange_recorder(&recorder)) {}
  ~ScopedRecording() { host_.exchange_recorder(previous_); }
  ScopedRecording(const ScopedRecording&) = delete;
  ScopedRecording& operator=(const ScopedRecording&) = delete;

 private:
  Host& host_;
  Recorder* previous_;
};

}  // namespace mamba_scan::trace
