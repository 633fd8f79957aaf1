#include "jit/nvrtc_discovery.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "jit/jit_error.h"
#include "jit/nvrtc_places.h"

namespace mamba_scan::jit {
namespace {

// Turing is the oldest that CUDA 13 compiles for.
constexpr int kOldestCapabilityOfCuda13 = 75;

std::string cuda_version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

class Search {
 public:
  Search(const NvrtcEnvironment& environment, const NvrtcNeed& need) : environment_(environment), need_(need) {}

  void look_into(const CandidatePlace& place) {
    switch (place.kind) {
      case CandidatePlace::Kind::kNote:
        report(place, place.note);
        break;
      case CandidatePlace::Kind::kFile:
        report(place, judge(place, place.where));
        break;
      case CandidatePlace::Kind::kFolder:
        report(place, look_into_folder(place));
        break;
      case CandidatePlace::Kind::kSystem:
        report(place, ask_the_loader(place));
        break;
    }
  }

  NvrtcSearch finish() {
    if (!result_.choice) {
      result_.remedy = remedy();
      result_.error = explain() + "To fix it: " + result_.remedy;
    }
    return std::move(result_);
  }

 private:
  void report(const CandidatePlace& place, const std::string& found) {
    result_.places.push_back({place.place, place.where, found});
  }

  std::string look_into_folder(const CandidatePlace& place) {
    const auto names = environment_.list(place.where);
    if (!names) return "no such folder";
    std::string found;
    for (int major = kNewestNvrtcMajor; major >= kOldestNvrtcMajor; --major) {
      for (const std::string& name : *names) {
        if (nvrtc_major(environment_.naming(), name) != major) continue;
        found += (found.empty() ? "" : "; ") + name + ": " + check_builtins_and_judge(place, name, major, *names);
      }
    }
    return found.empty() ? "nothing" : found;
  }

  // The loader answers by loading the library, all 100 MB of it: only asked when nothing else has served.
  std::string ask_the_loader(const CandidatePlace& place) {
    if (result_.choice) return "not asked, there is one already";
    std::string found;
    for (const std::string& name : nvrtc_names(environment_.naming())) {
      if (const auto path = environment_.system_library(name)) {
        found += (found.empty() ? "" : "; ") + *path + ": " + judge(place, *path);
      }
    }
    return found.empty() ? "nothing" : found;
  }

  // NVRTC without its builtins loads, and fails at the first compile; the folder tells earlier and plainer.
  std::string check_builtins_and_judge(const CandidatePlace& place, const std::string& name, int major,
                                       const std::vector<std::string>& names) {
    std::string other;
    for (const std::string& candidate : names) {
      const auto found = builtins_major(environment_.naming(), candidate);
      if (found == major) {
        const char* separator = environment_.naming() == NvrtcNaming::kWindows ? "\\" : "/";
        const bool ends = place.where.ends_with('/') || place.where.ends_with(separator);
        return judge(place, place.where + (ends ? "" : separator) + name);
      }
      if (found) other = candidate;
    }
    const std::string wanted = environment_.naming() == NvrtcNaming::kWindows
                                   ? "nvrtc-builtins64_" + std::to_string(major) + "*.dll"
                                   : "libnvrtc-builtins.so." + std::to_string(major) + ".*";
    return "not usable, " + wanted + " is not beside it" + (other.empty() ? "" : " (only " + other + ")");
  }

  // Says what the file is good for, and keeps it if it is the best so far.
  std::string judge(const CandidatePlace& place, const std::string& path) {
    if (!judged_.insert(path).second) return "the same file again";
    NvrtcFacts facts;
    try {
      facts = environment_.facts(path);
    } catch (const JitError& error) {
      return std::string("not usable, ") + error.what();
    }
    const int driver_major = need_.driver_cuda_version / 1000;
    if (driver_major != 0 && facts.major > driver_major) {
      newer_than_driver_ = true;
      return "version " + facts.version + ", too new for the driver (CUDA " + cuda_version(need_.driver_cuda_version) +
             ")";
    }
    const bool lists_gpu = need_.capability == 0 || facts.lists(need_.capability);
    if (!lists_gpu && need_.capability < facts.archs.front()) {
      return "version " + facts.version + ", no longer compiles for sm_" + std::to_string(need_.capability);
    }
    // PTX, unlike a cubin, is refused by a driver that is older than the compiler by even a minor version.
    const bool ptx_accepted = lists_gpu || need_.driver_cuda_version == 0 ||
                              1000 * facts.major + 10 * facts.minor <= need_.driver_cuda_version;
    const Rank rank{lists_gpu, ptx_accepted, facts.major, facts.minor};
    if (!result_.choice || rank > best_) {
      best_ = rank;
      result_.choice = NvrtcChoice{path, place.place, facts};
    }
    return "version " + facts.version + (lists_gpu ? "" : ", does not know sm_" + std::to_string(need_.capability));
  }

  std::string explain() const {
    std::string text = "no usable NVRTC (CUDA's run-time compiler) was found";
    if (need_.capability != 0) text += " for a GPU of sm_" + std::to_string(need_.capability);
    if (need_.driver_cuda_version != 0) text += ", driver for CUDA " + cuda_version(need_.driver_cuda_version);
    text += ".\nLooked for it in:\n";
    for (const NvrtcPlace& place : result_.places) {
      text += "  " + place.place + (place.where.empty() ? "" : " " + place.where) + ": " + place.found + "\n";
    }
    return text;
  }

  std::string remedy() const {
    if (result_.places.size() == 1 && result_.places.front().place == "MAMBA_SCAN_NVRTC") {
      return "unset MAMBA_SCAN_NVRTC, or let it name " + nvrtc_name(environment_.naming(), 13) +
             " (or its folder) with its builtins library beside it";
    }
    if (need_.driver_cuda_version != 0 && need_.driver_cuda_version / 1000 < kOldestNvrtcMajor) {
      return "update the NVIDIA driver to one for CUDA " + std::to_string(kOldestNvrtcMajor) +
             " or newer: older compilers are not used";
    }
    const bool driver_needs_12 = need_.driver_cuda_version != 0 && need_.driver_cuda_version < 13000;
    const bool gpu_needs_12 = need_.capability != 0 && need_.capability < kOldestCapabilityOfCuda13;
    std::string text = driver_needs_12 || gpu_needs_12 ? "python -m pip install nvidia-cuda-nvrtc-cu12"
                                                       : "python -m pip install nvidia-cuda-nvrtc";
    if (newer_than_driver_ && driver_needs_12) text += " (or update the NVIDIA driver)";
    return text;
  }

  using Rank = std::tuple<bool, bool, int, int>;

  const NvrtcEnvironment& environment_;
  const NvrtcNeed need_;
  NvrtcSearch result_;
  std::set<std::string> judged_;
  Rank best_;
  bool newer_than_driver_ = false;
};

}  // namespace

NvrtcSearch find_nvrtc(const NvrtcEnvironment& environment, const NvrtcNeed& need,
                       const std::vector<std::string>& search_folders) {
  Search search(environment, need);
  for (const CandidatePlace& place : nvrtc_places(environment, search_folders)) search.look_into(place);
  return search.finish();
}

}  // namespace mamba_scan::jit
