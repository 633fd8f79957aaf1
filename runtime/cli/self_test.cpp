// mamba-scan scan --self-test
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/text.h"

namespace mamba_scan::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string error_text(const Json& value) { return value.is_null() ? "not a number" : scientific(value.get<double>()); }

void show_problem(const Json& problem) {
  std::cout << "  " << (problem.at("passed").get<bool>() ? "ok    " : "FAILED") << " y "
            << padded(error_text(problem.at("relative_error_y")), 8) << " (limit "
            << scientific(problem.at("tolerance_y").get<double>()) << ")  state "
            << padded(error_text(problem.at("relative_error_state")), 8) << "  "
            << padded(problem.at("dtype").get<std::string>(), 9) << problem.at("shape").get<std::string>() << "  "
            << problem.at("features").get<std::string>();
  if (!problem.at("plan").is_null()) std::cout << "  " << problem.at("plan").dump();
  std::cout << "\n";
}

}  // namespace

int self_test(const ops::SelfTestOptions& options, bool json) {
  const Json report = Json::parse(ops::self_test_json(options));
  const bool passed = report.at("passed").get<bool>();
  if (json) {
    std::cout << report.dump(2) << "\n";
    return passed ? kDone : kFoundWrong;
  }
  std::cout << "Relative error against a float64 loop, seed " << report.at("seed") << "\n";
  for (const Json& backend : report.at("backends")) {
    std::cout << backend.at("backend").get<std::string>() << " (" << backend.at("name").get<std::string>() << ")\n";
    for (const Json& problem : backend.at("problems")) show_problem(problem);
    if (!backend.at("error").is_null()) std::cout << "  FAILED " << backend.at("error").get<std::string>() << "\n";
  }
  if (!report.at("cuda_unavailable").is_null()) {
    std::cout << "GPU not tested: " << report.at("cuda_unavailable").get<std::string>() << "\n";
  }
  std::cout << (passed ? "passed\n" : "FAILED\n");
  return passed ? kDone : kFoundWrong;
}

}  // namespace mamba_scan::cli
