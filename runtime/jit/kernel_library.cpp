#include "jit/kernel_library.h"

#include <atomic>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "driver/library.h"
#include "jit/builder.h"
#include "jit/jit_error.h"
#include "trace/recorder.h"

namespace mamba_scan::jit {
namespace {

struct Key {
  Variant variant;
  int ordinal = 0;
};

// What a lookup has at hand; nothing is copied unless the entry is new.
struct KeyView {
  const Variant& variant;
  int ordinal;
};

struct KeyHash {
  using is_transparent = void;

  std::size_t operator()(const KeyView& key) const {
    std::size_t hash = static_cast<std::size_t>(key.ordinal);
    mix(hash, key.variant.source);
    mix(hash, key.variant.entry);
    for (const auto& [name, value] : key.variant.defines) {
      mix(hash, name);
      mix(hash, value);
    }
    return hash;
  }
  std::size_t operator()(const Key& key) const { return (*this)(KeyView{key.variant, key.ordinal}); }

 private:
  static void mix(std::size_t& hash, std::string_view text) {
    hash = (hash ^ std::hash<std::string_view>()(text)) * 0x9e3779b97f4a7c15ull;
  }
};

struct KeyEqual {
  using is_transparent = void;
  template <class A, class B>
  bool operator()(const A& a, const B& b) const {
    return a.ordinal == b.ordinal && a.variant == b.variant;
  }
};

// Whether the driver will say the same of this binary for as long as the process runs.
bool is_final(driver::Result result) {
  return result == driver::Result::kInvalidImage || result == driver::Result::kNoBinaryForGpu ||
         result == driver::Result::kInvalidPtx || result == driver::Result::kUnsupportedPtxVersion;
}

struct Entry {
  std::mutex mutex;  // held while the kernel is made: others who want this one wait, and only they
  std::atomic<bool> ready{false};
  std::exception_ptr failure;
  std::optional<driver::Library> library;
  LoadedKernel loaded;
  std::atomic<trace::Recorder*> told{nullptr};  // has heard that the kernel is in memory
};

}  // namespace

struct KernelLibrary::Impl {
  Impl(const driver::Driver& driver, Builder& builder) : driver(driver), builder(builder) {}

  const driver::Driver& driver;
  Builder& builder;
  std::atomic<trace::Recorder*> recorder{nullptr};
  std::mutex mutex;  // guards the map, not the entries
  std::unordered_map<Key, std::unique_ptr<Entry>, KeyHash, KeyEqual> entries;

  Entry& entry(const Variant& variant, int ordinal) {
    const std::lock_guard lock(mutex);
    const auto found = entries.find(KeyView{variant, ordinal});
    if (found != entries.end()) return *found->second;
    return *entries.emplace(Key{variant, ordinal}, std::make_unique<Entry>()).first->second;
  }

  void make(Entry& entry, const Variant& variant, const driver::DeviceReport& device) {
    Binary binary = builder.build(variant, device.capability());
    const std::string what = variant.name() + " for " + binary.info.arch + " on " + device.name;
    entry.library.emplace(driver, binary.bytes, binary.info.is_ptx, what);
    const std::string& symbol = binary.info.entry.empty() ? variant.entry : binary.info.entry;
    entry.loaded.kernel = entry.library->kernel(symbol);
    entry.loaded.info = std::move(binary.info);
  }

  void tell_found_in_memory(Entry& entry) {
    trace::Recorder* listener = recorder.load(std::memory_order_acquire);
    if (!listener || entry.told.exchange(listener, std::memory_order_acq_rel) == listener) return;
    trace::Compile report;
    report.variant = entry.loaded.info.variant;
    report.arch = entry.loaded.info.arch;
    report.outcome = "memory";
    report.start_us = listener->now_us();
    report.compile_ms = entry.loaded.info.compile_ms;
    listener->compile(report);
  }
};

KernelLibrary::KernelLibrary(const driver::Driver& driver, Builder& builder)
    : impl_(std::make_unique<Impl>(driver, builder)) {}

KernelLibrary::~KernelLibrary() = default;

void KernelLibrary::set_recorder(trace::Recorder* recorder) {
  impl_->recorder.store(recorder, std::memory_order_release);
}

const LoadedKernel& KernelLibrary::get(const Variant& variant, const driver::DeviceReport& device) {
  Entry& entry = impl_->entry(variant, device.ordinal);
  if (!entry.ready.load(std::memory_order_acquire)) {
    const std::lock_guard lock(entry.mutex);
    if (entry.failure) std::rethrow_exception(entry.failure);
    if (!entry.ready.load(std::memory_order_relaxed)) {
      try {
        impl_->make(entry, variant, device);
      } catch (const driver::DriverError& error) {
        entry.library.reset();
        if (is_final(error.result())) entry.failure = std::current_exception();
        throw;
      } catch (const CompileError&) {
        entry.failure = std::current_exception();
        throw;
      }
      // The builder has just reported this one itself.
      entry.told.store(impl_->recorder.load(std::memory_order_acquire), std::memory_order_relaxed);
      entry.ready.store(true, std::memory_order_release);
      return entry.loaded;
    }
  }
  impl_->tell_found_in_memory(entry);
  return entry.loaded;
}

}  // namespace mamba_scan::jit
