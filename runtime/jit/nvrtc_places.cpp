#include "jit/nvrtc_places.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

namespace mamba_scan::jit {
namespace {

using Kind = CandidatePlace::Kind;

// Paths here follow the machine that is described, which in a test is not the one that runs.
class PlaceList {
 public:
  explicit PlaceList(const NvrtcEnvironment& environment)
      : environment_(environment), separator_(environment.naming() == NvrtcNaming::kWindows ? '\\' : '/') {}

  std::string joined(std::string folder, const std::string& below) const {
    while (folder.size() > 1 && (folder.back() == '/' || folder.back() == separator_)) folder.pop_back();
    std::string out = folder + "/" + below;
    if (separator_ != '/') std::replace(out.begin(), out.end(), '/', separator_);
    return out;
  }

  std::string parent(const std::string& path) const {
    const std::size_t cut = path.find_last_of(separator_ == '/' ? "/" : "\\/");
    return cut == std::string::npos ? std::string() : path.substr(0, cut);
  }

  void folder(const std::string& place, const std::string& path) {
    if (!path.empty() && seen_.insert(path).second) places_.push_back({place, path, Kind::kFolder, {}});
  }
  void file(const std::string& place, const std::string& path) {
    if (seen_.insert(path).second) places_.push_back({place, path, Kind::kFile, {}});
  }
  void system(const std::string& place, const std::string& where) {
    places_.push_back({place, where, Kind::kSystem, {}});
  }
  void note(const std::string& place, const std::string& where, const std::string& text) {
    places_.push_back({place, where, Kind::kNote, text});
  }

  bool windows() const { return environment_.naming() == NvrtcNaming::kWindows; }
  const NvrtcEnvironment& environment() const { return environment_; }
  std::vector<CandidatePlace> take() { return std::move(places_); }

 private:
  const NvrtcEnvironment& environment_;
  char separator_;
  std::set<std::string> seen_;
  std::vector<CandidatePlace> places_;
};

void add_loaded(PlaceList& list) {
  bool any = false;
  for (const std::string& name : nvrtc_names(list.environment().naming())) {
    if (const auto path = list.environment().loaded(name)) {
      list.file("loaded in this process", *path);
      any = true;
    }
  }
  if (!any) list.note("loaded in this process", "", "nothing");
}

void add_torch(PlaceList& list, const std::vector<std::string>& roots) {
  for (const std::string& root : roots) list.folder("torch", list.joined(root, "torch/lib"));
}

void add_pip(PlaceList& list, const std::vector<std::string>& roots) {
  for (const std::string& root : roots) {
    const std::string nvidia = list.joined(root, "nvidia");
    // CUDA 13 and later install into cu13, cu14, ...; CUDA 12 into a folder named after the library.
    for (int major = kNewestNvrtcMajor; major >= 13; --major) {
      const std::string below = "cu" + std::to_string(major) + (list.windows() ? "/bin/x86_64" : "/lib");
      const std::string path = list.joined(nvidia, below);
      // Those of releases to come are worth a line only where they exist.
      if (major == 13 || list.environment().list(path)) list.folder("pip package", path);
    }
    list.folder("pip package", list.joined(nvidia, list.windows() ? "cuda_nvrtc/bin" : "cuda_nvrtc/lib"));
  }
}

void add_toolkit(PlaceList& list) {
  for (const char* name : {"CUDA_PATH", "CUDA_HOME"}) {
    const auto root = list.environment().variable(name);
    const std::string place = std::string("toolkit (") + name + ")";
    if (!root) {
      list.note(place, "", "not set");
    } else if (list.windows()) {
      list.folder(place, list.joined(*root, "bin/x64"));
      list.folder(place, list.joined(*root, "bin"));
    } else {
      list.folder(place, list.joined(*root, "lib64"));
      list.folder(place, list.joined(*root, "lib"));
    }
  }
  if (list.windows()) return;
  list.folder("toolkit", "/usr/local/cuda/lib64");
  list.folder("toolkit (JetPack)", "/usr/local/cuda/targets/aarch64-linux/lib");
}

void add_system(PlaceList& list) {
  if (list.windows()) {
    // Not left to the loader: it would also look into the current folder.
    std::string_view rest;
    const std::string search_path = list.environment().variable("PATH").value_or("");
    rest = search_path;
    while (!rest.empty()) {
      const std::size_t end = std::min(rest.find(';'), rest.size());
      const std::string folder(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
      const bool absolute = folder.size() > 2 && (folder[1] == ':' || folder.starts_with("\\\\"));
      const auto names = absolute ? list.environment().list(folder) : std::nullopt;
      // PATH is long; only folders with NVRTC in them are worth a line.
      if (names && std::any_of(names->begin(), names->end(), [](const std::string& name) {
            return nvrtc_major(NvrtcNaming::kWindows, name).has_value();
          })) {
        list.folder("PATH", folder);
      }
    }
    list.note("PATH", "", "every folder looked into");
    return;
  }
  list.system("system", "ld.so.cache, LD_LIBRARY_PATH");
}

}  // namespace

std::vector<std::string> site_packages_folders(const NvrtcEnvironment& environment) {
  PlaceList list(environment);
  std::vector<std::string> roots;
  std::string folder = environment.own_folder();
  for (int level = 0; level < 4 && !folder.empty(); ++level) {
    if (folder.ends_with("site-packages") || folder.ends_with("dist-packages")) roots.push_back(folder);
    folder = list.parent(folder);
  }
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    const auto root = environment.variable(name);
    if (!root) continue;
    if (list.windows()) {
      roots.push_back(list.joined(*root, "Lib/site-packages"));
      continue;
    }
    const std::string lib = list.joined(*root, "lib");
    for (const std::string& entry : environment.list(lib).value_or(std::vector<std::string>{})) {
      if (entry.starts_with("python3.")) roots.push_back(list.joined(lib, entry + "/site-packages"));
    }
  }
  return roots;
}

std::vector<CandidatePlace> nvrtc_places(const NvrtcEnvironment& environment,
                                         const std::vector<std::string>& search_folders) {
  PlaceList list(environment);
  if (const auto path = environment.variable(kNvrtcVariable)) {
    // Who sets it wants this one; silently taking another would hide the mistake.
    if (environment.list(*path)) {
      list.folder(kNvrtcVariable, *path);
    } else {
      list.file(kNvrtcVariable, *path);
    }
    return list.take();
  }
  list.note(kNvrtcVariable, "", "not set");
  add_loaded(list);
  std::vector<std::string> roots = search_folders;
  for (std::string& root : site_packages_folders(environment)) roots.push_back(std::move(root));
  for (const std::string& folder : search_folders) list.folder("search folder", folder);
  add_torch(list, roots);
  add_pip(list, roots);
  list.folder("beside mamba_scan", environment.own_folder());
  add_toolkit(list);
  add_system(list);
  return list.take();
}

}  // namespace mamba_scan::jit
