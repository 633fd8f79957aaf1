#include "fake_state.h"

using namespace mamba_scan::driver;

namespace {

fake::Event* find_event(fake::State& s, CUevent event) {
  const auto found = s.events.find(event);
  return found == s.events.end() ? nullptr : found->second.get();
}

bool known_stream(const fake::State& s, CUstream stream) { return stream == nullptr || s.streams.count(stream) != 0; }

}  // namespace

FAKE_ENTRY cuStreamCreate(CUstream* stream, unsigned flags) {
  FAKE_CALL("cuStreamCreate", kContext);
  if (flags > 1) return Result::kInvalidValue;
  auto made = std::make_unique<fake::Stream>(fake::Stream{++call.s().streams_made, &call.context()});
  *stream = reinterpret_cast<CUstream>(made.get());
  call.note("stream=" + std::to_string(made->number) + " flags=" + std::to_string(flags));
  call.s().streams[*stream] = std::move(made);
  return Result::kSuccess;
}

FAKE_ENTRY cuStreamDestroy_v2(CUstream stream) {
  FAKE_CALL("cuStreamDestroy", kInit);
  return call.s().streams.erase(stream) ? Result::kSuccess : call.misuse(Result::kInvalidHandle);
}

FAKE_ENTRY cuStreamSynchronize(CUstream stream) {
  FAKE_CALL("cuStreamSynchronize", kContext);
  return known_stream(call.s(), stream) ? Result::kSuccess : call.misuse(Result::kInvalidHandle);
}

FAKE_ENTRY cuStreamQuery(CUstream stream) {
  FAKE_CALL("cuStreamQuery", kContext);
  return known_stream(call.s(), stream) ? Result::kSuccess : call.misuse(Result::kInvalidHandle);
}

FAKE_ENTRY cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  FAKE_CALL("cuStreamWaitEvent", kContext);
  if (!known_stream(call.s(), stream) || !find_event(call.s(), event)) return call.misuse(Result::kInvalidHandle);
  call.note("");
  return Result::kSuccess;
}

FAKE_ENTRY cuEventCreate(CUevent* event, unsigned flags) {
  FAKE_CALL("cuEventCreate", kContext);
  auto made = std::make_unique<fake::Event>();
  made->timing = (flags & kEventDisableTiming) == 0;
  *event = reinterpret_cast<CUevent>(made.get());
  call.s().events[*event] = std::move(made);
  return Result::kSuccess;
}

FAKE_ENTRY cuEventDestroy_v2(CUevent event) {
  FAKE_CALL("cuEventDestroy", kInit);
  return call.s().events.erase(event) ? Result::kSuccess : call.misuse(Result::kInvalidHandle);
}

FAKE_ENTRY cuEventRecord(CUevent event, CUstream stream) {
  FAKE_CALL("cuEventRecord", kContext);
  fake::Event* found = find_event(call.s(), event);
  if (!found || !known_stream(call.s(), stream)) return call.misuse(Result::kInvalidHandle);
  found->recorded = true;
  found->time_us = call.s().clock_us;
  call.note("");
  return Result::kSuccess;
}

FAKE_ENTRY cuEventQuery(CUevent event) {
  FAKE_CALL("cuEventQuery", kInit);
  return find_event(call.s(), event) ? Result::kSuccess : call.misuse(Result::kInvalidHandle);
}

FAKE_ENTRY cuEventSynchronize(CUevent event) {
  FAKE_CALL("cuEventSynchronize", kInit);
  return find_event(call.s(), event) ? Result::kSuccess : call.misuse(Result::kInvalidHandle);
}

FAKE_ENTRY cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  FAKE_CALL("cuEventElapsedTime", kInit);
  const fake::Event* from = find_event(call.s(), start);
  const fake::Event* to = find_event(call.s(), end);
  if (!from || !to || !from->timing || !to->timing || !from->recorded || !to->recorded) return Result::kInvalidHandle;
  *milliseconds = static_cast<float>((to->time_us - from->time_us) / 1e3);
  return Result::kSuccess;
}
