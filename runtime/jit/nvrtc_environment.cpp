#include "jit/nvrtc_environment.h"

#include <nlohmann/json.hpp>

#include "jit/disk_cache.h"
#include "jit/sha256.h"
#include "platform/dynamic_library.h"
#include "platform/environment.h"
#include "platform/files.h"
#include "platform/folders.h"
#include "platform/paths.h"

namespace mamba_scan::jit {
namespace {

// Changes when the file is replaced, or the builtins beside it; nothing where that cannot be seen.
std::optional<std::string> fingerprint(const std::string& path) {
  std::vector<platform::FileInfo> files;
  platform::FileInfo own;
  if (!platform::file_info(path, &own) || !platform::list_folder(platform::parent_folder(path), &files))
    return std::nullopt;
  std::string text = "nvrtc facts 1\n" + path + "\n";
  std::vector<std::string> lines;
  for (const platform::FileInfo& file : files) {
    if (file.name != platform::file_name(path) && !builtins_major(kNativeNaming, file.name)) continue;
    lines.push_back(file.name + " " + std::to_string(file.size) + " " +
                    std::to_string(file.modified.time_since_epoch().count()) + "\n");
  }
  std::sort(lines.begin(), lines.end());
  for (const std::string& line : lines) text += line;
  return sha256_hex(text);
}

class SystemNvrtcEnvironment : public NvrtcEnvironment {
 public:
  explicit SystemNvrtcEnvironment(DiskCache* cache) : cache_(cache) {}

  NvrtcNaming naming() const override { return kNativeNaming; }

  std::optional<std::string> variable(const std::string& name) const override {
    const std::optional<std::string> value = platform::environment_variable(name);
    return value && name == kNvrtcVariable ? std::optional(file_named(*value)) : value;
  }

  std::optional<std::vector<std::string>> list(const std::string& folder) const override {
    std::vector<platform::FileInfo> entries;
    if (!platform::list_folder(folder, &entries)) return std::nullopt;
    std::vector<std::string> names;
    for (platform::FileInfo& entry : entries) names.push_back(std::move(entry.name));
    return names;
  }

  std::optional<std::string> loaded(const std::string& name) const override {
    const auto library = platform::DynamicLibrary::find_loaded(name);
    if (!library || !platform::is_absolute(library->path())) return std::nullopt;
    return library->path();
  }

  std::optional<std::string> system_library(const std::string& name) const override {
    const auto library = platform::DynamicLibrary::try_open_system(name, nullptr);
    if (!library || !platform::is_absolute(library->path())) return std::nullopt;
    return library->path();
  }

  std::string own_folder() const override {
    static const char anchor = 0;
    return platform::library_folder_of(&anchor);
  }

  NvrtcFacts facts(const std::string& path) const override {
    const std::optional<std::string> key = cache_ != nullptr ? fingerprint(path) : std::nullopt;
    if (key) {
      if (const auto note = cache_->load_note(*key)) {
        const auto json = nlohmann::json::parse(*note, nullptr, false);
        if (json.is_object()) {
          return {json.value("major", 0), json.value("minor", 0), json.value("version", ""), json.value("build", ""),
                  json.value("archs", std::vector<int>{})};
        }
      }
    }
    const NvrtcFacts facts = NvrtcLibrary::load(path)->facts();
    if (key) {
      const nlohmann::json json = {{"path", path},         {"major", facts.major},
                                   {"minor", facts.minor}, {"version", facts.version},
                                   {"build", facts.build}, {"archs", facts.archs}};
      cache_->store_note(*key, json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    }
    return facts;
  }

 private:
  // The absolute path of a library that a relative one means now, or a bare name to the loader.
  std::string file_named(const std::string& path) const {
    const std::string absolute = platform::absolute_path(path);
    platform::FileInfo info;
    if (path != platform::file_name(path) || platform::file_info(absolute, &info)) return absolute;
    return system_library(path).value_or(absolute);
  }

  DiskCache* cache_;
};

}  // namespace

std::unique_ptr<NvrtcEnvironment> system_nvrtc_environment(DiskCache* cache) {
  return std::make_unique<SystemNvrtcEnvironment>(cache);
}

}  // namespace mamba_scan::jit
