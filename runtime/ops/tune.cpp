#include "ops/tune.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <future>
#include <nlohmann/json.hpp>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "driver/context.h"
#include "driver/event.h"
#include "driver/memory.h"
#include "driver/stream.h"
#include "ops/choice_json.h"
#include "ops/launch_split.h"
#include "ops/runtime.h"
#include "ops/selective_scan.h"
#include "ops/tuning.h"
#include "platform/error.h"
#include "platform/processors.h"

namespace mamba_scan::ops {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kWorthIt = 0.98;  // of the time of the model's choice
constexpr int kRounds = 7;

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

DType dtype_named(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "float16") return DType::kFloat16;
  if (name == "bfloat16") return DType::kBFloat16;
  throw ArgumentError("dtype: got \"" + name + "\", needed float32, float16 or bfloat16");
}

// Rounded towards zero, which is good enough for made-up numbers from 2^-14 to 2^15.
void store(float value, DType dtype, unsigned char* to) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (dtype == DType::kFloat32) {
    std::memcpy(to, &bits, 4);
    return;
  }
  std::uint16_t half = static_cast<std::uint16_t>(bits >> 16);
  if (dtype == DType::kFloat16) {
    const int exponent = static_cast<int>(bits >> 23 & 255) - 127 + 15;
    const std::uint32_t sign = bits >> 16 & 0x8000;
    half = static_cast<std::uint16_t>(
        exponent <= 0 ? sign : sign | static_cast<std::uint32_t>(exponent) << 10 | (bits >> 13 & 1023));
  }
  std::memcpy(to, &half, 2);
}

class Scratch : public ScratchAllocator {
 public:
  explicit Scratch(const driver::Driver& driver) : driver_(driver) {}
  void* allocate(std::size_t bytes) override {
    if (bytes > buffer_.size()) buffer_ = driver::DeviceBuffer(driver_, bytes);
    return buffer_.pointer();
  }

 private:
  const driver::Driver& driver_;
  driver::DeviceBuffer buffer_;
};

// A scan of the wanted shape with inputs as a trained model has them, in memory of the device.
class MadeUpScan {
 public:
  MadeUpScan(const TuneOptions& options, const driver::Driver& driver, driver::CUstream stream)
      : driver_(driver), stream_(stream) {
    if (options.layout != "bld" && options.layout != "bdl")
      throw ArgumentError("layout: got \"" + options.layout + "\", needed bld or bdl");
    SelectiveScanProblem& p = problem;
    p.batch = options.batch;
    p.seqlen = options.seqlen;
    p.dim = options.dim;
    p.dstate = options.dstate;
    p.ngroups = options.ngroups;
    p.dtype = dtype_named(options.dtype);
    for (const Index size : {p.batch, p.seqlen, p.dim, p.dstate, p.ngroups})
      if (size < 1) throw ArgumentError("shape: got " + std::to_string(size) + ", needed sizes of at least 1");
    seq_last_ = options.layout == "bdl";
    for (const std::string& name : options.options)
      if (!contains(kTuneOptionNames, name))
        throw ArgumentError("options: got \"" + name + "\", needed any of " + join(kTuneOptionNames));
    const auto has = [&](const char* name) { return contains(options.options, name); };
    p.delta_softplus = has("delta_softplus");
    p.reverse = has("reverse");
    const auto state = [](float part) { return 2 * part - 1; };
    p.u = sequence(state);
    p.delta = sequence([&](float part) {  // log-uniform from 0.001 to 0.1, after softplus
      const float delta = std::exp(std::log(1e-3f) + part * std::log(100.0f));
      return p.delta_softplus ? std::log(std::expm1(delta)) : delta;
    });
    p.y = sequence(nullptr);
    if (has("z")) p.z = sequence(state);
    p.B = projection(state);
    p.C = projection(state);
    p.A =
        floats(p.dim * p.dstate, [&, n = Index{0}](float) mutable { return -static_cast<float>(n++ % p.dstate + 1); });
    p.A_dim_stride = p.dstate;
    p.A_state_stride = 1;
    if (has("D")) p.D = floats(p.dim, [](float) { return 1.0f; });
    if (has("delta_bias")) p.delta_bias = floats(p.dim, [](float) { return 0.0f; });
    const Index states = p.batch * p.dim * p.dstate;
    const auto shape_of_state = [&](float* data) { return StateTensor{data, p.dim * p.dstate, p.dstate, 1}; };
    if (has("initial_state")) p.initial_state = shape_of_state(floats(states, state));
    if (has("final_state")) p.final_state = shape_of_state(floats(states, nullptr));
  }

  SelectiveScanProblem problem{};

 private:
  // `value` makes elements of numbers from 0 to 1; null: memory for a result. The same million of them again and again.
  template <class Value>
  void* filled(Index count, DType dtype, Value value) {
    const std::size_t size = dtype == DType::kFloat32 ? 4 : 2;
    buffers_.emplace_back(driver_, static_cast<std::size_t>(count) * size + kLargestChunk);
    if constexpr (!std::is_same_v<Value, std::nullptr_t>) {
      const Index distinct = dtype == DType::kFloat32 ? count : std::min<Index>(count, Index{1} << 20);
      std::vector<unsigned char> host(static_cast<std::size_t>(distinct) * size);
      std::uniform_real_distribution<float> part(0, 1);
      for (Index i = 0; i < distinct; ++i)
        store(value(part(random_)), dtype, &host[static_cast<std::size_t>(i) * size]);
      for (Index done = 0; done < count; done += distinct) {
        const auto bytes = static_cast<std::size_t>(std::min(distinct, count - done)) * size;
        driver_.check(driver_.api().cuMemcpyHtoDAsync(buffers_.back().address() + static_cast<std::size_t>(done) * size,
                                                      host.data(), bytes, stream_),
                      "Copying to the GPU");
      }
      driver_.check(driver_.api().cuStreamSynchronize(stream_), "Copying to the GPU");
    }
    return buffers_.back().pointer();
  }

  template <class Value>
  float* floats(Index count, Value value) {
    return static_cast<float*>(filled(count, DType::kFloat32, value));
  }

  template <class Value>
  SequenceTensor sequence(Value value) {
    const Index l = problem.seqlen, d = problem.dim;
    return {filled(problem.batch * l * d, problem.dtype, value), l * d, seq_last_ ? 1 : d, seq_last_ ? l : 1};
  }

  template <class Value>
  ProjectionTensor projection(Value value) {
    const Index l = problem.seqlen, n = problem.dstate, g = problem.ngroups;
    void* data = filled(problem.batch * l * g * n, problem.dtype, value);
    return seq_last_ ? ProjectionTensor{data, l * g * n, 1, n * l, l, false}
                     : ProjectionTensor{data, l * g * n, g * n, n, 1, false};
  }

  const driver::Driver& driver_;
  driver::CUstream stream_;
  bool seq_last_ = false;
  std::mt19937 random_{20261123};
  std::vector<driver::DeviceBuffer> buffers_;
};

// Mean over as many calls in a row as were measured to take long enough.
class Stopwatch {
 public:
  Stopwatch(const SelectiveScanProblem& problem, const DeviceContext& device, driver::CUstream stream)
      : problem_(problem), device_(device), stream_(stream), scratch_(*device.driver) {}

  double us(int calls) {
    const driver::Driver& driver = *device_.driver;
    const driver::Event start(driver, driver::Event::Kind::kTiming), end(driver, driver::Event::Kind::kTiming);
    start.record(stream_);
    for (int i = 0; i < calls; ++i) selective_scan_cuda(problem_, device_.report.ordinal, stream_, scratch_);
    end.record(stream_);
    end.synchronize();
    return driver::elapsed_us(driver, start, end) / calls;
  }

 private:
  const SelectiveScanProblem& problem_;
  const DeviceContext& device_;
  driver::CUstream stream_;
  Scratch scratch_;
};

struct Candidate {
  PlanChoice choice;
  double expected_us = 0;
  int calls = 1;
  std::vector<double> samples;

  double median() const {
    std::vector<double> sorted = samples;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

std::string describe(const TuneOptions& o) {
  std::string text = std::to_string(o.batch) + ", " + std::to_string(o.seqlen) + ", " + std::to_string(o.dim) + ", " +
                     std::to_string(o.dstate);
  if (o.ngroups > 1) text += ", g " + std::to_string(o.ngroups);
  text += " " + o.dtype + " " + o.layout;
  for (const std::string& name : o.options) text += " " + name;
  return text;
}

void append(std::vector<Candidate>& candidates, const std::vector<ExpectedChoice>& choices,
            const driver::DeviceReport& device) {
  const double mhz = device.clock_khz > 0 ? device.clock_khz / 1e3 : 1e3;
  for (const ExpectedChoice& expected : choices) {
    const bool known = std::any_of(candidates.begin(), candidates.end(),
                                   [&](const Candidate& c) { return c.choice == expected.choice; });
    if (!known) candidates.push_back({expected.choice, expected.clocks / mhz, 1, {}});
  }
}

// Compiles what candidates first to the last launch, on all cores. What does not compile says so when it is launched.
void compile(const std::vector<Candidate>& candidates, std::size_t first, const SelectiveScanProblem& problem,
             const DeviceContext& device) {
  std::vector<jit::Variant> variants;
  for (std::size_t i = first; i < candidates.size(); ++i)
    for (jit::Variant& variant : kernels_of(plan_forward(problem, device.report, &candidates[i].choice)))
      variants.push_back(std::move(variant));
  std::atomic<std::size_t> next{0};
  std::vector<std::future<void>> workers;
  for (int i = 0; i < platform::usable_processors(); ++i)
    workers.push_back(std::async(std::launch::async | std::launch::deferred, [&] {
      const driver::ContextGuard guard(*device.driver, device.context);
      for (std::size_t k = next++; k < variants.size(); k = next++) {
        try {
          runtime().kernels().get(variants[k], device.report);
        } catch (const Error&) {
        }
      }
    }));
}

// Candidates first to the last are measured in turns, so that a change of the clocks meets all of them.
void measure(std::vector<Candidate>& candidates, std::size_t first, const SelectiveScanProblem& problem,
             const DeviceContext& device, Tuning& tuning, Stopwatch& stopwatch, double seconds) {
  compile(candidates, first, problem, device);
  const auto use = [&](const Candidate& c) { tuning.use(problem, TunedChoice{c.choice, "", 0, 0}); };
  for (std::size_t i = first; i < candidates.size(); ++i) {
    Candidate& c = candidates[i];
    use(c);
    stopwatch.us(1);
    c.calls = std::clamp(static_cast<int>(seconds * 1e6 / kRounds / std::max(stopwatch.us(3), 1.0)), 1, 1000);
  }
  for (int round = 0; round < kRounds; ++round)
    for (std::size_t i = first; i < candidates.size(); ++i) {
      use(candidates[i]);
      candidates[i].samples.push_back(stopwatch.us(candidates[i].calls));
    }
}

std::size_t fastest_of(const std::vector<Candidate>& candidates) {
  const auto fastest = std::min_element(candidates.begin(), candidates.end(),
                                        [](const Candidate& a, const Candidate& b) { return a.median() < b.median(); });
  return static_cast<std::size_t>(fastest - candidates.begin());
}

// Goes on from the fastest candidate to the fastest of those that differ in one detail, until none is faster.
void refine(std::vector<Candidate>& candidates, const SelectiveScanProblem& problem, const DeviceContext& device,
            Tuning& tuning, Stopwatch& stopwatch, double seconds) {
  for (;;) {
    const std::size_t best = fastest_of(candidates), known = candidates.size();
    append(candidates, plan_choices_near(problem, device.report, candidates[best].choice), device.report);
    if (candidates.size() == known) return;
    measure(candidates, known, problem, device, tuning, stopwatch, seconds);
    if (candidates[fastest_of(candidates)].median() > kWorthIt * candidates[best].median()) return;
  }
}

// Of a scan that is divided every part has a plan of its own.
void refuse_divided(const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  if (!needs_split(problem, device)) return;
  const LaunchSplit split = split_launches(problem, device);
  const auto weight = [](const LaunchPiece& p) {
    return std::pair(p.problem.batch * p.problem.seqlen * p.problem.dim, int{p.takes_state} + int{p.gives_state});
  };
  const LaunchPiece& piece =
      *std::max_element(split.pieces.begin(), split.pieces.end(),
                        [&](const LaunchPiece& a, const LaunchPiece& b) { return weight(a) < weight(b); });
  const auto shape = [](const SelectiveScanProblem& p) {
    return std::to_string(p.batch) + ", " + std::to_string(p.seqlen) + ", " + std::to_string(p.dim);
  };
  std::string text = "shape: got " + shape(problem) + ", which runs in " + std::to_string(split.pieces.size()) +
                     " launches on this GPU, since a display hangs on it; needed one that runs in one, such as " +
                     shape(piece.problem);
  if (piece.takes_state || piece.gives_state) text += ", with initial_state and final_state";
  throw ArgumentError(text);
}

}  // namespace

std::string tune_json(const TuneOptions& options) {
  if (options.candidates < 1)
    throw ArgumentError("candidates: got " + std::to_string(options.candidates) + ", needed at least 1");
  const DeviceContext& device = runtime().device(options.device);
  const driver::ContextGuard guard(*device.driver, device.context);
  const driver::Stream stream(*device.driver);
  const MadeUpScan scan(options, *device.driver, stream.get());
  check(scan.problem);
  refuse_divided(scan.problem, device.report);
  Tuning& tuning = device_tuning(device);

  std::vector<ExpectedChoice> choices = plan_choices(scan.problem, device.report);
  choices.resize(std::min(choices.size(), static_cast<std::size_t>(options.candidates)));
  std::vector<Candidate> candidates;
  append(candidates, choices, device.report);
  Stopwatch stopwatch(scan.problem, device, stream.get());
  const std::optional<TunedChoice> former = tuning.use(scan.problem, std::nullopt);
  try {
    measure(candidates, 0, scan.problem, device, tuning, stopwatch, options.seconds);
    if (options.thorough) refine(candidates, scan.problem, device, tuning, stopwatch, options.seconds);
  } catch (...) {
    tuning.use(scan.problem, former);
    throw;
  }
  const std::size_t fastest = fastest_of(candidates);
  const double untuned = candidates.front().median();
  const bool kept = candidates[fastest].median() < kWorthIt * untuned;
  const Candidate& chosen = kept ? candidates[fastest] : candidates.front();
  const TunedChoice tuned{chosen.choice, describe(options), chosen.median(), untuned};
  const bool stored = tuning.keep(scan.problem, kept ? std::optional(tuned) : std::nullopt);

  Json report = {{"device", device.report.name}, {"problem", describe(options)}, {"candidates", Json::array()}};
  for (const Candidate& c : candidates) {
    Json& candidate = report["candidates"].emplace_back(choice_to_json(c.choice));
    candidate["expected_us"] = c.expected_us;
    candidate["us"] = c.median();
  }
  report["chosen"] = &chosen - candidates.data();
  report["us"] = chosen.median();
  report["untuned_us"] = untuned;
  report["kept"] = kept;
  report["summary"] = !kept ? "nothing faster than the usual plan"
                      : stored
                          ? "kept for scans like this"
                          : "faster than the usual plan, but not kept: the compile cache is off or cannot be written";
  return report.dump();
}

}  // namespace mamba_scan::ops
