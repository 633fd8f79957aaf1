// mamba-scan cache list|verify|clear, mamba-scan warm
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/text.h"

namespace mamba_scan::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string number_or_dash(const Json& value) { return value.is_null() ? "-" : value.dump(); }

}  // namespace

int cache_list(bool json) {
  const Json report = Json::parse(ops::cache_list_json());
  if (json) {
    std::cout << report.dump(2) << "\n";
    return kDone;
  }
  for (const Json& entry : report.at("entries")) {
    std::cout << entry.at("key").get<std::string>().substr(0, 12) << "  "
              << padded(entry.at("arch").get<std::string>(), 11)
              << padded(bytes_text(entry.at("bytes").get<std::uint64_t>()), 11)
              << local_time(entry.at("last_used").get<double>()) << "  " << entry.at("variant").get<std::string>()
              << "\n";
  }
  std::cout << report.at("entries").size() << " kernels, " << bytes_text(report.at("bytes").get<std::uint64_t>())
            << " in " << report.at("folder").get<std::string>() << "\n";
  return kDone;
}

int cache_verify(bool json) {
  const Json report = Json::parse(ops::cache_verify_json());
  const std::size_t removed = report.at("removed").size();
  if (json) {
    std::cout << report.dump(2) << "\n";
  } else {
    for (const Json& key : report.at("removed")) std::cout << "broken, removed: " << key.get<std::string>() << "\n";
    std::cout << report.at("good") << " of " << report.at("checked") << " kernels are intact in "
              << report.at("folder").get<std::string>() << "\n";
  }
  return removed == 0 ? kDone : kFoundWrong;
}

int cache_clear(bool json) {
  const Json report = Json::parse(ops::cache_clear_json());
  if (json) {
    std::cout << report.dump(2) << "\n";
  } else {
    std::cout << report.at("removed") << " kernels removed, " << bytes_text(report.at("bytes").get<std::uint64_t>())
              << " freed in " << report.at("folder").get<std::string>() << "\n";
  }
  return kDone;
}

int warm(const std::vector<std::string>& archs, bool json) {
  const Json report = Json::parse(ops::warm_json(archs));
  const int failed = report.at("failed").get<int>();
  if (json) {
    std::cout << report.dump(2) << "\n";
    return failed == 0 ? kDone : kFoundWrong;
  }
  for (const Json& kernel : report.at("kernels")) {
    const std::string outcome = kernel.at("outcome").get<std::string>();
    std::cout << padded(kernel.at("arch").get<std::string>(), 11) << padded(outcome, 10);
    if (outcome == "failed") {
      std::cout << kernel.at("variant").get<std::string>() << "\n" << kernel.at("error").get<std::string>() << "\n";
      continue;
    }
    std::cout << padded(fixed(kernel.at("compile_ms").get<double>(), 0) + " ms", 9)
              << padded(number_or_dash(kernel.at("registers")) + " registers", 15)
              << padded(number_or_dash(kernel.at("spill_store_bytes")) + " spilled", 11)
              << kernel.at("variant").get<std::string>() << "\n";
  }
  std::cout << report.at("compiled") << " compiled, " << report.at("from_disk") << " from the cache, " << failed
            << " failed, in " << fixed(report.at("seconds").get<double>(), 1) << " s\n";
  return failed == 0 ? kDone : kFoundWrong;
}

}  // namespace mamba_scan::cli
