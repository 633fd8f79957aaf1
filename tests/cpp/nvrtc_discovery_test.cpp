#include "jit/nvrtc_discovery.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "jit/disk_cache.h"
#include "jit/jit_error.h"
#include "jit_test_support.h"

namespace mamba_scan::jit {
namespace {

const std::vector<int> kArchs12 = {50, 61, 70, 75, 80, 86, 89, 90, 100, 120};
const std::vector<int> kArchs13 = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121};

// A machine made of a set of paths. Whatever is in `facts` loads; other files do not.
class FakeMachine : public NvrtcEnvironment {
 public:
  explicit FakeMachine(NvrtcNaming naming = NvrtcNaming::kLinux) : naming_(naming) {}

  void add_file(const std::string& path) { files_.insert(path); }
  // NVRTC `major`.`minor` with its builtins, as the real packages lay them out.
  void add_nvrtc(const std::string& folder, int major, int minor) {
    const std::string separator = naming_ == NvrtcNaming::kWindows ? "\\" : "/";
    const std::string path = folder + separator + nvrtc_name(naming_, major);
    add_file(path);
    add_file(folder + separator + builtins_name(naming_, major, minor));
    add_facts(path, major, minor);
  }
  void add_facts(const std::string& path, int major, int minor) {
    facts_[path] = {major, minor, std::to_string(major) + "." + std::to_string(minor) + ".1", "CL-1",
                    major == 12 ? kArchs12 : kArchs13};
  }

  NvrtcNaming naming() const override { return naming_; }
  std::optional<std::string> variable(const std::string& name) const override {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  }
  std::optional<std::vector<std::string>> list(const std::string& folder) const override {
    const char separator = naming_ == NvrtcNaming::kWindows ? '\\' : '/';
    const std::string prefix = folder + separator;
    std::set<std::string> names;
    for (const std::string& file : files_) {
      if (!file.starts_with(prefix)) continue;
      const std::string rest = file.substr(prefix.size());
      names.insert(rest.substr(0, rest.find(separator)));
    }
    if (names.empty()) return std::nullopt;
    return std::vector<std::string>(names.begin(), names.end());
  }
  std::optional<std::string> loaded(const std::string& name) const override { return lookup(loaded_libraries, name); }
  std::optional<std::string> system_library(const std::string& name) const override {
    return lookup(system_libraries, name);
  }
  std::string own_folder() const override { return own; }
  NvrtcFacts facts(const std::string& path) const override {
    asked.insert(path);
    const auto found = facts_.find(path);
    if (found == facts_.end()) throw JitError("NVRTC at " + path + " cannot be loaded: invalid ELF header");
    return found->second;
  }

  std::map<std::string, std::string> variables, loaded_libraries, system_libraries;
  std::string own = "/opt/app/lib";
  mutable std::set<std::string> asked;

 private:
  static std::optional<std::string> lookup(const std::map<std::string, std::string>& table, const std::string& name) {
    const auto found = table.find(name);
    return found == table.end() ? std::nullopt : std::optional(found->second);
  }

  NvrtcNaming naming_;
  std::set<std::string> files_;
  std::map<std::string, NvrtcFacts> facts_;
};

std::string chosen(const NvrtcSearch& search) { return search.choice ? search.choice->path : "none: " + search.error; }

std::string find(const FakeMachine& machine, const NvrtcNeed& need = {}, const std::vector<std::string>& folders = {}) {
  return chosen(find_nvrtc(machine, need, folders));
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

struct Place {
  const char* description;
  NvrtcNaming naming;
  const char* folder;  // where NVRTC 13.0 lies
  std::map<std::string, std::string> variables;
  const char* own;
  std::vector<std::string> search_folders;
};

constexpr NvrtcNaming kLinux = NvrtcNaming::kLinux, kWindows = NvrtcNaming::kWindows;

class EveryPlace : public testing::TestWithParam<Place> {};

TEST_P(EveryPlace, IsFound) {
  const Place& place = GetParam();
  FakeMachine machine(place.naming);
  machine.variables = place.variables;
  machine.own = place.own;
  machine.add_nvrtc(place.folder, 13, 0);
  const std::string expected =
      std::string(place.folder) + (place.naming == kWindows ? "\\nvrtc64_130_0.dll" : "/libnvrtc.so.13");
  EXPECT_EQ(find(machine, {}, place.search_folders), expected);
  EXPECT_EQ(find(machine, {90, 13000}, place.search_folders), expected);
}

INSTANTIATE_TEST_SUITE_P(
    Nvrtc, EveryPlace,
    testing::Values(
        Place{"variable", kLinux, "/x/y", {{"MAMBA_SCAN_NVRTC", "/x/y"}}, "/o", {}},
        Place{"torch_told", kLinux, "/sp/torch/lib", {}, "/o", {"/sp"}},
        Place{"torch_lib_told", kLinux, "/sp/torch/lib", {}, "/o", {"/sp/torch/lib"}},
        Place{"torch_beside_package", kLinux, "/v/site-packages/torch/lib", {}, "/v/site-packages/mamba_scan/lib", {}},
        Place{"pip_13", kLinux, "/sp/nvidia/cu13/lib", {}, "/o", {"/sp"}},
        Place{"pip_12", kLinux, "/sp/nvidia/cuda_nvrtc/lib", {}, "/o", {"/sp"}},
        Place{"pip_debian", kLinux, "/d/dist-packages/nvidia/cu13/lib", {}, "/d/dist-packages/mamba_scan", {}},
        Place{"virtual_env",
              kLinux,
              "/e/lib/python3.12/site-packages/nvidia/cu13/lib",
              {{"VIRTUAL_ENV", "/e"}},
              "/o",
              {}},
        Place{"beside_us", kLinux, "/opt/app/lib", {}, "/opt/app/lib", {}},
        Place{"cuda_home", kLinux, "/c/lib64", {{"CUDA_HOME", "/c"}}, "/o", {}},
        Place{"cuda_path", kLinux, "/c/lib", {{"CUDA_PATH", "/c/"}}, "/o", {}},
        Place{"usr_local", kLinux, "/usr/local/cuda/lib64", {}, "/o", {}},
        Place{"jetpack", kLinux, "/usr/local/cuda/targets/aarch64-linux/lib", {}, "/o", {}},
        Place{"variable", kWindows, "D:\\x", {{"MAMBA_SCAN_NVRTC", "D:\\x"}}, "C:\\o", {}},
        Place{"torch_told", kWindows, "C:\\sp\\torch\\lib", {}, "C:\\o", {"C:\\sp"}},
        Place{"pip_13", kWindows, "C:\\sp\\nvidia\\cu13\\bin\\x86_64", {}, "C:\\o", {"C:\\sp"}},
        Place{"pip_12", kWindows, "C:\\sp\\nvidia\\cuda_nvrtc\\bin", {}, "C:\\o", {"C:\\sp"}},
        Place{"beside_package",
              kWindows,
              "C:\\p\\site-packages\\nvidia\\cu13\\bin\\x86_64",
              {},
              "C:\\p\\site-packages\\mamba_scan\\lib",
              {}},
        Place{
            "virtual_env", kWindows, "C:\\e\\Lib\\site-packages\\torch\\lib", {{"VIRTUAL_ENV", "C:\\e"}}, "C:\\o", {}},
        Place{"beside_us", kWindows, "C:\\Program Files\\m", {}, "C:\\Program Files\\m", {}},
        Place{"cuda_13", kWindows, "C:\\c\\bin\\x64", {{"CUDA_PATH", "C:\\c"}}, "C:\\o", {}},
        Place{"cuda_12", kWindows, "C:\\c\\bin", {{"CUDA_PATH", "C:\\c"}}, "C:\\o", {}},
        Place{"path", kWindows, "C:\\t\\bin", {{"PATH", "C:\\w;;relative;C:\\t\\bin"}}, "C:\\o", {}}),
    [](const auto& info) {
      return std::string(info.param.naming == kWindows ? "windows_" : "linux_") + info.param.description;
    });

TEST(NvrtcDiscovery, TakesAFileFromTheVariableWhateverItsName) {
  FakeMachine machine;
  machine.variables["MAMBA_SCAN_NVRTC"] = "/my/compiler.so";
  machine.add_facts("/my/compiler.so", 12, 9);
  machine.add_nvrtc("/usr/local/cuda/lib64", 13, 0);
  EXPECT_EQ(find(machine), "/my/compiler.so");
}

TEST(NvrtcDiscovery, FailsPlainlyWhenTheVariableIsWrong) {
  FakeMachine machine;
  machine.variables["MAMBA_SCAN_NVRTC"] = "/typo/libnvrtc.so.13";
  machine.add_nvrtc("/usr/local/cuda/lib64", 13, 0);
  const NvrtcSearch search = find_nvrtc(machine, {}, {});
  EXPECT_FALSE(search.choice);
  EXPECT_TRUE(contains(search.error, "MAMBA_SCAN_NVRTC /typo/libnvrtc.so.13: not usable")) << search.error;
  EXPECT_TRUE(contains(search.error, "To fix it: unset MAMBA_SCAN_NVRTC")) << search.error;
}

TEST(NvrtcDiscovery, UsesWhatIsLoadedAlready) {
  FakeMachine machine;
  machine.loaded_libraries["libnvrtc.so.13"] = "/t/libnvrtc.so.13";
  machine.add_facts("/t/libnvrtc.so.13", 13, 0);
  machine.add_nvrtc("/usr/local/cuda/lib64", 13, 0);
  EXPECT_EQ(find(machine), "/t/libnvrtc.so.13");
}

TEST(NvrtcDiscovery, LeavesTheSystemToTheLoaderOnLinux) {
  FakeMachine machine;
  machine.system_libraries["libnvrtc.so.12"] = "/usr/lib/libnvrtc.so.12";
  machine.add_facts("/usr/lib/libnvrtc.so.12", 12, 2);
  EXPECT_EQ(find(machine), "/usr/lib/libnvrtc.so.12");
}

TEST(NvrtcDiscovery, DoesNotAskTheLoaderWhenAnotherPlaceServes) {
  FakeMachine machine;
  machine.system_libraries["libnvrtc.so.13"] = "/usr/lib/libnvrtc.so.13";
  machine.add_facts("/usr/lib/libnvrtc.so.13", 13, 1);
  machine.add_nvrtc("/usr/local/cuda/lib64", 13, 0);
  EXPECT_EQ(find(machine), "/usr/local/cuda/lib64/libnvrtc.so.13");
  EXPECT_EQ(machine.asked.count("/usr/lib/libnvrtc.so.13"), 0u);
}

TEST(NvrtcDiscovery, EarlierPlaceWinsATie) {
  FakeMachine machine;
  machine.add_nvrtc("/sp/torch/lib", 13, 0);
  machine.add_nvrtc("/sp/nvidia/cu13/lib", 13, 0);
  machine.add_nvrtc("/usr/local/cuda/lib64", 13, 0);
  EXPECT_EQ(find(machine, {}, {"/sp"}), "/sp/torch/lib/libnvrtc.so.13");
}

TEST(NvrtcDiscovery, PrefersTheNewestThatTheDriverAcceptsAndThatKnowsTheGpu) {
  FakeMachine machine;
  machine.add_nvrtc("/sp/torch/lib", 12, 4);
  machine.add_nvrtc("/sp/nvidia/cuda_nvrtc/lib", 12, 9);
  machine.add_nvrtc("/sp/nvidia/cu13/lib", 13, 0);
  const std::vector<std::string> folders = {"/sp"};
  const std::string nvrtc13 = "/sp/nvidia/cu13/lib/libnvrtc.so.13",
                    nvrtc129 = "/sp/nvidia/cuda_nvrtc/lib/libnvrtc.so.12";
  EXPECT_EQ(find(machine, {}, folders), nvrtc13);
  EXPECT_EQ(find(machine, {90, 13000}, folders), nvrtc13);
  EXPECT_EQ(find(machine, {90, 12040}, folders), nvrtc129) << "cubins of a newer minor version are accepted";
  EXPECT_EQ(find(machine, {61, 13000}, folders), nvrtc129) << "CUDA 13 no longer compiles for Pascal";
  EXPECT_EQ(find(machine, {121, 13000}, folders), nvrtc13);
  EXPECT_EQ(find(machine, {121, 12040}, folders), "/sp/torch/lib/libnvrtc.so.12")
      << "neither 12.x knows sm_121, and a 12.4 driver refuses PTX of 12.9";
}

TEST(NvrtcDiscovery, PassesOverNvrtcWithoutItsBuiltins) {
  FakeMachine machine;
  machine.add_file("/sp/torch/lib/libnvrtc.so.13");
  machine.add_nvrtc("/usr/local/cuda/lib64", 12, 9);
  machine.add_facts("/sp/torch/lib/libnvrtc.so.13", 13, 0);
  const NvrtcSearch search = find_nvrtc(machine, {}, {"/sp"});
  EXPECT_EQ(chosen(search), "/usr/local/cuda/lib64/libnvrtc.so.12");
  EXPECT_EQ(machine.asked.count("/sp/torch/lib/libnvrtc.so.13"), 0u) << "it was not even loaded";
}

TEST(NvrtcDiscovery, NamesTheBuiltinsThatDoNotMatch) {
  for (const NvrtcNaming naming : {kLinux, kWindows}) {
    FakeMachine machine(naming);
    const bool windows = naming == kWindows;
    const std::string folder = windows ? "C:\\sp\\torch\\lib" : "/sp/torch/lib";
    const std::string separator = windows ? "\\" : "/";
    machine.add_file(folder + separator + nvrtc_name(naming, 13));
    machine.add_file(folder + separator + builtins_name(naming, 12, 9));
    const NvrtcSearch search = find_nvrtc(machine, {}, {windows ? "C:\\sp" : "/sp"});
    EXPECT_FALSE(search.choice);
    EXPECT_TRUE(contains(search.error, windows
                                           ? "nvrtc64_130_0.dll: not usable, nvrtc-builtins64_13*.dll is not beside "
                                             "it (only nvrtc-builtins64_129.dll)"
                                           : "libnvrtc.so.13: not usable, libnvrtc-builtins.so.13.* is not beside "
                                             "it (only libnvrtc-builtins.so.12.9)"))
        << search.error;
  }
}

TEST(NvrtcDiscovery, GoesOnAfterAFileThatDoesNotLoad) {
  FakeMachine machine;
  machine.add_file("/sp/torch/lib/libnvrtc.so.13");
  machine.add_file("/sp/torch/lib/libnvrtc-builtins.so.13.0");
  machine.add_nvrtc("/usr/local/cuda/lib64", 12, 9);
  const NvrtcSearch search = find_nvrtc(machine, {}, {"/sp"});
  EXPECT_EQ(chosen(search), "/usr/local/cuda/lib64/libnvrtc.so.12");
  bool told = false;
  for (const NvrtcPlace& place : search.places) told |= contains(place.found, "invalid ELF header");
  EXPECT_TRUE(told);
}

TEST(NvrtcDiscovery, ListsEveryPlaceAndTheFixWhenThereIsNothing) {
  FakeMachine machine;
  machine.variables["CUDA_HOME"] = "/opt/cuda-12";
  machine.add_file("/opt/cuda-12/lib64/libcudart.so.12");
  machine.own = "/v/lib/python3.11/site-packages/mamba_scan/lib";
  const NvrtcSearch search = find_nvrtc(machine, {90, 12040}, {"/sp"});
  ASSERT_FALSE(search.choice);
  EXPECT_EQ(search.error,
            "no usable NVRTC (CUDA's run-time compiler) was found for a GPU of sm_90, driver for CUDA 12.4.\n"
            "Looked for it in:\n"
            "  MAMBA_SCAN_NVRTC: not set\n"
            "  loaded in this process: nothing\n"
            "  search folder /sp: no such folder\n"
            "  torch /sp/torch/lib: no such folder\n"
            "  torch /v/lib/python3.11/site-packages/torch/lib: no such folder\n"
            "  pip package /sp/nvidia/cu13/lib: no such folder\n"
            "  pip package /sp/nvidia/cuda_nvrtc/lib: no such folder\n"
            "  pip package /v/lib/python3.11/site-packages/nvidia/cu13/lib: no such folder\n"
            "  pip package /v/lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib: no such folder\n"
            "  beside mamba_scan /v/lib/python3.11/site-packages/mamba_scan/lib: no such folder\n"
            "  toolkit (CUDA_PATH): not set\n"
            "  toolkit (CUDA_HOME) /opt/cuda-12/lib64: nothing\n"
            "  toolkit (CUDA_HOME) /opt/cuda-12/lib: no such folder\n"
            "  toolkit /usr/local/cuda/lib64: no such folder\n"
            "  toolkit (JetPack) /usr/local/cuda/targets/aarch64-linux/lib: no such folder\n"
            "  system ld.so.cache, LD_LIBRARY_PATH: nothing\n"
            "To fix it: python -m pip install nvidia-cuda-nvrtc-cu12");
}

TEST(NvrtcDiscovery, NamesThePackageThatFitsDriverAndGpu) {
  const FakeMachine machine;
  const auto fix = [&](const NvrtcNeed& need) {
    const std::string error = find_nvrtc(machine, need, {}).error;
    return error.substr(error.find("To fix it: ") + 11);
  };
  EXPECT_EQ(fix({}), "python -m pip install nvidia-cuda-nvrtc");
  EXPECT_EQ(fix({90, 13000}), "python -m pip install nvidia-cuda-nvrtc");
  EXPECT_EQ(fix({90, 12080}), "python -m pip install nvidia-cuda-nvrtc-cu12");
  EXPECT_EQ(fix({87, 11040}), "update the NVIDIA driver to one for CUDA 12 or newer: older compilers are not used");
  EXPECT_EQ(fix({61, 13000}), "python -m pip install nvidia-cuda-nvrtc-cu12");
}

TEST(NvrtcDiscovery, SaysWhenTheDriverOrTheGpuIsTooOldForWhatIsThere) {
  FakeMachine machine;
  machine.add_nvrtc("/usr/local/cuda/lib64", 13, 0);
  const NvrtcSearch old_driver = find_nvrtc(machine, {90, 12020}, {});
  EXPECT_FALSE(old_driver.choice);
  EXPECT_TRUE(contains(old_driver.error, "version 13.0.1, too new for the driver (CUDA 12.2)")) << old_driver.error;
  EXPECT_TRUE(contains(old_driver.error, "nvidia-cuda-nvrtc-cu12 (or update the NVIDIA driver)")) << old_driver.error;
  const NvrtcSearch old_gpu = find_nvrtc(machine, {61, 13000}, {});
  EXPECT_FALSE(old_gpu.choice);
  EXPECT_TRUE(contains(old_gpu.error, "no longer compiles for sm_61")) << old_gpu.error;
}

TEST(NvrtcDiscovery, AcceptsAnNvrtcOlderThanTheGpu) {
  FakeMachine machine;
  machine.add_nvrtc("/usr/local/cuda/lib64", 13, 0);
  EXPECT_EQ(find(machine, {130, 14000}), "/usr/local/cuda/lib64/libnvrtc.so.13");
}

TEST(NvrtcNames, AreReadAndWritten) {
  EXPECT_EQ(nvrtc_name(kWindows, 13), "nvrtc64_130_0.dll");
  EXPECT_EQ(nvrtc_name(kLinux, 12), "libnvrtc.so.12");
  EXPECT_EQ(builtins_name(kWindows, 13, 5), "nvrtc-builtins64_135.dll");
  EXPECT_EQ(nvrtc_major(kWindows, "NVRTC64_120_0.DLL"), 12);
  EXPECT_EQ(nvrtc_major(kLinux, "libnvrtc.so.13"), 13);
  for (const char* name : {"libnvrtc.so", "libnvrtc.so.13.0.88", "libnvrtc.alt.so.13", "libnvrtc-builtins.so.13.0"}) {
    EXPECT_FALSE(nvrtc_major(kLinux, name)) << name;
  }
  for (const char* name : {"nvrtc64_130_0.alt.dll", "nvrtc-builtins64_130.dll", "nvrtc64_.dll", "nvrtc.dll"}) {
    EXPECT_FALSE(nvrtc_major(kWindows, name)) << name;
  }
  EXPECT_EQ(builtins_major(kLinux, "libnvrtc-builtins.so.12.9"), 12);
  EXPECT_EQ(builtins_major(kWindows, "nvrtc-builtins64_130.dll"), 13);
  EXPECT_FALSE(builtins_major(kWindows, "nvrtc-builtins64_130.alt.dll"));
}

// The real machine's answers, on a made-up folder.
TEST(SystemNvrtcEnvironment, SaysWhyAFileIsNoNvrtc) {
  const test::ScratchFolder scratch;
  const auto environment = system_nvrtc_environment(nullptr);
  ASSERT_TRUE(test::write_plainly(scratch / nvrtc_name(kNativeNaming, 13), "junk"));
  ASSERT_TRUE(test::write_plainly(scratch / builtins_name(kNativeNaming, 13, 0), "junk"));
  const NvrtcSearch search = [&] {
    const test::ScopedVariable variable("MAMBA_SCAN_NVRTC", scratch.path());
    return find_nvrtc(*environment, {}, {});
  }();
  ASSERT_FALSE(search.choice);
  EXPECT_TRUE(contains(search.error, "cannot be loaded")) << search.error;
  EXPECT_TRUE(contains(search.error, scratch.path())) << search.error;
}

// What was found once must be found from another folder, and be told from another file of the same name.
TEST(SystemNvrtcEnvironment, MakesTheVariablesPathAbsolute) {
  const auto environment = system_nvrtc_environment(nullptr);
  const std::string here = platform::absolute_path("folder/nvrtc.so");
  {
    const test::ScopedVariable variable(kNvrtcVariable, "folder/nvrtc.so");
    EXPECT_EQ(environment->variable(kNvrtcVariable), here);
  }
  {
    const test::ScopedVariable variable(kNvrtcVariable, "no_such_library.so");
    EXPECT_EQ(environment->variable(kNvrtcVariable), platform::absolute_path("no_such_library.so"));
  }
  const test::ScopedVariable unset(kNvrtcVariable, "");
  EXPECT_FALSE(environment->variable(kNvrtcVariable));
}

}  // namespace
}  // namespace mamba_scan::jit
