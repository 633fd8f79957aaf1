// The report of what this machine offers. Something missing is an answer here, never an exception.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "ops/control.h"
#include "ops/runtime.h"
#include "platform/environment.h"
#include "platform/files.h"
#include "platform/paths.h"
#include "platform/processors.h"

namespace mamba_scan::ops {
namespace {

using Json = nlohmann::ordered_json;

#if defined(_WIN32)
constexpr const char* kSystem = "windows";
#elif defined(__linux__)
constexpr const char* kSystem = "linux";
#else
constexpr const char* kSystem = "other";
#endif

#if defined(__x86_64__) || defined(_M_X64)
constexpr const char* kMachine = "x86_64";
#elif defined(__aarch64__) || defined(_M_ARM64)
constexpr const char* kMachine = "aarch64";
#else
constexpr const char* kMachine = "other";
#endif

constexpr const char* kVariables[] = {"MAMBA_SCAN_CACHE_DIR",  "MAMBA_SCAN_CACHE_LIMIT", "MAMBA_SCAN_DRIVER",
                                      "MAMBA_SCAN_KERNEL_DIR", "MAMBA_SCAN_LOG",         "MAMBA_SCAN_NUM_THREADS",
                                      "MAMBA_SCAN_NVRTC"};

Json device_json(const driver::DeviceReport& device) {
  return {{"ordinal", device.ordinal},
          {"name", device.name},
          {"capability", device.capability()},
          {"arch", "sm_" + std::to_string(device.capability())},
          {"sm_count", device.sm_count},
          {"max_threads_per_sm", device.max_threads_per_sm},
          {"max_blocks_per_sm", device.max_blocks_per_sm},
          {"registers_per_sm", device.registers_per_sm},
          {"shared_per_block", device.shared_per_block},
          {"shared_per_block_optin", device.shared_per_block_optin},
          {"shared_per_sm", device.shared_per_sm},
          {"l2_bytes", device.l2_bytes},
          {"total_memory", device.total_memory},
          {"free_memory", device.free_memory},
          {"clock_khz", device.clock_khz},
          {"memory_clock_khz", device.memory_clock_khz},
          {"memory_bus_bits", device.memory_bus_bits},
          {"integrated", device.integrated},
          {"watchdog", device.watchdog},
          {"pci_bus_id", device.pci_bus_id}};
}

class Doctor {
 public:
  explicit Doctor(Runtime& runtime) : runtime_(runtime) {}

  std::string examine() {
    report_["package_version"] = package_version();
    report_["platform"] = std::string(kSystem) + " " + kMachine;
    report_["cpu"] = {{"threads", platform::usable_processors()}};
    examine_driver();
    examine_nvrtc();
    examine_cache();
    const jit::KernelSources& sources = runtime_.builder().sources();
    report_["kernel_source"] = {{"origin", sources.origin()}, {"files", sources.files()}};
    Json environment = Json::object();
    for (const char* name : kVariables) {
      if (const auto value = platform::environment_variable(name)) environment[name] = *value;
    }
    report_["environment"] = std::move(environment);
    report_["warnings"] = std::move(warnings_);
    report_["remedies"] = std::move(remedies_);
    // Device names, paths and error texts come from outside: a stray byte must not cost the report.
    return report_.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

 private:
  void warn(const std::string& warning, const std::string& remedy) {
    warnings_.push_back(warning);
    if (!remedy.empty()) remedies_.push_back(remedy);
  }

  void examine_driver() {
    Json devices = Json::array();
    try {
      const driver::Driver& driver = runtime_.driver();
      report_["driver"] = {{"found", true},
                           {"version", driver::version_text(driver.version())},
                           {"path", driver.path()},
                           {"error", nullptr}};
      for (int ordinal = 0; ordinal < driver.device_count(); ++ordinal) {
        devices.push_back(examine_device(driver, ordinal));
      }
    } catch (const Error& error) {
      report_["driver"] = {{"found", false}, {"version", nullptr}, {"path", nullptr}, {"error", error.what()}};
      warn(std::string("No GPU can be used. ") + error.what(), "");
    }
    report_["usable_devices"] = std::count_if(
        working_.begin(), working_.end(), [this](int capability) { return nvrtc_for(capability).choice.has_value(); });
    report_["devices"] = std::move(devices);
  }

  Json examine_device(const driver::Driver& driver, int ordinal) {
    Json answer = {{"ordinal", ordinal}};
    try {
      const driver::DeviceReport report = driver::device_report(driver, ordinal);
      answer = device_json(report);
      if (capability_ == 0) capability_ = report.capability();
      answer = device_json(runtime_.device(ordinal).report);
      answer["error"] = nullptr;
      working_.push_back(report.capability());
      if (report.watchdog) {
        warn("A display hangs on device " + std::to_string(ordinal) + " (" + report.name +
                 "): the system stops kernels that run for about 2 s.",
             "");
      }
    } catch (const Error& error) {
      answer["error"] = error.what();
      warn("Device " + std::to_string(ordinal) + " cannot be used: " + error.what(), "");
    }
    return answer;
  }

  // Looked for once: that means listing folders and opening libraries.
  const jit::NvrtcSearch& nvrtc_for(int capability) {
    const auto known = searches_.find(capability);
    if (known != searches_.end()) return known->second;
    return searches_.emplace(capability, runtime_.builder().search_nvrtc(capability)).first->second;
  }

  void examine_nvrtc() {
    const jit::NvrtcSearch& search = nvrtc_for(capability_);
    Json places = Json::array();
    for (const jit::NvrtcPlace& place : search.places) {
      places.push_back({{"place", place.place}, {"where", place.where}, {"found", place.found}});
    }
    Json nvrtc = {{"found", search.choice.has_value()},
                  {"version", nullptr},
                  {"path", nullptr},
                  {"place", nullptr},
                  {"supported_archs", Json::array()}};
    if (search.choice) {
      nvrtc["version"] = search.choice->facts.version;
      nvrtc["path"] = search.choice->path;
      nvrtc["place"] = search.choice->place;
      for (const int arch : search.choice->facts.archs)
        nvrtc["supported_archs"].push_back("sm_" + std::to_string(arch));
      if (capability_ != 0 && !search.choice->facts.lists(capability_)) {
        warn("NVRTC " + search.choice->facts.version + " does not list this GPU (sm_" + std::to_string(capability_) +
                 "): kernels are compiled to PTX and finished by the driver, which makes the first call slower.",
             "python -m pip install -U nvidia-cuda-nvrtc");
      }
    } else if (capability_ != 0) {
      warn("NVRTC, NVIDIA's run-time compiler, was not found: kernels for the GPU cannot be compiled.", search.remedy);
    }
    nvrtc["places_tried"] = std::move(places);
    nvrtc["error"] = search.choice ? Json() : Json(search.error);
    report_["nvrtc"] = std::move(nvrtc);
  }

  void examine_cache() {
    const jit::DiskCache& cache = runtime_.builder().cache();
    std::uint64_t bytes = 0;
    const std::vector<jit::CacheEntry> entries = cache.list();
    for (const jit::CacheEntry& entry : entries) bytes += entry.bytes;
    std::string problem;
    if (!cache.enabled()) {
      problem = "The kernel cache is off: " +
                std::string(cache.folder().empty() ? "the system names no folder for it." : "its size limit is zero.");
      warn(problem, cache.folder().empty() ? "Set MAMBA_SCAN_CACHE_DIR to a folder." : "Unset MAMBA_SCAN_CACHE_LIMIT.");
    } else if (const std::string why = why_not_writable(cache.folder()); !why.empty()) {
      problem = "The kernel cache " + cache.folder() + " cannot be written (" + why +
                "): every process compiles its kernels again.";
      warn(problem, "Make the folder writable, or set MAMBA_SCAN_CACHE_DIR to one that is.");
    }
    report_["cache"] = {{"folder", cache.folder()},
                        {"entries", entries.size()},
                        {"bytes", bytes},
                        {"limit_bytes", cache.limit_bytes()},
                        {"error", problem.empty() ? Json() : Json(problem)}};
  }

  static std::string why_not_writable(const std::string& folder) {
    const platform::FileStatus made = platform::create_folders(folder);
    if (!made) return made.message;
    const std::string probe = platform::join(folder, "doctor-" + std::to_string(platform::process_id()) + ".probe");
    const platform::FileStatus written = platform::write_file_atomically(probe, "writable");
    platform::remove_file(probe);
    return written ? "" : written.message;
  }

  Runtime& runtime_;
  Json report_;
  Json warnings_ = Json::array();
  Json remedies_ = Json::array();
  int capability_ = 0;                        // of the first device
  std::vector<int> working_;                  // capabilities of those without an error
  std::map<int, jit::NvrtcSearch> searches_;  // by capability
};

}  // namespace

std::string doctor_json() { return Doctor(runtime()).examine(); }

}  // namespace mamba_scan::ops
