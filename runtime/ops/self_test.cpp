// Random problems on every backend of this machine against a float64 loop.
#include <chrono>
#include <functional>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#include "driver/context.h"
#include "driver/memory.h"
#include "ops/choice_json.h"
#include "ops/control.h"
#include "ops/dtype_name.h"
#include "ops/runtime.h"
#include "ops/selective_scan.h"
#include "ops/self_test_problem.h"
#include "ops/tuning.h"

namespace mamba_scan::ops {
namespace {

using Json = nlohmann::ordered_json;

class DriverScratch : public ScratchAllocator {
 public:
  explicit DriverScratch(const driver::Driver& driver) : driver_(driver) {}
  void* allocate(std::size_t bytes) override { return buffers_.emplace_back(driver_, bytes).pointer(); }

 private:
  const driver::Driver& driver_;
  std::vector<driver::DeviceBuffer> buffers_;
};

// While it lives, a device plans scans like this one by a choice drawn at random among those possible.
class DrawnPlan {
 public:
  DrawnPlan(const SelectiveScanProblem& problem, const DeviceContext& device, std::mt19937& random)
      : problem_(problem), tuning_(device_tuning(device)) {
    // A kernel first: some have many more choices than others.
    std::map<std::tuple<ScanKernel, bool, bool>, std::vector<PlanChoice>> kinds;
    for (const auto& [choice, clocks] : plan_choices(problem, device.report))
      kinds[{choice.kernel(), choice.cut, choice.wrapped}].push_back(choice);
    const auto draw = [&](std::size_t count) {
      return std::uniform_int_distribution<std::ptrdiff_t>(0, static_cast<std::ptrdiff_t>(count) - 1)(random);
    };
    const std::vector<PlanChoice>& choices = std::next(kinds.begin(), draw(kinds.size()))->second;
    choice_ = choices[static_cast<std::size_t>(draw(choices.size()))];
    former_ = tuning_.use(problem, TunedChoice{choice_, "", 0, 0});
  }
  DrawnPlan(const DrawnPlan&) = delete;
  DrawnPlan& operator=(const DrawnPlan&) = delete;
  ~DrawnPlan() { tuning_.use(problem_, former_); }

  const PlanChoice& choice() const { return choice_; }

 private:
  SelectiveScanProblem problem_;
  Tuning& tuning_;
  PlanChoice choice_;
  std::optional<TunedChoice> former_;
};

// Copies a problem to a device, runs it there, copies the outputs back. Draws a plan if there is something to draw by,
// and returns it.
Json run_on_device(TestProblem& test, const DeviceContext& device, std::mt19937* random) {
  const driver::ContextGuard guard(*device.driver, device.context);
  std::vector<driver::DeviceBuffer> buffers;
  std::vector<std::vector<unsigned char>> uploaded;  // until the stream got there
  for (TestTensor& tensor : test.tensors()) {
    std::vector<unsigned char>& bytes = uploaded.emplace_back(tensor.bytes);
    bytes.resize(bytes.size() + kLargestChunk, 0xff);  // not a number: copies may bring it along, and it must not count
    buffers.emplace_back(*device.driver, bytes.size());
    buffers.back().upload(bytes.data(), bytes.size(), nullptr);
    tensor.set_pointer(buffers.back().pointer());
  }
  DriverScratch scratch(*device.driver);
  std::optional<DrawnPlan> drawn;
  if (random != nullptr) drawn.emplace(test.problem(), device, *random);
  selective_scan_cuda(test.problem(), device.report.ordinal, nullptr, scratch);
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    TestTensor& tensor = test.tensors()[i];
    if (tensor.output) buffers[i].download(tensor.bytes.data(), tensor.bytes.size(), nullptr);
  }
  device.driver->check(device.driver->api().cuStreamSynchronize(nullptr), "Waiting for the self-test's scan");
  return drawn ? choice_to_json(drawn->choice()) : Json();
}

// JSON has no infinity: an output that is not a number has no relative error.
Json finite_or_null(double value) { return value < 1e300 ? Json(value) : Json(); }

Json run_problem(TestProblem& test, const std::function<Json(TestProblem&)>& run) {
  const auto start = std::chrono::steady_clock::now();
  test.prepare();
  const Json plan = run(test);
  const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
  const double error_y = test.relative_error_y();
  const double error_state = test.relative_error_state();
  return {{"shape", test.shape()},
          {"dtype", dtype_name(test.problem().dtype)},
          {"features", test.features()},
          {"relative_error_y", finite_or_null(error_y)},
          {"relative_error_state", finite_or_null(error_state)},
          {"tolerance_y", test.tolerance_y()},
          {"tolerance_state", test.tolerance_state()},
          {"plan", plan},
          {"passed", error_y <= test.tolerance_y() && error_state <= test.tolerance_state()},
          {"ms", elapsed.count()}};
}

// A backend that throws has failed, and the other backends are still tested. Every backend gets the same problems.
Json run_backend(const std::string& backend, const std::string& name, const SelfTestOptions& options, unsigned seed,
                 const std::function<Json(TestProblem&)>& run) {
  Json problems = Json::array();
  Json error;
  bool passed = true;
  std::mt19937 random(seed);
  try {
    for (int i = 0; i < options.problems; ++i) {
      TestProblem test(random);
      problems.push_back(run_problem(test, run));
      passed = passed && problems.back().at("passed").get<bool>();
    }
  } catch (const Error& failure) {
    error = failure.what();
    passed = false;
  }
  return {
      {"backend", backend}, {"name", name}, {"error", error}, {"passed", passed}, {"problems", std::move(problems)}};
}

}  // namespace

std::string self_test_json(const SelfTestOptions& options) {
  if (options.problems < 1) {
    throw ArgumentError("problems: got " + std::to_string(options.problems) + ", needed 1 or more");
  }
  const unsigned seed = options.seed != 0 ? options.seed : std::random_device{}() | 1u;
  Json backends = Json::array();
  if (options.use_cpu) {
    backends.push_back(run_backend("cpu", "CPU", options, seed, [](TestProblem& test) {
      selective_scan_cpu(test.problem());
      return Json();
    }));
  }
  Json cuda_unavailable;
  if (options.use_cuda) {
    int count = 0;
    try {
      count = runtime().driver().device_count();
    } catch (const driver::DriverUnavailable& error) {
      cuda_unavailable = error.what();  // not a failure: this machine has no GPU
    }
    for (int ordinal = 0; ordinal < count; ++ordinal) {
      const std::string name = driver::device_report(runtime().driver(), ordinal).name;
      std::mt19937 random(seed);  // another one than draws the problems, which are the same on every backend
      backends.push_back(run_backend("cuda:" + std::to_string(ordinal), name, options, seed, [&](TestProblem& test) {
        return run_on_device(test, runtime().device(ordinal), options.any_plan ? &random : nullptr);
      }));
    }
  }
  bool passed = true;
  for (const Json& backend : backends) passed = passed && backend.at("passed").get<bool>();
  const Json report = {
      {"seed", seed}, {"passed", passed}, {"cuda_unavailable", cuda_unavailable}, {"backends", std::move(backends)}};
  return report.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace mamba_scan::ops
