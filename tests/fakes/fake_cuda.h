// The tests' side of the fake driver: finds it, points the runtime at it, asks it what happened.
#pragma once

#include <stdexcept>
#include <string>

#include "fake_cuda_hooks.h"
#include "platform/dynamic_library.h"
#include "platform/environment.h"
#include "platform/files.h"
#include "platform/folders.h"
#include "platform/paths.h"

namespace mamba_scan::tests {

// A file of the build tree, looked for from this program's folder upwards, so that the tree may be moved.
inline std::string find_in_build_tree(const std::string& relative) {
  for (std::string folder = platform::parent_folder(platform::executable_path()); !folder.empty();) {
    const std::string candidate = platform::join(folder, relative);
    if (platform::is_file(candidate)) return candidate;
    const std::string parent = platform::parent_folder(folder);
    if (parent == folder) break;
    folder = parent;
  }
  return "";
}

class FakeCuda {
 public:
#ifdef _WIN32
  static constexpr const char* kRelativePath = "fake_driver/nvcuda.dll";
#else
  static constexpr const char* kRelativePath = "fake_driver/libcuda.so.1";
#endif

  // MAMBA_SCAN_TEST_FAKE_DRIVER, else the one of this build tree.
  static std::string path() {
    const auto named = platform::environment_variable("MAMBA_SCAN_TEST_FAKE_DRIVER");
    const std::string path = named ? *named : find_in_build_tree(kRelativePath);
    if (path.empty()) throw std::runtime_error(std::string("not built: ") + kRelativePath);
    return path;
  }

  // Points MAMBA_SCAN_DRIVER at the fake and starts it afresh.
  explicit FakeCuda(const std::string& settings = "") : library_(platform::DynamicLibrary::open(path())) {
    library_.keep_loaded();
    platform::set_environment_variable("MAMBA_SCAN_DRIVER", path());
    reset(settings);
  }

  void reset(const std::string& settings) { library_.function<FakeCudaReset>("fake_cuda_reset")(settings.c_str()); }
  std::string journal() const { return library_.function<FakeCudaJournal>("fake_cuda_journal")(); }
  long long count(const char* what) const { return library_.function<FakeCudaCount>("fake_cuda_count")(what); }
  void on_launch(FakeCudaKernel kernel) { library_.function<FakeCudaOnLaunch>("fake_cuda_on_launch")(kernel); }
  void pass_time(double microseconds) { library_.function<FakeCudaPassTime>("fake_cuda_pass_time")(microseconds); }

  // Everything made has been given back, and nothing twice.
  bool balanced() const {
    return count("live_allocations") == 0 && count("live_pinned") == 0 && count("live_streams") == 0 &&
           count("live_events") == 0 && count("live_libraries") == 0 && count("live_modules") == 0 &&
           count("retained_contexts") == 0 && count("pushed_contexts") == 0 && count("misuse") == 0;
  }

 private:
  platform::DynamicLibrary library_;
};

}  // namespace mamba_scan::tests
