// Choices that were measured: found again, used, and ignored where they cannot be right.
#include "ops/tuning.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "cpu_for_gpu.h"
#include "fake_gpu.h"
#include "gpu_limits.h"
#include "jit_test_support.h"
#include "ops/control.h"
#include "ops/selective_scan.h"
#include "ops/tune.h"
#include "platform/error.h"
#include "problem_without_data.h"

namespace mamba_scan::ops {
namespace {

using test::problem_of;

driver::DeviceReport some_device(const std::string& name = "Some GPU", int sm_count = 82) {
  driver::DeviceReport device = test::report_of(86, sm_count);
  device.name = name;
  return device;
}

class TuningTest : public testing::Test {
 protected:
  TunedChoice some_choice() const { return {{8, 2, true, 32, 4, 3, 12}, "a scan", 10, 12}; }

  // The one note there is.
  std::string note() const {
    const std::string folder = platform::join(scratch / "cache", "tuned");
    std::vector<platform::FileInfo> files;
    platform::list_folder(folder, &files);
    EXPECT_EQ(files.size(), 1u);
    return files.empty() ? "" : platform::join(folder, files[0].name);
  }

  test::ScratchFolder scratch;
  jit::DiskCache cache{scratch / "cache", jit::DiskCache::kDefaultLimit};
  test::LogCapture log;
};

TEST_F(TuningTest, IsFoundAgainByTheNextProcessOnTheSameKindOfDevice) {
  const SelectiveScanProblem p = problem_of(1, 16384, 2048);
  {
    Tuning tuning(cache, some_device());
    EXPECT_EQ(tuning.find(p), std::nullopt);
    EXPECT_TRUE(tuning.keep(p, some_choice()));
  }
  EXPECT_EQ(Tuning(cache, some_device()).find(p), some_choice().choice);
  EXPECT_EQ(Tuning(cache, some_device("Another GPU")).find(p), std::nullopt);
  EXPECT_EQ(Tuning(cache, some_device("Some GPU", 80)).find(p), std::nullopt);
  EXPECT_TRUE(log.at(platform::LogLevel::kWarning).empty());
}

TEST_F(TuningTest, KeepsWhatOtherProcessesHaveKeptSince) {
  const SelectiveScanProblem p = problem_of(1, 16384, 2048), q = problem_of(2, 512, 96);
  Tuning first(cache, some_device()), second(cache, some_device());
  first.use(problem_of(3, 100, 10), some_choice());  // for this process
  EXPECT_TRUE(first.keep(p, some_choice()));
  EXPECT_TRUE(second.keep(q, some_choice()));
  EXPECT_EQ(Tuning(cache, some_device()).find(p), some_choice().choice);
  EXPECT_EQ(Tuning(cache, some_device()).find(q), some_choice().choice);
  EXPECT_EQ(Tuning(cache, some_device()).find(problem_of(3, 100, 10)), std::nullopt);
  EXPECT_TRUE(first.keep(p, std::nullopt));
  EXPECT_EQ(Tuning(cache, some_device()).find(p), std::nullopt);
  EXPECT_EQ(Tuning(cache, some_device()).find(q), some_choice().choice);
}

TEST_F(TuningTest, SaysThatNothingCanBeKept) {
  jit::DiskCache off("", 0);
  const SelectiveScanProblem p = problem_of(1, 16384, 2048);
  Tuning tuning(off, some_device());
  EXPECT_FALSE(tuning.keep(p, some_choice()));
  EXPECT_EQ(tuning.find(p), some_choice().choice) << "this process can use it";
}

TEST_F(TuningTest, IsForScansAlikeAndNoOthers) {
  Tuning tuning(cache, some_device());
  tuning.use(problem_of(1, 16384, 2048), some_choice());
  EXPECT_NE(tuning.find(problem_of(1, 8193, 2048)), std::nullopt) << "the same power of two";
  EXPECT_EQ(tuning.find(problem_of(1, 8192, 2048)), std::nullopt);
  EXPECT_EQ(tuning.find(problem_of(2, 16384, 2048)), std::nullopt);
  EXPECT_EQ(tuning.find(problem_of(1, 16384, 2047)), std::nullopt);
  EXPECT_EQ(tuning.find(problem_of(1, 16384, 2048, 15)), std::nullopt);
  SelectiveScanProblem gated = problem_of(1, 16384, 2048);
  gated.z = gated.u;
  EXPECT_EQ(tuning.find(gated), std::nullopt);
  SelectiveScanProblem shifted = problem_of(1, 16384, 2048);
  shifted.u.data = reinterpret_cast<char*>(test::memory) + 2;
  EXPECT_EQ(tuning.find(shifted), std::nullopt) << "rows that begin anywhere";
  const auto steps_adjacent = [](Index seqlen) { return problem_of(1, seqlen, 2048, 16, DType::kFloat16, true); };
  tuning.use(steps_adjacent(16384), some_choice());
  EXPECT_NE(tuning.find(steps_adjacent(12000)), std::nullopt);
  EXPECT_EQ(tuning.find(steps_adjacent(12001)), std::nullopt) << "rows that begin anywhere";
  tuning.use(problem_of(1, 16384, 2048), std::nullopt);
  EXPECT_EQ(tuning.find(problem_of(1, 16384, 2048)), std::nullopt);
}

TEST_F(TuningTest, ADamagedNoteIsAsIfItWereNotThere) {
  const SelectiveScanProblem p = problem_of(1, 16384, 2048);
  {
    Tuning tuning(cache, some_device());
    EXPECT_TRUE(tuning.keep(p, some_choice()));
  }
  test::write_plainly(note(), "{\"version\": \"0.1");
  EXPECT_EQ(Tuning(cache, some_device()).find(p), std::nullopt);
  ASSERT_EQ(log.at(platform::LogLevel::kInfo).size(), 1u);
  EXPECT_NE(log.at(platform::LogLevel::kInfo)[0].find("damaged"), std::string::npos);
}

TEST_F(TuningTest, ANoteOfAnotherVersionOrOfNonsenseIsIgnoredAndSaysSo) {
  const SelectiveScanProblem p = problem_of(1, 16384, 2048);
  Tuning tuning(cache, some_device());
  tuning.keep(p, some_choice());
  const std::string path = note();
  const std::string key = path.substr(path.size() - 64 - std::string(".json").size(), 64);
  const auto good = nlohmann::json::parse(*cache.load_note(key, jit::NoteKind::kMeasurement));

  const auto expect_ignored = [&](const nlohmann::json& changed, const std::string& why) {
    cache.store_note(key, changed.dump(), jit::NoteKind::kMeasurement);
    const std::size_t before = log.at(platform::LogLevel::kWarning).size();
    EXPECT_EQ(Tuning(cache, some_device()).find(p), std::nullopt) << why;
    const auto lines = log.at(platform::LogLevel::kWarning);
    ASSERT_EQ(lines.size(), before + 1) << why;
    EXPECT_NE(lines.back().find(why), std::string::npos) << lines.back();
  };
  auto changed = good;
  changed["version"] = "0.0.1";
  expect_ignored(changed, "version 0.0.1");
  changed = good;
  changed["choices"][0]["lanes"] = 3;
  expect_ignored(changed, "cannot be");
  changed = good;
  changed["choices"][0]["warps"] = 0;
  expect_ignored(changed, "cannot be");
  changed = good;
  changed["choices"][0].erase("warps");  // a version that did not know these
  expect_ignored(changed, "warps");
  changed = good;
  changed["choices"][0].erase("cut");
  expect_ignored(changed, "cut");
  changed = good;
  changed["choices"][0]["class"] = "not a number";
  expect_ignored(changed, "ignoring");
}

// The kernels' constants fit each other, and there is as much memory as they take.
void expect_fits(const SelectiveScanProblem& p, const ForwardPlan& plan) {
  const ForwardVariant& v = plan.variant;
  const auto& params = plan.params;
  EXPECT_EQ(v.tile % v.unroll, 0);
  if (v.kernel() != ScanKernel::kRelayServed) {  // where it is a block's
    EXPECT_LE(v.shared_bytes(), std::size_t{48} << 10);
  }
  EXPECT_EQ(params.tiles_per_row, (p.seqlen + v.tile - 1) / v.tile);
  EXPECT_EQ(params.tiles % params.tiles_per_row, 0);
  EXPECT_LE(params.slots, params.tiles);
  const auto lanes = static_cast<std::size_t>(params.slots) * 32 * static_cast<std::size_t>(v.channels);
  EXPECT_EQ(plan.carry_delta_bytes, v.cut ? lanes * 4 : 0);
  EXPECT_EQ(plan.carry_state_bytes, v.cut || v.wrapped ? lanes * 4 * static_cast<std::size_t>(v.states) : 0);
}

// A choice is one that a plan makes of it.
void expect_made(const SelectiveScanProblem& p, const PlanChoice& choice) {
  const ForwardPlan plan = plan_forward(p, some_device(), &choice);
  EXPECT_EQ(choice, choice_of(plan));
  expect_fits(p, plan);
}

int differences(const PlanChoice& a, const PlanChoice& b) {
  return (a.lanes != b.lanes) + (a.channels != b.channels) + (a.cut != b.cut) + (a.tile != b.tile) +
         (a.unroll != b.unroll) + (a.stages != b.stages) + (a.warps != b.warps) +
         (a.warps * a.min_blocks != b.warps * b.min_blocks);  // half the blocks of twice the warps are as many
}

TEST(PlanChoices, BeginWithThePlansOwnAndAreAllPossible) {
  for (const SelectiveScanProblem& p : {problem_of(64, 2048, 1536), problem_of(1, 16384, 2048), problem_of(1, 33, 7, 3),
                                        problem_of(2, 1000, 96, 100)}) {
    const std::vector<ExpectedChoice> choices = plan_choices(p, some_device());
    ASSERT_GT(choices.size(), 1u);
    EXPECT_EQ(choices.front().choice, choice_of(plan_forward(p, some_device())));
    for (const ExpectedChoice& expected : choices) expect_made(p, expected.choice);
  }
}

TEST(PlanChoices, IncludeTheRelayKernelsShapes) {
  const SelectiveScanProblem p = problem_of(1, 1024, 256);
  const std::vector<ExpectedChoice> choices = plan_choices(p, some_device());
  EXPECT_GT(choices.front().choice.warps, 1);
  std::set<std::pair<int, int>> shapes;
  for (const ExpectedChoice& expected : choices) {
    expect_made(p, expected.choice);
    shapes.emplace(expected.choice.lanes, expected.choice.warps);
  }
  for (const int warps : {1, 4, 8, 16}) EXPECT_TRUE(shapes.count({4, warps})) << warps << " warps";
}

// Details are no more than the kernels can be compiled with, and shared memory can hold.
TEST(PlanChoices, NearbyOnesDifferInOneDetail) {
  for (const SelectiveScanProblem& p :
       {problem_of(64, 2048, 1536), problem_of(1, 1024, 256), problem_of(1, 33, 7, 3), problem_of(2, 1000, 96, 100)}) {
    std::vector<PlanChoice> path{plan_choices(p, some_device()).front().choice};
    for (int i = 0; i < 5; ++i) {  // always on to the last one nearby
      const auto neighbours = plan_choices_near(p, some_device(), path.back());
      ASSERT_FALSE(neighbours.empty());
      for (const ExpectedChoice& expected : neighbours) {
        expect_made(p, expected.choice);
        EXPECT_EQ(differences(expected.choice, path.back()), 1);
      }
      path.push_back(neighbours.back().choice);
    }
  }
}

TEST(PlanChoices, ImpossibleDetailsAreNotMade) {
  const SelectiveScanProblem p = problem_of(64, 2048, 1536);
  const PlanChoice own = choice_of(plan_forward(p, some_device()));
  for (const auto& [tile, unroll, stages] : std::vector<std::tuple<int, int, int>>{
           {12, 0, 0}, {1024, 0, 0}, {-16, 0, 0}, {0, 3, 0}, {0, 32, 0}, {0, 0, 1}, {0, 0, 99}, {64, 0, 8}}) {
    PlanChoice wrong = without_details(own);
    wrong.tile = static_cast<std::int16_t>(tile);
    wrong.unroll = static_cast<std::int16_t>(unroll);
    wrong.stages = static_cast<std::int16_t>(stages);
    EXPECT_EQ(choice_of(plan_forward(p, some_device(), &wrong)), own) << tile << ", " << unroll << ", " << stages;
  }
}

TEST(PlanChoices, DoNotMatterToChunkInvariantScans) {
  SelectiveScanProblem p = problem_of(1, 16384, 2048);
  p.chunk_invariant = true;
  const PlanChoice other{4, 1, true, 32, 8, 3};
  EXPECT_EQ(choice_of(plan_forward(p, some_device(), &other)), choice_of(plan_forward(p, some_device())));
}

TEST(PlanChoices, OneThatIsNotPossibleIsNotMade) {
  const SelectiveScanProblem p = problem_of(64, 2048, 1536);
  const PlanChoice own = choice_of(plan_forward(p, some_device()));
  for (const PlanChoice& wrong : {PlanChoice{1, 4, false}, PlanChoice{3, 1, false}, PlanChoice{2, 64, true}})
    EXPECT_EQ(choice_of(plan_forward(p, some_device(), &wrong)), own);
}

// ---- measuring, on the fake driver, whose kernels take as long as we say ----

int wanted_slots = 0, wanted_tiles = 0;  // per row; 0: any
std::map<int, int> launches;             // by number of slots

class Tune : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    gpu = new test::FakeGpu("devices=90:132:H200,75:1:Display card:watchdog:kHz50000", take_time);
  }
  static void TearDownTestSuite() { delete gpu; }

  static void take_time(const char* entry, void** arguments) {
    if (!test::is_scan(entry)) return;
    const auto& params = *static_cast<const SelectiveScanForwardParams*>(arguments[0]);
    const bool fast = params.slots == wanted_slots && (wanted_tiles == 0 || params.tiles_per_row == wanted_tiles);
    ++launches[params.slots];
    gpu->pass_time(fast ? 20 : 400);
  }

  static test::FakeGpu* gpu;
};
test::FakeGpu* Tune::gpu = nullptr;

TEST_F(Tune, KeepsTheFastestAndLaterCallsUseIt) {
  if (!platform::environment_variable("MAMBA_SCAN_NVRTC")) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  const SelectiveScanProblem p = problem_of(1, 5000, 64);
  const driver::DeviceReport device = runtime().device(0).report;
  const auto slots_of = [&](const PlanChoice& choice) { return plan_forward(p, device, &choice).params.slots; };

  // The fake tells choices apart by their number of slots: another one than the model's is the fast one.
  const std::vector<ExpectedChoice> choices = plan_choices(p, device);
  ASSERT_GE(choices.size(), 6u);
  const int usual_slots = slots_of(choices[0].choice);
  const auto other =
      std::find_if(choices.begin(), choices.end(), [&](const auto& c) { return slots_of(c.choice) != usual_slots; });
  ASSERT_NE(other, choices.end());
  wanted_slots = slots_of(other->choice);

  TuneOptions options;
  options.seqlen = 5000;
  options.dim = 64;
  options.seconds = 0.01;
  options.candidates = static_cast<int>(other - choices.begin()) + 1;
  const auto report = nlohmann::json::parse(tune_json(options));
  const PlanChoice chosen = choices[report["chosen"].get<std::size_t>()].choice;
  EXPECT_EQ(slots_of(chosen), wanted_slots);
  EXPECT_EQ(report["kept"], true);
  EXPECT_LT(report["us"].get<double>(), report["untuned_us"].get<double>());
  EXPECT_EQ(report["candidates"].size(), static_cast<std::size_t>(options.candidates));

  launches.clear();
  test::HostScratch scratch;
  selective_scan_cuda(p, 0, nullptr, scratch);
  EXPECT_EQ(launches, (std::map<int, int>{{wanted_slots, 1}}));
  EXPECT_EQ(Tuning(runtime().builder().cache(), device).find(p), chosen) << "nothing kept for the next process";

  // All alike now: the model's own choice again.
  wanted_slots = -1;
  EXPECT_EQ(nlohmann::json::parse(tune_json(options))["kept"], false);
  launches.clear();
  selective_scan_cuda(p, 0, nullptr, scratch);
  EXPECT_EQ(launches, (std::map<int, int>{{usual_slots, 1}}));
}

TEST_F(Tune, KeepsAChoiceForTheScanWithTheSameOptions) {
  if (!platform::environment_variable("MAMBA_SCAN_NVRTC")) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  SelectiveScanProblem p = test::full(problem_of(1, 3000, 40));
  p.initial_state = p.final_state = {test::memory, 40 * 16, 16, 1};
  p.reverse = true;
  const driver::DeviceReport device = runtime().device(0).report;
  for (const ExpectedChoice& expected : plan_choices(p, device))
    wanted_slots = plan_forward(p, device, &expected.choice).params.slots;
  wanted_tiles = 0;
  TuneOptions options;
  options.seqlen = 3000;
  options.dim = 40;
  options.options = kTuneOptionNames;
  options.seconds = 0.01;
  options.candidates = 100;
  EXPECT_EQ(nlohmann::json::parse(tune_json(options))["kept"], true);
  const Tuning kept(runtime().builder().cache(), device);
  const std::optional<PlanChoice> choice = kept.find(p);
  ASSERT_TRUE(choice);
  EXPECT_EQ(plan_forward(p, device, &*choice).params.slots, wanted_slots);
  p.reverse = false;
  EXPECT_FALSE(kept.find(p));
}

TEST_F(Tune, ThoroughlyFindsAFasterDetail) {
  if (!platform::environment_variable("MAMBA_SCAN_NVRTC")) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  TuneOptions options;
  options.batch = 1024;
  options.seqlen = 100;
  options.dim = 96;
  options.seconds = 0.01;
  options.candidates = 1;
  const SelectiveScanProblem p = problem_of(options.batch, options.seqlen, options.dim);
  const driver::DeviceReport device = runtime().device(0).report;
  const PlanChoice own = plan_choices(p, device).front().choice;
  wanted_slots = plan_forward(p, device, &own).params.slots;
  wanted_tiles = static_cast<int>((options.seqlen + 4 * own.tile - 1) / (4 * own.tile));  // two steps away
  EXPECT_EQ(nlohmann::json::parse(tune_json(options))["kept"], false);
  // What is half-way there is no faster, as far as the fake is concerned: only one step is found.
  options.thorough = true;
  EXPECT_EQ(nlohmann::json::parse(tune_json(options))["kept"], false);
  wanted_tiles = static_cast<int>((options.seqlen + 2 * own.tile - 1) / (2 * own.tile));
  const auto report = nlohmann::json::parse(tune_json(options));
  EXPECT_EQ(report["kept"], true);
  EXPECT_EQ(report["candidates"][report["chosen"].get<std::size_t>()]["tile"], 2 * own.tile);
  const auto kept = Tuning(runtime().builder().cache(), device).find(p);
  ASSERT_TRUE(kept);
  EXPECT_EQ(kept->tile, 2 * own.tile);
}

TEST_F(Tune, NamesWhatItCannotMeasure) {
  TuneOptions options;
  options.dtype = "float64";
  EXPECT_THROW(tune_json(options), ArgumentError);
  options.dtype = "float16";
  options.layout = "lbd";
  EXPECT_THROW(tune_json(options), ArgumentError);
  options.layout = "bld";
  options.dim = 0;
  EXPECT_THROW(tune_json(options), ArgumentError);
  options.dim = 1;
  options.options = {"z", "Z"};
  EXPECT_THROW(tune_json(options), ArgumentError);
}

TEST_F(Tune, NamesAPartOfWhatIsDividedOnADisplaysGpu) {
  TuneOptions options;
  options.batch = 1, options.seqlen = 20000, options.dim = 131, options.device = 1;
  try {
    tune_json(options);
    ADD_FAILURE() << "nothing was refused";
  } catch (const ArgumentError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("shape: got 1, 20000, 131, which runs in "), std::string::npos) << text;
    EXPECT_NE(text.find(", 128, with initial_state and final_state"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace mamba_scan::ops
