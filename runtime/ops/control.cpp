#include "ops/control.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <nlohmann/json.hpp>

#include "ops/plan.h"
#include "ops/runtime.h"
#include "trace/memory_recorder.h"

namespace mamba_scan::ops {
namespace {

using Json = nlohmann::ordered_json;

std::string text_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

double unix_seconds(platform::FileTime time) { return std::chrono::duration<double>(time.time_since_epoch()).count(); }

// "sm_87", "87", "8.7" -> 87
int parse_arch(const std::string& text) {
  std::string digits;
  for (const char c : text.rfind("sm_", 0) == 0 ? text.substr(3) : text) {
    if (c != '.') digits += c;
  }
  const bool is_number =
      !digits.empty() && digits.size() <= 3 && digits.find_first_not_of("0123456789") == std::string::npos;
  const int capability = is_number ? std::stoi(digits) : 0;
  if (capability < 50) {
    throw ArgumentError("arch: got \"" + text + "\", needed a compute capability such as sm_87, 87 or 8.7");
  }
  return capability;
}

std::vector<int> capabilities_to_warm(const std::vector<std::string>& archs) {
  // Also for archs given by name: what the driver accepts decides which NVRTC is used, so that the kernels warmed
  // here are the ones that calls will look for.
  std::string no_device;
  std::vector<int> present;
  try {
    for (const driver::DeviceReport& device : driver::devices(runtime().driver())) {
      const int capability = device.capability();
      if (std::find(present.begin(), present.end(), capability) == present.end()) present.push_back(capability);
    }
  } catch (const driver::DriverError& error) {
    no_device = error.what();
  }
  if (archs.empty()) {
    if (present.empty()) {
      throw Error("There is no CUDA device to compile for: " + no_device +
                  " Name an architecture to compile ahead for another machine, e.g. sm_87.");
    }
    return present;
  }
  std::vector<int> wanted;
  for (const std::string& arch : archs) wanted.push_back(parse_arch(arch));
  return wanted;
}

const char* outcome_name(jit::BuildOutcome outcome) {
  switch (outcome) {
    case jit::BuildOutcome::kMemory:
      return "memory";
    case jit::BuildOutcome::kDisk:
      return "disk";
    case jit::BuildOutcome::kCompiled:
      return "compiled";
  }
  return "?";
}

// What -1 stands for in BinaryInfo is null here.
Json known(std::int64_t value) { return value < 0 ? Json() : Json(value); }

Json kernel_json(const jit::Variant& variant, int capability, const jit::BuildResult& result) {
  Json kernel = {{"variant", variant.name()}, {"arch", "sm_" + std::to_string(capability)}};
  if (!result.binary) {
    kernel["outcome"] = "failed";
    kernel["error"] = result.error;
    return kernel;
  }
  const jit::BinaryInfo& info = result.binary->info;
  kernel["arch"] = info.arch;
  kernel["outcome"] = outcome_name(result.binary->outcome);
  kernel["compile_ms"] = info.compile_ms;
  kernel["registers"] = known(info.registers);
  kernel["shared_bytes"] = known(info.shared_bytes);
  kernel["local_bytes"] = known(info.local_bytes);
  kernel["spill_store_bytes"] = known(info.spill_store_bytes);
  kernel["spill_load_bytes"] = known(info.spill_load_bytes);
  kernel["nvrtc_version"] = info.nvrtc_version;
  kernel["error"] = nullptr;
  return kernel;
}

// The recordings of this process. Calls on other threads may still report to a recorder that has been detached, so
// none is ever destroyed; a detached one holds no more than those late reports.
class Recordings {
 public:
  void start(bool device_times) {
    const std::lock_guard lock(mutex_);
    if (active_) throw Error("A recording is running already: stop it before the next one starts.");
    active_ = new trace::MemoryRecorder(device_times);
    previous_ = runtime().exchange_recorder(active_);
  }
  std::string stop() {
    const std::lock_guard lock(mutex_);
    if (!active_) throw Error("No recording is running: start one first.");
    runtime().exchange_recorder(previous_);
    std::string json = active_->to_json();
    active_->clear();
    retired_.push_back(active_);
    active_ = nullptr;
    return json;
  }

 private:
  std::mutex mutex_;
  trace::MemoryRecorder* active_ = nullptr;
  trace::Recorder* previous_ = nullptr;
  std::vector<trace::MemoryRecorder*> retired_;
};

Recordings& recordings() {
  static Recordings* const instance = new Recordings;
  return *instance;
}

}  // namespace

std::string package_version() { return MAMBA_SCAN_VERSION; }

std::string cache_list_json() {
  const jit::DiskCache& cache = runtime().builder().cache();
  Json entries = Json::array();
  std::uint64_t bytes = 0;
  for (const jit::CacheEntry& entry : cache.list()) {
    bytes += entry.bytes;
    entries.push_back({{"key", entry.key},
                       {"variant", entry.info.variant},
                       {"arch", entry.info.arch},
                       {"bytes", entry.bytes},
                       {"registers", known(entry.info.registers)},
                       {"shared_bytes", known(entry.info.shared_bytes)},
                       {"spill_store_bytes", known(entry.info.spill_store_bytes)},
                       {"compile_ms", entry.info.compile_ms},
                       {"nvrtc_version", entry.info.nvrtc_version},
                       {"created", unix_seconds(entry.created)},
                       {"last_used", unix_seconds(entry.last_used)}});
  }
  return text_of({{"folder", cache.folder()}, {"bytes", bytes}, {"entries", std::move(entries)}});
}

std::string cache_verify_json() {
  jit::DiskCache& cache = runtime().builder().cache();
  const jit::CacheVerification result = cache.verify();
  return text_of(
      {{"folder", cache.folder()}, {"checked", result.checked}, {"good", result.good}, {"removed", result.removed}});
}

std::string cache_clear_json() {
  jit::DiskCache& cache = runtime().builder().cache();
  const jit::CacheRemoval result = cache.clear();
  return text_of({{"folder", cache.folder()}, {"removed", result.entries}, {"bytes", result.bytes}});
}

std::string warm_json(const std::vector<std::string>& archs) {
  const auto start = std::chrono::steady_clock::now();
  Json names = Json::array(), kernels = Json::array();
  int compiled = 0, from_disk = 0, failed = 0;
  for (const int capability : capabilities_to_warm(archs)) {
    names.push_back("sm_" + std::to_string(capability));
    const std::vector<jit::Variant> variants = shipped_variants(capability);
    const std::vector<jit::BuildResult> results = runtime().builder().build_many(variants, capability);
    for (std::size_t i = 0; i < variants.size(); ++i) {
      const std::optional<jit::Binary>& binary = results[i].binary;
      failed += !binary;
      from_disk += binary && binary->outcome == jit::BuildOutcome::kDisk;
      compiled += binary && binary->outcome == jit::BuildOutcome::kCompiled;
      kernels.push_back(kernel_json(variants[i], capability, results[i]));
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return text_of({{"archs", std::move(names)},
                  {"compiled", compiled},
                  {"from_disk", from_disk},
                  {"failed", failed},
                  {"seconds", seconds},
                  {"kernels", std::move(kernels)}});
}

void add_nvrtc_search_folder(const std::string& folder) { runtime().builder().add_search_folder(folder); }

void start_recording(bool device_times) { recordings().start(device_times); }

double recording_now_us() {
  const trace::Recorder* recorder = runtime().recorder();
  return recorder != nullptr ? recorder->now_us() : -1;
}

void report_chunk(std::int64_t index, std::int64_t first_step, std::int64_t steps, double start_us) {
  if (trace::Recorder* recorder = runtime().recorder())
    recorder->chunk({index, first_step, steps, start_us, recorder->now_us() - start_us});
}

std::string stop_recording_json() { return recordings().stop(); }

}  // namespace mamba_scan::ops
