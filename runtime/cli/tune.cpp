// mamba-scan tune
#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands.h"
#include "cli/exit_codes.h"

namespace mamba_scan::cli {
namespace {

std::string kind_of(const nlohmann::ordered_json& candidate) {
  const auto text = [&](const char* name) { return std::to_string(candidate.at(name).get<int>()); };
  const std::string channels = text("channels") + " channels, ";
  const bool turns = candidate.at("warps") != 1, wrapped = candidate.at("wrapped").get<bool>();
  const char* dealt_out = candidate.at("cut").get<bool>() ? "cut in time" : wrapped ? "in even shares" : "whole";
  std::string time = turns ? "turns of " + text("warps") + " warps" : dealt_out;
  if (candidate.at("served").get<bool>()) time += ", served";
  if (turns && wrapped) time += ", in even shares";
  if (candidate.at("whole_rows").get<bool>()) time += ", side by side";
  if (candidate.at("abreast") != 1) time += ", " + text("abreast") + " abreast";
  if (candidate.at("together").get<bool>()) time += ", together";
  return channels + time;
}

// Where warps take turns, unrolled is what their states leave room for; where rows are moved whole, a tile is that.
std::string unroll_of(const nlohmann::ordered_json& candidate) {
  return candidate.at("unroll") == 0 ? "" : ", unroll " + std::to_string(candidate.at("unroll").get<int>());
}

}  // namespace

int tune(const ops::TuneOptions& options, bool json) {
  const auto report = nlohmann::ordered_json::parse(ops::tune_json(options));
  if (json) {
    std::cout << report.dump(2) << "\n";
    return kDone;
  }
  std::cout << report.at("device").get<std::string>() << ": " << report.at("problem").get<std::string>() << "\n"
            << std::fixed << std::setprecision(1);
  int index = 0;
  for (const auto& candidate : report.at("candidates")) {
    std::cout << (index++ == report.at("chosen").get<int>() ? "* " : "  ") << std::setw(2) << candidate.at("lanes")
              << " lanes, " << kind_of(candidate) << ", tile " << std::setw(2) << candidate.at("tile")
              << unroll_of(candidate) << ", " << candidate.at("stages") << " stages, " << std::setw(2)
              << candidate.at("min_blocks") << " blocks" << std::setw(12) << candidate.at("us").get<double>()
              << " us, expected " << candidate.at("expected_us").get<double>() << " us\n";
  }
  std::cout << report.at("summary").get<std::string>() << "\n";
  return kDone;
}

}  // namespace mamba_scan::cli
