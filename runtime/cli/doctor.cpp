// mamba-scan doctor
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/text.h"

namespace mamba_scan::cli {
namespace {

using Json = nlohmann::ordered_json;

void line(const std::string& label, const std::string& text) { std::cout << padded(label, 16) << text << "\n"; }

void show_device(const Json& device) {
  const std::string label = "device " + std::to_string(device.at("ordinal").get<int>());
  if (!device.contains("name")) {
    line(label, device.at("error").get<std::string>());
    return;
  }
  std::string text = device.at("name").get<std::string>() + ", " + device.at("arch").get<std::string>() + ", " +
                     std::to_string(device.at("sm_count").get<int>()) + " SMs, " +
                     bytes_text(device.at("total_memory").get<std::uint64_t>());
  const auto free = device.at("free_memory").get<std::uint64_t>();
  if (free != 0) text += " (" + bytes_text(free) + " free)";
  if (device.at("integrated").get<bool>()) text += ", memory shared with the CPU";
  if (device.at("watchdog").get<bool>()) text += ", display attached";
  line(label, text);
}

void show(const Json& report) {
  line("mamba_scan", report.at("package_version").get<std::string>() + ", " + report.at("platform").get<std::string>() +
                         ", " + std::to_string(report.at("cpu").at("threads").get<unsigned>()) + " CPU threads");
  const Json& driver = report.at("driver");
  line("driver", driver.at("found").get<bool>()
                     ? "CUDA " + driver.at("version").get<std::string>() + ", " + driver.at("path").get<std::string>()
                     : "none");
  for (const Json& device : report.at("devices")) show_device(device);

  const Json& nvrtc = report.at("nvrtc");
  if (nvrtc.at("found").get<bool>()) {
    line("NVRTC", nvrtc.at("version").get<std::string>() + ", " + nvrtc.at("path").get<std::string>());
    std::string archs;
    for (const Json& arch : nvrtc.at("supported_archs")) archs.append(arch.get<std::string>()).append(" ");
    line("  compiles for", archs);
  } else {
    line("NVRTC", "not found; looked in");
    for (const Json& place : nvrtc.at("places_tried")) {
      const std::string where = place.at("where").get<std::string>();
      line("", place.at("place").get<std::string>() + (where.empty() ? "" : ": " + where) + ": " +
                   place.at("found").get<std::string>());
    }
  }

  const Json& cache = report.at("cache");
  line("kernel cache", cache.at("folder").get<std::string>() + ", " +
                           std::to_string(cache.at("entries").get<std::size_t>()) + " kernels, " +
                           bytes_text(cache.at("bytes").get<std::uint64_t>()) + " of " +
                           bytes_text(cache.at("limit_bytes").get<std::uint64_t>()));
  line("kernel source", report.at("kernel_source").at("origin").get<std::string>());
  for (const auto& [name, value] : report.at("environment").items()) {
    line("environment", name + "=" + value.get<std::string>());
  }
  for (const Json& warning : report.at("warnings")) std::cout << "\nwarning: " << warning.get<std::string>() << "\n";
  for (const Json& remedy : report.at("remedies")) std::cout << "try:     " << remedy.get<std::string>() << "\n";
}

}  // namespace

int doctor(bool json, bool require_gpu) {
  const std::string text = ops::doctor_json();
  const Json report = Json::parse(text);
  if (json) {
    std::cout << report.dump(2) << "\n";
  } else {
    show(report);
  }
  return require_gpu && report.at("usable_devices").get<int>() == 0 ? kFoundWrong : kDone;
}

}  // namespace mamba_scan::cli
