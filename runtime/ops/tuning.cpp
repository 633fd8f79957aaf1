#include "ops/tuning.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <utility>

#include "jit/sha256.h"
#include "ops/choice_json.h"
#include "ops/choose.h"
#include "ops/control.h"
#include "ops/memory_layout.h"
#include "platform/log.h"

namespace mamba_scan::ops {
namespace {

using Json = nlohmann::ordered_json;

std::string hex(std::uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

bool is_possible(const PlanChoice& choice) {
  return choice.lanes >= 1 && choice.lanes <= 32 && std::has_single_bit(static_cast<unsigned>(choice.lanes)) &&
         choice.channels >= 1 && choice.channels <= 32 && choice.warps >= 1 && choice.warps <= 32 &&
         choice.abreast >= 1 && choice.abreast <= 16;
}

}  // namespace

std::uint64_t problem_class(const SelectiveScanProblem& p) {
  std::uint64_t hash = 14695981039346656037ull;  // FNV-1a over whole numbers
  const auto add = [&](Index value) { hash = (hash ^ static_cast<std::uint64_t>(value)) * 1099511628211ull; };
  for (const Index size : {p.batch, p.dim, p.dstate, p.ngroups}) add(size);
  add(std::bit_width(static_cast<std::uint64_t>(p.seqlen > 0 ? p.seqlen - 1 : 0)));  // 1025 .. 2048 are alike
  add(static_cast<Index>(p.dtype));
  add(p.y.dim_stride == 1);
  constexpr int kColumns = 16;  // which are whole vectors of any type
  const SelectiveScanProblem scanned = in_scan_order(p);
  const bool seq_contiguous = is_seq_contiguous(scanned);
  for (const SequenceTensor* tensor : {&scanned.u, &scanned.delta, &scanned.z, &scanned.y})
    add(static_cast<Index>(access_of(*tensor, scanned, seq_contiguous, kColumns)));
  for (const ProjectionTensor* tensor : {&p.B, &p.C}) add((tensor->constant ? 2 : 0) + (tensor->state_stride == 1));
  for (const bool present :
       {p.z.data != nullptr, p.D != nullptr, p.delta_bias != nullptr, p.delta_softplus, p.initial_state.data != nullptr,
        p.final_state.data != nullptr, p.reverse, p.is_complex, p.chunk_invariant, p.cu_seqlens != nullptr})
    add(present);
  return hash ^ hash >> 32;
}

PlanChoice choice_of(const ForwardPlan& plan) {
  const ForwardVariant& v = plan.variant;
  PlanChoice choice = simple_choice(v, static_cast<std::int16_t>(plan.slices));
  choice.tile = v.tile;
  choice.unroll = v.warps > 1 || v.row_vector > 0 ? std::int16_t{0} : v.unroll;
  choice.stages = v.stages;
  choice.min_blocks = v.min_blocks;
  return choice;
}

namespace {

ExpectedChoice expect(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                      const PlanChoice& choice) {
  const ForwardPlan plan = plan_forward(problem, device, &choice);
  return {choice_of(plan), plan.clocks_of_slices()};
}

}  // namespace

std::vector<ExpectedChoice> plan_choices(const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  std::vector<ExpectedChoice> choices;
  const auto add = [&](const PlanChoice& wanted) {
    const ExpectedChoice made = expect(problem, device, wanted);
    if (without_details(made.choice) == wanted) choices.push_back(made);
  };
  // Whole rows, cut ones, even shares of them: cut, wrapped.
  constexpr std::pair<bool, bool> kOfRows[] = {{false, false}, {true, false}, {false, true}};
  const auto add_all = [&](std::int16_t slices) {
    add({.lanes = 1, .slices = slices, .whole_rows = true});
    for (std::int16_t lanes = 1; lanes <= 32; lanes *= 2)
      for (std::int16_t channels = 1; channels <= 8; channels *= 2) {
        for (const bool cut : {false, true})
          for (const std::int16_t abreast : {1, 2, 4})
            add({.lanes = lanes, .channels = channels, .cut = cut, .slices = slices, .abreast = abreast});
        add({.lanes = lanes, .channels = channels, .slices = slices, .wrapped = true});
        for (const auto& [cut, wrapped] : kOfRows)
          add({.lanes = lanes,
               .channels = channels,
               .cut = cut,
               .slices = slices,
               .wrapped = wrapped,
               .together = true});
        add({.lanes = lanes, .channels = channels, .slices = slices, .served = true});
        add({.lanes = lanes, .channels = channels, .slices = slices, .served = true, .wrapped = true});
        for (const std::int16_t warps : {4, 8, 16}) {
          add({.lanes = lanes, .channels = channels, .warps = warps, .slices = slices});
          for (const auto& [cut, wrapped] : kOfRows)
            add({.lanes = lanes,
                 .channels = channels,
                 .cut = cut,
                 .warps = warps,
                 .slices = slices,
                 .served = true,
                 .wrapped = wrapped});
        }
      }
  };
  for (Index slices = usual_slices(problem);; slices = fewer_slices(slices)) {
    add_all(static_cast<std::int16_t>(slices));
    if (slices <= fewest_slices(problem)) break;
  }
  const PlanChoice own = choice_of(plan_forward(problem, device));
  std::sort(choices.begin(), choices.end(), [&](const ExpectedChoice& a, const ExpectedChoice& b) {
    if ((a.choice == own) != (b.choice == own)) return a.choice == own;
    return a.clocks < b.clocks;
  });
  return choices;
}

std::vector<ExpectedChoice> plan_choices_near(const SelectiveScanProblem& problem, const driver::DeviceReport& device,
                                              const PlanChoice& choice) {
  std::vector<ExpectedChoice> neighbours;
  const auto add_changed = [&](const PlanChoice& changed) {
    const ExpectedChoice made = expect(problem, device, changed);
    if (made.choice == changed) neighbours.push_back(made);
  };
  const auto add = [&](std::int16_t PlanChoice::* detail, int value) {
    PlanChoice changed = choice;
    changed.*detail = static_cast<std::int16_t>(value);
    add_changed(changed);
  };
  for (const auto detail : {&PlanChoice::tile, &PlanChoice::unroll}) {
    if (choice.*detail == 0) continue;
    add(detail, choice.*detail / 2);
    add(detail, choice.*detail * 2);
  }
  if (choice.served) return neighbours;  // their stages and blocks go together, by what shared memory holds
  if (!choice.whole_rows) {
    add(&PlanChoice::stages, choice.stages - 1);
    add(&PlanChoice::stages, choice.stages + 1);
  }
  const int blocks = choice.warps > 1 ? 1 : 4;
  add(&PlanChoice::min_blocks, choice.min_blocks - blocks);
  add(&PlanChoice::min_blocks, choice.min_blocks + blocks);
  if (choice.warps > 1) {
    PlanChoice fewer = choice, more = choice;
    fewer.warps /= 2, fewer.min_blocks *= 2;
    more.warps *= 2, more.min_blocks /= 2;
    if (fewer.warps > 1) add_changed(fewer);
    if (more.min_blocks > 0) add_changed(more);
  }
  return neighbours;
}

Tuning::Tuning(jit::DiskCache& cache, const driver::DeviceReport& device) : cache_(cache) {
  device_ = device.name + ", " + std::to_string(device.sm_count) + " SMs, " + std::to_string(device.clock_khz) +
            " kHz, memory " + std::to_string(device.memory_clock_khz) + " kHz x " +
            std::to_string(device.memory_bus_bits) + " bits";
  key_ = jit::sha256_hex("tuned plans of " + device_);
  choices_ = kept();
  empty_ = choices_.empty();
}

// What the note says, or nothing.
std::map<std::uint64_t, TunedChoice> Tuning::kept() const {
  const std::optional<std::string> note = cache_.load_note(key_, jit::NoteKind::kMeasurement);
  if (!note) return {};
  const auto ignore = [&](const std::string& why) -> std::map<std::uint64_t, TunedChoice> {
    platform::log(platform::LogLevel::kWarning,
                  "ignoring the tuned plans of " + device_ + ": " + why + "; `mamba-scan tune` measures them anew");
    return {};
  };
  try {
    const Json json = Json::parse(*note);
    // Another version may plan otherwise, and have other kernels.
    if (json.at("version").get<std::string>() != package_version())
      return ignore("they were measured with version " + json.at("version").get<std::string>());
    std::map<std::uint64_t, TunedChoice> choices;
    for (const Json& entry : json.at("choices")) {
      TunedChoice tuned;
      tuned.choice = choice_from_json(entry);
      tuned.problem = entry.at("problem").get<std::string>();
      tuned.us = entry.at("us").get<double>();
      tuned.untuned_us = entry.at("untuned_us").get<double>();
      if (!is_possible(tuned.choice)) return ignore("a choice for " + tuned.problem + " cannot be");
      choices[std::stoull(entry.at("class").get<std::string>(), nullptr, 16)] = tuned;
    }
    return choices;
  } catch (const std::exception& error) {
    return ignore(error.what());
  }
}

std::optional<PlanChoice> Tuning::find(const SelectiveScanProblem& problem) const {
  if (empty_.load(std::memory_order_acquire)) return std::nullopt;
  const std::uint64_t key = problem_class(problem);
  const std::lock_guard lock(mutex_);
  const auto found = choices_.find(key);
  return found == choices_.end() ? std::nullopt : std::optional(found->second.choice);
}

std::optional<TunedChoice> Tuning::use(const SelectiveScanProblem& problem, std::optional<TunedChoice> choice) {
  const std::lock_guard lock(mutex_);
  std::optional<TunedChoice> former;
  if (auto node = choices_.extract(problem_class(problem))) former = std::move(node.mapped());
  if (choice) choices_[problem_class(problem)] = *std::move(choice);
  empty_.store(choices_.empty(), std::memory_order_release);
  version_.fetch_add(1, std::memory_order_release);
  return former;
}

bool Tuning::keep(const SelectiveScanProblem& problem, std::optional<TunedChoice> choice) {
  use(problem, choice);
  std::map<std::uint64_t, TunedChoice> choices = kept();
  const std::uint64_t key = problem_class(problem);
  choices.erase(key);
  if (choice) choices[key] = *std::move(choice);
  Json json = {{"version", package_version()}, {"device", device_}, {"choices", Json::array()}};
  for (const auto& [tuned_class, tuned] : choices) {
    Json& entry = json["choices"].emplace_back(choice_to_json(tuned.choice));
    entry["class"] = hex(tuned_class);
    entry["problem"] = tuned.problem;
    entry["us"] = tuned.us;
    entry["untuned_us"] = tuned.untuned_us;
  }
  return cache_.store_note(key_, json.dump(), jit::NoteKind::kMeasurement);
}

Tuning& device_tuning(const DeviceContext& device) {
  constexpr std::size_t kMostDevices = 64;
  static std::array<std::atomic<Tuning*>, kMostDevices> ready{};  // never destroyed, as the runtime is not
  static std::mutex mutex;
  auto& slot = ready[static_cast<std::size_t>(device.report.ordinal) % kMostDevices];
  if (Tuning* tuning = slot.load(std::memory_order_acquire)) return *tuning;
  const std::lock_guard lock(mutex);
  if (slot.load(std::memory_order_relaxed) == nullptr)
    slot.store(new Tuning(runtime().builder().cache(), device.report), std::memory_order_release);
  return *slot.load(std::memory_order_relaxed);
}

}  // namespace mamba_scan::ops
