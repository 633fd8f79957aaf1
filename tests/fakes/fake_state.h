// The fake driver's memory: settings, objects, journal. One lock guards all of it; a driver call holds it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "driver/cuda_types.h"
#include "fake_cuda_hooks.h"

#ifdef _WIN32
#define FAKE_EXPORT __declspec(dllexport)
#else
#define FAKE_EXPORT __attribute__((visibility("default")))
#endif
#define FAKE_ENTRY extern "C" FAKE_EXPORT Result

namespace fake {

using namespace mamba_scan::driver;

struct Device {
  int capability = 90;
  int sm_count = 132;
  std::string name = "Fake GPU";
  bool integrated = false;
  bool watchdog = false;
  int clock_khz = 1980000;
  std::size_t used = 0;
  int retained = 0;  // of the primary context
};

struct Failure {
  Result result = Result::kSuccess;
  long long first = 1;
  long long last = 0;  // inclusive
};

struct Context {
  int device = 0;
};

struct Allocation {
  std::size_t bytes = 0;
  int device = 0;
};

struct Stream {
  int number = 0;
  Context* context = nullptr;
};

struct Event {
  bool timing = true;
  bool recorded = false;
  double time_us = 0;
};

struct Image {
  bool library = false;  // context independent
  int device = -1;       // of a module
  std::string bytes;
};

struct Function {
  std::string name;
  int device = 0;
  int max_dynamic_shared = 48 * 1024;
};

struct State {
  std::mutex mutex;
  int version = 13000;
  std::size_t memory = std::size_t{8} << 30;
  bool no_get_proc_address = false;
  std::set<std::string> hidden;
  std::map<std::string, Failure> failures;
  bool initialised = false;
  FakeCudaKernel on_launch = nullptr;
  double clock_us = 0;

  std::vector<Device> devices;
  std::vector<std::unique_ptr<Context>> contexts;  // primary, one per device
  std::map<std::uintptr_t, Allocation> allocations;
  std::map<void*, std::size_t> pinned;
  std::map<CUstream, std::unique_ptr<Stream>> streams;
  std::map<CUevent, std::unique_ptr<Event>> events;
  std::map<void*, std::unique_ptr<Image>> images;
  std::map<void*, std::unique_ptr<Function>> functions;  // also kernels of libraries
  int streams_made = 0;

  std::map<std::string, long long> calls;
  long long misuse = 0;
  std::string journal;
};

State& state();
void reset(State& state, const std::string& settings);  // the lock is held
std::vector<CUcontext>& context_stack();                // of this thread

// One driver call: takes the lock, counts, and finds out whether the call fails before it does anything.
class Call {
 public:
  enum Needs { kNothing, kInit, kContext };
  Call(const char* name, Needs needs);

  Result early() const { return early_; }
  State& s() { return state_; }
  Context& context() const { return *reinterpret_cast<Context*>(context_stack().back()); }
  Device& device() { return state_.devices[static_cast<std::size_t>(context().device)]; }
  void note(const std::string& text);
  Result misuse(Result result);
  void unlock() { lock_.unlock(); }

 private:
  const char* name_;
  State& state_;
  std::unique_lock<std::mutex> lock_;
  Result early_ = Result::kSuccess;
};

// First lines of every entry point.
#define FAKE_CALL(name, needs)              \
  fake::Call call(name, fake::Call::needs); \
  if (call.early() != Result::kSuccess) return call.early()

}  // namespace fake
