#include "fake_state.h"

#include <cstdlib>
#include <sstream>

namespace fake {
namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

Device parse_device(const std::string& text) {
  const std::vector<std::string> parts = split(text, ':');
  Device device;
  if (parts.size() > 0) device.capability = std::atoi(parts[0].c_str());
  if (parts.size() > 1) device.sm_count = std::atoi(parts[1].c_str());
  if (parts.size() > 2) device.name = parts[2];
  for (std::size_t i = 3; i < parts.size(); ++i) {
    if (parts[i] == "integrated") device.integrated = true;
    if (parts[i] == "watchdog") device.watchdog = true;
    if (parts[i].rfind("kHz", 0) == 0) device.clock_khz = std::atoi(parts[i].c_str() + 3);
  }
  return device;
}

// "cuMemAlloc:2", "cuMemAlloc:2@3", "cuMemAlloc:2@3+"
std::pair<std::string, Failure> parse_failure(const std::string& text) {
  const std::size_t colon = text.find(':');
  const std::size_t at = text.find('@');
  Failure failure;
  failure.result = static_cast<Result>(std::atoi(text.c_str() + colon + 1));
  failure.last = 1LL << 62;
  if (at != std::string::npos) {
    failure.first = std::atoll(text.c_str() + at + 1);
    if (text.back() != '+') failure.last = failure.first;
  }
  return {text.substr(0, colon), failure};
}

void apply(State& s, const std::string& key, const std::string& value) {
  if (key == "version") s.version = std::atoi(value.c_str());
  if (key == "memory") s.memory = static_cast<std::size_t>(std::atoll(value.c_str()));
  if (key == "no_get_proc_address") s.no_get_proc_address = value == "1";
  if (key == "hidden") {
    for (const std::string& name : split(value, ',')) s.hidden.insert(name);
  }
  if (key == "devices") {
    s.devices.clear();
    for (const std::string& device : split(value, ',')) s.devices.push_back(parse_device(device));
  }
  if (key == "fail") {
    for (const std::string& failure : split(value, ',')) s.failures.insert(parse_failure(failure));
  }
}

}  // namespace

// Never destroyed: other libraries' threads and destructors may call until the very end, as with the real driver.
State& state() {
  static State* const instance = [] {
    auto* s = new State;
    const char* settings = std::getenv("MAMBA_SCAN_FAKE_CUDA");
    reset(*s, settings ? settings : "");
    return s;
  }();
  return *instance;
}

void reset(State& s, const std::string& settings) {
  for (const auto& [address, allocation] : s.allocations) {
    ::operator delete(reinterpret_cast<void*>(address), std::align_val_t(256));
  }
  for (const auto& [address, bytes] : s.pinned) ::operator delete(address, std::align_val_t(4096));
  s.version = 13000;
  s.memory = std::size_t{8} << 30;
  s.no_get_proc_address = false;
  s.hidden.clear();
  s.failures.clear();
  s.initialised = false;
  s.on_launch = nullptr;
  s.clock_us = 0;
  s.devices.assign(1, Device{});
  s.allocations.clear();
  s.pinned.clear();
  s.streams.clear();
  s.events.clear();
  s.images.clear();
  s.functions.clear();
  s.streams_made = 0;
  s.calls.clear();
  s.misuse = 0;
  s.journal.clear();
  context_stack().clear();
  for (const std::string& pair : split(settings, ';')) {
    const std::size_t equals = pair.find('=');
    if (equals != std::string::npos) apply(s, pair.substr(0, equals), pair.substr(equals + 1));
  }
  s.contexts.clear();
  for (std::size_t i = 0; i < s.devices.size(); ++i) {
    s.contexts.push_back(std::make_unique<Context>(Context{static_cast<int>(i)}));
  }
}

std::vector<CUcontext>& context_stack() {
  thread_local std::vector<CUcontext> stack;
  return stack;
}

Call::Call(const char* name, Needs needs) : name_(name), state_(state()), lock_(state_.mutex) {
  const long long count = ++state_.calls[name];
  const auto failure = state_.failures.find(name);
  if (failure != state_.failures.end() && count >= failure->second.first && count <= failure->second.last) {
    early_ = failure->second.result;
  } else if (needs != kNothing && !state_.initialised) {
    early_ = Result::kNotInitialized;
  } else if (needs == kContext && (context_stack().empty() || context_stack().back() == nullptr)) {
    early_ = Result::kInvalidContext;
  }
}

void Call::note(const std::string& text) { state_.journal += std::string(name_) + " " + text + "\n"; }

Result Call::misuse(Result result) {
  ++state_.misuse;
  note("MISUSE");
  return result;
}

}  // namespace fake

extern "C" {

FAKE_EXPORT void fake_cuda_reset(const char* settings) {
  fake::State& s = fake::state();
  const std::lock_guard lock(s.mutex);
  fake::reset(s, settings);
}

FAKE_EXPORT const char* fake_cuda_journal() {
  thread_local std::string copy;
  fake::State& s = fake::state();
  const std::lock_guard lock(s.mutex);
  copy = s.journal;
  return copy.c_str();
}

FAKE_EXPORT long long fake_cuda_count(const char* what) {
  fake::State& s = fake::state();
  const std::lock_guard lock(s.mutex);
  const std::string name = what;
  const auto size = [](const auto& container) { return static_cast<long long>(container.size()); };
  long long total = 0;
  if (name == "live_allocations") return size(s.allocations);
  if (name == "live_bytes") {
    for (const auto& [address, allocation] : s.allocations) total += static_cast<long long>(allocation.bytes);
    return total;
  }
  if (name == "live_pinned") return size(s.pinned);
  if (name == "live_streams") return size(s.streams);
  if (name == "live_events") return size(s.events);
  if (name == "live_libraries" || name == "live_modules") {
    for (const auto& [handle, image] : s.images) total += image->library == (name == "live_libraries");
    return total;
  }
  if (name == "retained_contexts") {
    for (const fake::Device& device : s.devices) total += device.retained;
    return total;
  }
  if (name == "pushed_contexts") return size(fake::context_stack());
  if (name == "misuse") return s.misuse;
  return s.calls[name];
}

FAKE_EXPORT void fake_cuda_on_launch(FakeCudaKernel kernel) {
  fake::State& s = fake::state();
  const std::lock_guard lock(s.mutex);
  s.on_launch = kernel;
}

FAKE_EXPORT void fake_cuda_pass_time(double microseconds) {
  fake::State& s = fake::state();
  const std::lock_guard lock(s.mutex);
  s.clock_us += microseconds;
}
}
