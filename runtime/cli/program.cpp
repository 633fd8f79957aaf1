// mamba-scan: the command line.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/exit_codes.h"
#include "platform/error.h"

namespace mamba_scan::cli {
namespace {

constexpr const char* kFooter =
    "\nExit codes: 0 done; 1 it ran, and what it looked at is not right; 2 wrong usage; 3 this machine lacks what the "
    "command needs.";

// Declares every command; the one that was named leaves its exit code in `code`.
class CommandLine {
 public:
  CommandLine() {
    app_.footer(kFooter);
    app_.require_subcommand(1);
    app_.set_version_flag("--version", "mamba-scan " + ops::package_version(), "Print the version");
    add_doctor();
    add_cache();
    add_warm();
    add_scan();
    add_tune();
  }

  int run(std::vector<std::string> arguments) {
    try {
      std::reverse(arguments.begin(), arguments.end());  // the order in which the parser consumes them
      app_.parse(std::move(arguments));
      return code_;
    } catch (const CLI::ParseError& error) {
      return app_.exit(error) == 0 ? kDone : kBadUsage;  // --help and --version come this way too
    }
  }

 private:
  CLI::App* add(CLI::App& parent, const char* name, const char* description) {
    CLI::App* command = parent.add_subcommand(name, description);
    command->add_flag("--json", json_, "Print JSON");
    return command;
  }

  void add_doctor() {
    CLI::App* command = add(app_, "doctor", "Show what this machine offers: driver, devices, NVRTC, cache");
    command->add_flag("--require-gpu", require_gpu_, "Exit with 1 unless a GPU can be used");
    command->callback([this] { code_ = doctor(json_, require_gpu_); });
  }

  void add_cache() {
    CLI::App* cache = app_.add_subcommand("cache", "Look after the compiled kernels on disk");
    cache->require_subcommand(1);
    add(*cache, "list", "List the kernels, last used first")->callback([this] { code_ = cache_list(json_); });
    add(*cache, "verify", "Read every kernel; remove what is broken (exit 1 if any was)")->callback([this] {
      code_ = cache_verify(json_);
    });
    add(*cache, "clear", "Remove every kernel; tuned plans stay")->callback([this] { code_ = cache_clear(json_); });
  }

  void add_warm() {
    CLI::App* command = add(app_, "warm", "Compile the kernels ahead, so that the first call does not wait");
    command->add_option("--arch", archs_, "For these GPUs instead of the ones present, e.g. --arch sm_87 sm_90");
    command->callback([this] { code_ = warm(archs_, json_); });
  }

  void add_scan() {
    CLI::App* command = add(app_, "scan", "Run selective scans");
    command->add_flag("--self-test", self_test_, "Random problems on the CPU and every GPU against a float64 loop")
        ->required();
    command->add_option("--problems", options_.problems, "How many for each backend")
        ->capture_default_str()
        ->check(CLI::PositiveNumber);
    command->add_option("--seed", options_.seed, "For the same problems again; 0: new ones")->capture_default_str();
    command->add_flag("--cpu-only", cpu_only_, "Leave the GPUs alone");
    command->add_flag("--any-plan", options_.any_plan, "GPUs run every problem by a plan drawn at random");
    command->callback([this] {
      options_.use_cuda = !cpu_only_;
      code_ = self_test(options_, json_);
    });
  }

  void add_tune() {
    CLI::App* command = add(app_, "tune", "Time the plans for one scan on a GPU; keep the fastest for scans like it");
    command->add_option("--batch", tune_.batch)->capture_default_str()->check(CLI::PositiveNumber);
    command->add_option("--seqlen", tune_.seqlen)->required()->check(CLI::PositiveNumber);
    command->add_option("--dim", tune_.dim)->required()->check(CLI::PositiveNumber);
    command->add_option("--dstate", tune_.dstate)->capture_default_str()->check(CLI::PositiveNumber);
    command->add_option("--groups", tune_.ngroups)->capture_default_str()->check(CLI::PositiveNumber);
    command->add_option("--dtype", tune_.dtype)
        ->capture_default_str()
        ->check(CLI::IsMember({"float32", "float16", "bfloat16"}));
    command->add_option("--layout", tune_.layout, "Of the axes: batch, seqlen, dim")
        ->capture_default_str()
        ->check(CLI::IsMember({"bld", "bdl"}));
    command->add_option("--with", tune_.options, "What the scan has besides u, delta, A, B and C")
        ->delimiter(',')
        ->check(CLI::IsMember(ops::kTuneOptionNames));
    command->add_flag("--thorough", tune_.thorough, "Go on with what differs from the fastest plan in one detail");
    command->add_option("--candidates", tune_.candidates, "Plans timed, the ones that the model thinks fastest")
        ->capture_default_str();
    command->add_option("--device", tune_.device)->capture_default_str();
    command->callback([this] { code_ = tune(tune_, json_); });
  }

  CLI::App app_{"Selective scan (Mamba) on the GPU and the CPU.", "mamba-scan"};
  bool json_ = false, require_gpu_ = false, self_test_ = false, cpu_only_ = false;
  std::vector<std::string> archs_;
  ops::SelfTestOptions options_;
  ops::TuneOptions tune_;
  int code_ = kDone;
};

}  // namespace

int run(const std::vector<std::string>& arguments) {
  try {
    return CommandLine().run(arguments);
  } catch (const ArgumentError& error) {
    std::cerr << "mamba-scan: " << error.what() << "\n";
    return kBadUsage;
  } catch (const Error& error) {
    std::cerr << "mamba-scan: " << error.what() << "\n";
    return kImpossible;
  } catch (const std::exception& error) {
    std::cerr << "mamba-scan: unexpected: " << error.what() << "\n";
    return kImpossible;
  }
}

}  // namespace mamba_scan::cli
