// The program mamba-scan as its users run it: a child process, its output, its exit code.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "../fakes/fake_cuda.h"
#include "empty_kernels.h"
#include "jit_test_support.h"

#if !defined(_WIN32)
#include <fcntl.h>
#endif

namespace mamba_scan::cli {
namespace {

using Json = nlohmann::json;

struct Outcome {
  int code = -1;
  std::string out, err;
};

std::string take(const std::string& path) {
  std::string text;
  platform::read_file(path, &text);
  platform::remove_file(path);
  return text;
}

#if defined(_WIN32)
HANDLE output_file(const std::string& path) {
  SECURITY_ATTRIBUTES inherited{sizeof(SECURITY_ATTRIBUTES), nullptr, TRUE};
  return CreateFileW(platform::win32_path(path).c_str(), GENERIC_WRITE, FILE_SHARE_READ, &inherited, CREATE_ALWAYS,
                     FILE_ATTRIBUTE_NORMAL, nullptr);
}

int run_to_files(const std::vector<std::string>& words, const std::string& out, const std::string& err) {
  std::wstring command;
  for (const std::string& word : words) command += L"\"" + platform::to_wide(word) + L"\" ";
  STARTUPINFOW startup{};
  startup.cb = sizeof(startup);
  startup.dwFlags = STARTF_USESTDHANDLES;
  startup.hStdOutput = output_file(out);
  startup.hStdError = output_file(err);
  PROCESS_INFORMATION process{};
  DWORD code = static_cast<DWORD>(-1);
  if (CreateProcessW(nullptr, command.data(), nullptr, nullptr, TRUE, 0, nullptr, nullptr, &startup, &process)) {
    WaitForSingleObject(process.hProcess, INFINITE);
    GetExitCodeProcess(process.hProcess, &code);
    CloseHandle(process.hThread);
    CloseHandle(process.hProcess);
  }
  CloseHandle(startup.hStdOutput);
  CloseHandle(startup.hStdError);
  return static_cast<int>(code);
}
#else
int run_to_files(const std::vector<std::string>& words, const std::string& out, const std::string& err) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&files, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t id = -1;
  const int started = posix_spawnp(&id, arguments[0], &files, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  int status = 0;
  if (started != 0 || waitpid(id, &status, 0) != id || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status);
}
#endif

// MAMBA_SCAN_TEST_PROGRAM, else the one of this build tree; behind the launcher where one is needed.
std::vector<std::string> program() {
#if defined(_WIN32)
  const std::string built = tests::find_in_build_tree("runtime/mamba-scan.exe");
#else
  const std::string built = tests::find_in_build_tree("runtime/mamba-scan");
#endif
  const std::string path = platform::environment_variable("MAMBA_SCAN_TEST_PROGRAM").value_or(built);
  if (path.empty()) return {};
  std::vector<std::string> words = test::launcher();
  words.push_back(path);
  return words;
}

class CliTest : public testing::Test {
 protected:
  CliTest() : cache("MAMBA_SCAN_CACHE_DIR", scratch / "cache"), driver("MAMBA_SCAN_DRIVER", tests::FakeCuda::path()) {}
  void SetUp() override {
    if (program().empty()) GTEST_SKIP() << "the program mamba-scan is not part of this build";
  }

  Outcome run(const std::vector<std::string>& arguments, const std::string& fake_settings = "") {
    const test::ScopedVariable settings("MAMBA_SCAN_FAKE_CUDA", fake_settings);
    std::vector<std::string> words = program();
    words.insert(words.end(), arguments.begin(), arguments.end());
    Outcome outcome;
    outcome.code = run_to_files(words, scratch / "out", scratch / "err");
    outcome.out = take(scratch / "out");
    outcome.err = take(scratch / "err");
    return outcome;
  }

  test::ScratchFolder scratch;
  test::ScopedVariable cache, driver;
};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_F(CliTest, VersionAndHelpEndWellAndUnknownWordsDoNot) {
  const Outcome version = run({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.out.rfind("mamba-scan 0.", 0), 0u) << version.out;
  const Outcome help = run({"--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* word : {"doctor", "cache", "warm", "scan", "Exit codes"})
    EXPECT_TRUE(contains(help.out, word)) << word;
  EXPECT_EQ(run({}).code, 2);
  EXPECT_EQ(run({"bogus"}).code, 2);
  EXPECT_EQ(run({"scan"}).code, 2);
  EXPECT_EQ(run({"scan", "--self-test", "--problems", "0"}).code, 2);
  EXPECT_EQ(run({"warm", "--arch", "hopper"}).code, 2);
}

TEST_F(CliTest, TheDoctorShowsTheMachineAsTextAndAsJson) {
  const char* const machine = "version=13000;devices=87:16:Jetson Orin:integrated";
  const Outcome text = run({"doctor", "--require-gpu"}, machine);
  EXPECT_TRUE(contains(text.out, "CUDA 13.0")) << text.out;
  EXPECT_TRUE(contains(text.out, "Jetson Orin, sm_87, 16 SMs")) << text.out;
  const Outcome json = run({"doctor", "--json"}, machine);
  const Json report = Json::parse(json.out);
  EXPECT_EQ(text.code, report.at("nvrtc").at("found") ? 0 : 1) << "without a compiler no GPU can be used\n" << text.err;
  EXPECT_EQ(report.at("devices").at(0).at("name"), "Jetson Orin");
  EXPECT_EQ(report.at("cache").at("folder"), scratch / "cache") << "a non-ASCII path was lost on the way";
}

TEST_F(CliTest, TheDoctorWithoutAGpuExplainsAndFailsOnlyWhereOneIsRequired) {
  const Outcome doctor = run({"doctor"}, "devices=");
  EXPECT_EQ(doctor.code, 0);
  EXPECT_TRUE(contains(doctor.out, "CUDA_VISIBLE_DEVICES")) << doctor.out;
  EXPECT_EQ(run({"doctor", "--require-gpu"}, "devices=").code, 1);
}

TEST_F(CliTest, WarmWithoutAGpuOrAnArchitectureSaysWhatIsMissing) {
  const Outcome warm = run({"warm"}, "devices=");
  EXPECT_EQ(warm.code, 3);
  EXPECT_TRUE(contains(warm.err, "sm_87")) << warm.err;
  EXPECT_TRUE(warm.out.empty());
}

TEST_F(CliTest, AnEmptyCacheListsVerifiesAndClears) {
  const Outcome list = run({"cache", "list"});
  EXPECT_EQ(list.code, 0) << list.err;
  EXPECT_TRUE(contains(list.out, "0 kernels")) << list.out;
  EXPECT_EQ(run({"cache", "verify"}).code, 0);
  EXPECT_EQ(run({"cache", "clear"}).code, 0);
  EXPECT_EQ(Json::parse(run({"cache", "list", "--json"}).out).at("entries").size(), 0u);
  EXPECT_EQ(run({"cache"}).code, 2);
}

TEST_F(CliTest, WarmCompilesAndABrokenEntryIsFoundAndRemoved) {
  if (!platform::environment_variable("MAMBA_SCAN_NVRTC")) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  test::write_empty_kernels(scratch / "kernels");
  const test::ScopedVariable sources("MAMBA_SCAN_KERNEL_DIR", scratch / "kernels");
  const Outcome warm = run({"warm"}, "devices=90:132:H200");
  EXPECT_EQ(warm.code, 0) << warm.err;
  EXPECT_TRUE(contains(warm.out, " 0 failed")) << warm.out;
  EXPECT_TRUE(contains(warm.out, "sm_90")) << warm.out;

  const Json list = Json::parse(run({"cache", "list", "--json"}).out);
  ASSERT_FALSE(list.at("entries").empty());
  const std::string key = list.at("entries").at(0).at("key");
  const std::string file = scratch / ("cache/entries/" + key.substr(0, 2) + "/" + key.substr(2) + ".cubin");
  ASSERT_TRUE(platform::is_file(file)) << file;
  test::write_plainly(file, "broken");
  const Outcome verify = run({"cache", "verify"});
  EXPECT_EQ(verify.code, 1);
  EXPECT_TRUE(contains(verify.out, key)) << verify.out;
  EXPECT_EQ(run({"cache", "verify"}).code, 0) << "it was not removed";

  test::write_plainly(scratch / "kernels/selective_scan/forward.cu", "this is no CUDA\n");
  const Outcome broken = run({"warm", "--arch", "sm_90"});
  EXPECT_EQ(broken.code, 1);
  EXPECT_TRUE(contains(broken.out, "failed")) << broken.out;
}

TEST_F(CliTest, TuneSaysHowRowsAreDealtOut) {
  if (!platform::environment_variable("MAMBA_SCAN_NVRTC")) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  test::write_empty_kernels(scratch / "kernels");
  const test::ScopedVariable sources("MAMBA_SCAN_KERNEL_DIR", scratch / "kernels");
  const auto tune = [&](const char* batch, const char* candidates) {
    const Outcome outcome = run(
        {"tune", "--batch", batch, "--seqlen", "512", "--dim", "640", "--layout", "bdl", "--candidates", candidates},
        "devices=90:8:H100");
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.out;
  };
  const std::string many = tune("9", "12"), one = tune("1", "40");
  EXPECT_TRUE(contains(many, "channels, in even shares, tile")) << many;
  EXPECT_TRUE(contains(many, "channels, in even shares, served, tile")) << many;
  EXPECT_TRUE(contains(many, "channels, whole, ")) << many;
  EXPECT_TRUE(contains(one, "channels, turns of 8 warps, served, in even shares, ")) << one;
  EXPECT_TRUE(contains(one, "channels, cut in time, ")) << one;
}

TEST_F(CliTest, TheSelfTestOfTheCpuPassesAndPrintsErrors) {
  const Outcome test = run({"scan", "--self-test", "--cpu-only", "--problems", "4", "--seed", "7"});
  EXPECT_EQ(test.code, 0) << test.out << test.err;
  EXPECT_TRUE(contains(test.out, "seed 7")) << test.out;
  EXPECT_TRUE(contains(test.out, "e-")) << "no relative error is shown: " << test.out;
  EXPECT_TRUE(contains(test.out, "passed")) << test.out;
}

TEST_F(CliTest, TheSelfTestFailsOnAGpuThatComputesNothing) {
  const Outcome test = run({"scan", "--self-test", "--problems", "1"}, "fail=cuMemAlloc:2");
  EXPECT_EQ(test.code, 1);
  EXPECT_TRUE(contains(test.out, "CUDA_ERROR_OUT_OF_MEMORY")) << test.out;
  EXPECT_TRUE(contains(test.out, "FAILED")) << test.out;
}

}  // namespace
}  // namespace mamba_scan::cli
