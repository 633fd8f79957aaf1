#include "jit/builder.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <map>

#include "jit/cache_housekeeping.h"
#include "jit/jit_error.h"
#include "jit_test_support.h"
#include "platform/dynamic_library.h"
#include "trace/recorder.h"

namespace mamba_scan::jit {
namespace {

using platform::LogLevel;
using test::LogCapture;
using test::ScopedVariable;
using test::ScratchFolder;

constexpr std::uint64_t kPlenty = 16 << 20;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const char kSource[] =
    "#include \"demo/scale.h\"\n"
    "extern \"C\" __global__ void demo(float* x) { x[threadIdx.x] *= ms_scale(); }\n";
const char kHeader[] = "__device__ inline float ms_scale() { return MS_SCALE; }\n";

std::map<std::string, std::string> demo_files() { return {{"demo/demo.cu", kSource}, {"demo/scale.h", kHeader}}; }

Variant demo_variant(const std::string& scale = "2") { return {"demo/demo.cu", "demo", {{"MS_SCALE", scale}}}; }

// One NVRTC that exists on paper: enough for everything up to the compile.
class PaperNvrtc : public NvrtcEnvironment {
 public:
  explicit PaperNvrtc(NvrtcFacts facts, std::string variable = "")
      : facts_(std::move(facts)), variable_(std::move(variable)) {}
  NvrtcNaming naming() const override { return NvrtcNaming::kLinux; }
  std::optional<std::string> variable(const std::string& name) const override {
    return name == kNvrtcVariable && !variable_.empty() ? std::optional(variable_) : std::nullopt;
  }
  std::optional<std::vector<std::string>> list(const std::string& folder) const override {
    if (folder != "/paper") return std::nullopt;
    return std::vector<std::string>{"libnvrtc.so.13", "libnvrtc-builtins.so.13.0"};
  }
  std::optional<std::string> loaded(const std::string&) const override { return std::nullopt; }
  std::optional<std::string> system_library(const std::string&) const override { return std::nullopt; }
  std::string own_folder() const override { return "/own"; }
  NvrtcFacts facts(const std::string&) const override { return facts_; }

 private:
  NvrtcFacts facts_;
  std::string variable_;
};

const NvrtcFacts kPaperFacts{13, 0, "13.0.88", "CL-1", {75, 80, 90, 120}};

std::unique_ptr<Builder> paper_builder(std::map<std::string, std::string> files = demo_files(),
                                       NvrtcFacts facts = kPaperFacts) {
  auto builder =
      std::make_unique<Builder>(KernelSources::from_files(std::move(files)), std::make_unique<DiskCache>("", 0),
                                std::make_unique<PaperNvrtc>(std::move(facts)));
  builder->add_search_folder("/paper");
  return builder;
}

// ---- kernel text --------------------------------------------------------------------------------------------------

TEST(KernelSources, GatherEveryHeaderThatIsReached) {
  const auto sources = KernelSources::from_files({{"scan/forward.cu",
                                                   "#include \"scan/params.h\"\n  # include  \"../common/device.cuh\"\n"
                                                   "#include <stdio.h>\n// #include \"no.h\"\n#include \"absent.h\"\n"},
                                                  {"scan/params.h", "#include \"problem.h\"\n"},
                                                  {"scan/problem.h", "struct P {};\n"},
                                                  {"common/device.cuh", "#include \"common/types.h\"\n"},
                                                  {"common/types.h", "using MsIndex = long long;\n"},
                                                  {"common/unused.h", ""}});
  const SourceBundle bundle = sources.bundle("scan/forward.cu");
  EXPECT_EQ(bundle.source.name, "scan/forward.cu");
  std::vector<std::string> names;
  for (const SourceFile& header : bundle.headers) names.push_back(header.name);
  EXPECT_EQ(names, (std::vector<std::string>{"../common/device.cuh", "common/types.h", "problem.h", "scan/params.h"}));
  EXPECT_EQ(bundle.headers[2].text, "struct P {};\n");
}

TEST(KernelSources, RefuseOneNameForTwoHeaders) {
  const auto sources = KernelSources::from_files({{"k.cu", "#include \"a/x.h\"\n#include \"b/y.h\"\n"},
                                                  {"a/x.h", "#include \"same.h\"\n"},
                                                  {"b/y.h", "#include \"same.h\"\n"},
                                                  {"a/same.h", ""},
                                                  {"b/same.h", ""}});
  try {
    sources.bundle("k.cu");
    FAIL();
  } catch (const JitError& error) {
    EXPECT_TRUE(contains(error.what(), "a/same.h")) << error.what();
    EXPECT_TRUE(contains(error.what(), "b/same.h")) << error.what();
  }
}

TEST(KernelSources, NeverLeaveTheirFolder) {
  const ScratchFolder scratch;
  ASSERT_TRUE(platform::create_folders(scratch / "kernels"));
  ASSERT_TRUE(test::write_plainly(scratch / "secret.h", "secret"));
  ASSERT_TRUE(test::write_plainly(scratch / "kernels/k.cu", "#include \"../secret.h\"\n"));
  EXPECT_TRUE(KernelSources::from_folder(scratch / "kernels").bundle("k.cu").headers.empty());
  EXPECT_THROW(KernelSources::from_folder(scratch / "kernels").bundle("../secret.h"), JitError);
}

TEST(KernelSources, ComeFromTheFolderInTheVariableAndFollowEdits) {
  const ScratchFolder scratch;
  ASSERT_TRUE(test::write_plainly(scratch / "k.cu", "one"));
  const ScopedVariable variable("MAMBA_SCAN_KERNEL_DIR", scratch.path());
  const KernelSources sources = KernelSources::from_environment();
  EXPECT_EQ(sources.origin(), scratch.path());
  EXPECT_EQ(sources.bundle("k.cu").source.text, "one");
  ASSERT_TRUE(test::write_plainly(scratch / "k.cu", "two"));
  EXPECT_EQ(sources.bundle("k.cu").source.text, "two");
  try {
    sources.bundle("missing.cu");
    FAIL();
  } catch (const JitError& error) {
    EXPECT_TRUE(contains(error.what(), "missing.cu")) << error.what();
    EXPECT_TRUE(contains(error.what(), "MAMBA_SCAN_KERNEL_DIR")) << error.what();
  }
}

TEST(KernelSources, AreBuiltIn) {
  const ScopedVariable variable("MAMBA_SCAN_KERNEL_DIR", "");
  const KernelSources sources = KernelSources::from_environment();
  EXPECT_EQ(sources.origin(), "built in");
  EXPECT_FALSE(sources.bundle("selective_scan/problem.h").source.text.empty());
}

// ---- the key ------------------------------------------------------------------------------------------------------

TEST(CacheKey, ChangesWithEverythingThatChangesTheBinary) {
  std::map<std::string, std::string> seen;  // key -> what made it
  const auto is_new = [&](const std::string& what, const std::string& key) {
    EXPECT_EQ(key.size(), 64u);
    const auto [found, added] = seen.try_emplace(key, what);
    EXPECT_TRUE(added) << what << " has the key of " << found->second;
  };
  is_new("base", paper_builder()->cache_key(demo_variant(), 90));
  is_new("define", paper_builder()->cache_key(demo_variant("3"), 90));
  is_new("arch", paper_builder()->cache_key(demo_variant(), 80));
  is_new("ptx", paper_builder()->cache_key(demo_variant(), 91));
  Variant other_entry = demo_variant();
  other_entry.entry = "demo2";
  is_new("entry", paper_builder()->cache_key(other_entry, 90));
  auto files = demo_files();
  files["demo/demo.cu"] += " ";
  is_new("source", paper_builder(files)->cache_key(demo_variant(), 90));
  files = demo_files();
  files["demo/scale.h"] += " ";
  is_new("header", paper_builder(files)->cache_key(demo_variant(), 90));
  NvrtcFacts facts = kPaperFacts;
  facts.version = "13.0.89";
  is_new("nvrtc version", paper_builder(demo_files(), facts)->cache_key(demo_variant(), 90));
  facts = kPaperFacts;
  facts.build = "CL-2";
  is_new("nvrtc build", paper_builder(demo_files(), facts)->cache_key(demo_variant(), 90));
  const auto with_lines = paper_builder();
  with_lines->set_line_info(true);
  is_new("line info", with_lines->cache_key(demo_variant(), 90));
}

TEST(CacheKey, IsTheSameForEveryDriver) {
  const auto one = paper_builder(), other = paper_builder();
  one->set_driver_cuda_version(13000);
  other->set_driver_cuda_version(13010);
  EXPECT_EQ(one->cache_key(demo_variant(), 90), other->cache_key(demo_variant(), 90));
}

// ---- discovery through the builder --------------------------------------------------------------------------------

TEST(Builder, SaysWhereItLookedAndTriesAgainAfterAHint) {
  Builder builder(KernelSources::from_files(demo_files()), std::make_unique<DiskCache>("", 0),
                  std::make_unique<PaperNvrtc>(kPaperFacts));
  try {
    builder.build(demo_variant(), 90);
    FAIL();
  } catch (const JitError& error) {
    EXPECT_TRUE(contains(error.what(), "Looked for it in:")) << error.what();
    EXPECT_TRUE(contains(error.what(), "To fix it: python -m pip install")) << error.what();
  }
  builder.add_search_folder("/paper");
  EXPECT_NO_THROW(builder.cache_key(demo_variant(), 90));
  EXPECT_EQ(builder.search_nvrtc(90).choice->path, "/paper/libnvrtc.so.13");
  builder.set_driver_cuda_version(12080);
  EXPECT_THROW(builder.cache_key(demo_variant(), 90), JitError) << "too new for this driver";
}

// ---- with the real NVRTC ------------------------------------------------------------------------------------------

class CompileEvents : public trace::Recorder {
 public:
  double now_us() const override { return now_ += 1; }
  void kernel_launch(const trace::KernelLaunch&) override {}
  void compile(const trace::Compile& event) override {
    std::lock_guard lock(mutex_);
    events.push_back(event);
  }
  void copy(const trace::Copy&) override {}
  void chunk(const trace::Chunk&) override {}

  std::vector<trace::Compile> events;

 private:
  std::mutex mutex_;
  mutable std::atomic<double> now_{0};
};

class RealBuilder : public testing::Test {
 protected:
  void SetUp() override {
    if (!platform::environment_variable("MAMBA_SCAN_NVRTC")) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  }

  std::unique_ptr<Builder> builder(const std::string& cache_folder,
                                   std::map<std::string, std::string> files = demo_files()) const {
    return std::make_unique<Builder>(KernelSources::from_files(std::move(files)),
                                     std::make_unique<DiskCache>(cache_folder, kPlenty), nullptr);
  }

  const ScratchFolder scratch_;
};

TEST_F(RealBuilder, CompilesOnceAndThenReadsFromDisk) {
  const Binary first = builder(scratch_.path())->build(demo_variant(), 90);
  EXPECT_EQ(first.outcome, BuildOutcome::kCompiled);
  const Binary second = builder(scratch_.path())->build(demo_variant(), 90);
  EXPECT_EQ(second.outcome, BuildOutcome::kDisk);
  EXPECT_EQ(second.bytes, first.bytes);
  EXPECT_EQ(second.info.registers, first.info.registers);
  EXPECT_EQ(second.info.compile_ms, first.info.compile_ms);
  EXPECT_EQ(builder(scratch_.path())->build(demo_variant("7"), 90).outcome, BuildOutcome::kCompiled);
}

TEST_F(RealBuilder, WarmProcessNeverLoadsNvrtc) {
  builder(scratch_.path())->build(demo_variant(), 90);
  const ScopedVariable folder("MAMBA_SCAN_TEST_WARM_FOLDER", scratch_.path());
  EXPECT_EQ(test::ChildProcess("--warm-worker").wait(), 0);
}

// pip may replace the files after NVRTC was asked and before it is loaded.
TEST_F(RealBuilder, KeepsAKernelUnderTheNameOfTheCompilerThatMadeIt) {
  const NvrtcFacts former{12, 0, "12.0.1", "CL-0", {90}};
  Builder replaced(KernelSources::from_files(demo_files()), std::make_unique<DiskCache>(scratch_.path(), kPlenty),
                   std::make_unique<PaperNvrtc>(former, *platform::environment_variable("MAMBA_SCAN_NVRTC")));
  const std::string former_key = replaced.cache_key(demo_variant(), 90);
  const Binary made = replaced.build(demo_variant(), 90);
  EXPECT_EQ(made.outcome, BuildOutcome::kCompiled);
  EXPECT_NE(made.info.nvrtc_version, former.version);
  EXPECT_NE(replaced.cache_key(demo_variant(), 90), former_key);
  EXPECT_FALSE(replaced.cache().load(former_key));
  EXPECT_EQ(builder(scratch_.path())->build(demo_variant(), 90).outcome, BuildOutcome::kDisk);
}

TEST_F(RealBuilder, RecompilesADamagedEntryWithoutAWarning) {
  const LogCapture capture;
  const auto first = builder(scratch_.path());
  const Binary intact = first->build(demo_variant(), 90);
  const std::string path = CachePaths{scratch_.path()}.binary(first->cache_key(demo_variant(), 90));
  ASSERT_TRUE(test::write_plainly(path, "damaged"));
  const Binary again = builder(scratch_.path())->build(demo_variant(), 90);
  EXPECT_EQ(again.outcome, BuildOutcome::kCompiled);
  EXPECT_EQ(again.bytes, intact.bytes);
  EXPECT_EQ(builder(scratch_.path())->build(demo_variant(), 90).outcome, BuildOutcome::kDisk);
  EXPECT_TRUE(capture.at(LogLevel::kWarning).empty());
}

TEST_F(RealBuilder, BuildsWithoutAnyCache) {
  const LogCapture capture;
  ASSERT_TRUE(test::write_plainly(scratch_ / "file", ""));
  EXPECT_EQ(builder(scratch_ / "file")->build(demo_variant(), 90).outcome, BuildOutcome::kCompiled);
  EXPECT_EQ(capture.at(LogLevel::kWarning).size(), 1u);
  EXPECT_EQ(builder("")->build(demo_variant(), 90).outcome, BuildOutcome::kCompiled);
}

TEST_F(RealBuilder, WarnsOnceOfAGpuNewerThanNvrtc) {
  const LogCapture capture;
  const auto with_cache = builder(scratch_.path());
  EXPECT_TRUE(with_cache->build(demo_variant(), 999).info.is_ptx);
  EXPECT_TRUE(with_cache->build(demo_variant("3"), 999).info.is_ptx);
  const auto warnings = capture.at(LogLevel::kWarning);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_TRUE(contains(warnings[0], "sm_999")) << warnings[0];
  EXPECT_EQ(builder(scratch_.path())->build(demo_variant(), 999).outcome, BuildOutcome::kDisk);
}

TEST_F(RealBuilder, BuildsManySideBySideInOrderAndReportsEach) {
  CompileEvents events;
  const auto many = builder(scratch_.path());
  many->set_recorder(&events);
  Variant broken = demo_variant("no_such_name");
  const std::vector<Variant> variants = {demo_variant("1"), broken, demo_variant("2"), demo_variant("3")};
  const auto results = many->build_many(variants, 80, 3);
  ASSERT_EQ(results.size(), 4u);
  for (std::size_t i : {0, 2, 3}) {
    ASSERT_TRUE(results[i].binary) << results[i].error;
    EXPECT_EQ(results[i].binary->info.variant, variants[i].name());
    EXPECT_TRUE(results[i].error.empty());
  }
  EXPECT_FALSE(results[1].binary);
  EXPECT_TRUE(contains(results[1].error, "no_such_name")) << results[1].error;

  ASSERT_EQ(events.events.size(), 4u);
  std::map<std::string, int> outcomes;
  for (const trace::Compile& event : events.events) {
    ++outcomes[event.outcome];
    EXPECT_EQ(event.arch, "sm_80");
    EXPECT_EQ(event.key.size(), 64u);
    EXPECT_GT(event.duration_us, 0);
    EXPECT_EQ(event.compile_ms > 0, event.outcome == "compiled");
  }
  EXPECT_EQ(outcomes, (std::map<std::string, int>{{"compiled", 3}, {"failed", 1}}));
  many->build(demo_variant("1"), 80);
  EXPECT_EQ(events.events.back().outcome, "disk");
}

}  // namespace

// A process that comes second: everything must be on disk already.
int warm_worker() {
  const std::string folder = platform::environment_variable("MAMBA_SCAN_TEST_WARM_FOLDER").value_or("");
  Builder builder(KernelSources::from_files(demo_files()), std::make_unique<DiskCache>(folder, kPlenty), nullptr);
  if (builder.build(demo_variant(), 90).outcome != BuildOutcome::kDisk) return 3;
  for (int major = kOldestNvrtcMajor; major <= kNewestNvrtcMajor; ++major) {
    if (platform::DynamicLibrary::find_loaded(nvrtc_name(kNativeNaming, major))) return 4;
  }
  return 0;
}

}  // namespace mamba_scan::jit

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--warm-worker") == 0) return mamba_scan::jit::warm_worker();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
