#include "jit/kernel_sources.h"

#include <string_view>

#include "jit/embedded_kernels.h"
#include "jit/jit_error.h"
#include "platform/environment.h"
#include "platform/files.h"
#include "platform/folders.h"
#include "platform/paths.h"

namespace mamba_scan::jit {
namespace {

std::string_view skip_spaces(std::string_view text) {
  const std::size_t start = text.find_first_not_of(" \t");
  return start == std::string_view::npos ? std::string_view{} : text.substr(start);
}

// The names in #include "..." directives. <...> is for the host's own headers and never reaches NVRTC.
std::vector<std::string> quoted_includes(std::string_view text) {
  std::vector<std::string> names;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    std::string_view line = skip_spaces(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (!line.starts_with('#')) continue;
    line = skip_spaces(line.substr(1));
    if (!line.starts_with("include")) continue;
    line = skip_spaces(line.substr(7));
    const std::size_t close = line.find('"', 1);
    if (line.starts_with('"') && close != std::string_view::npos) names.emplace_back(line.substr(1, close - 1));
  }
  return names;
}

// "a/b/../c.h" -> "a/c.h"
std::string normalised(const std::string& path) {
  std::vector<std::string> parts;
  for (std::size_t start = 0; start <= path.size();) {
    const std::size_t end = std::min(path.find('/', start), path.size());
    const std::string part = path.substr(start, end - start);
    if (part == ".." && !parts.empty() && parts.back() != "..") {
      parts.pop_back();
    } else if (!part.empty() && part != ".") {
      parts.push_back(part);
    }
    start = end + 1;
  }
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : "/") + part;
  return out;
}

}  // namespace

KernelSources KernelSources::from_environment() {
  const auto folder = platform::environment_variable("MAMBA_SCAN_KERNEL_DIR");
  return folder ? from_folder(platform::absolute_path(*folder)) : embedded();
}

KernelSources KernelSources::embedded() {
  KernelSources sources;
  for (const EmbeddedFile& file : embedded_kernels()) sources.files_.emplace(file.path, file.text);
  return sources;
}

KernelSources KernelSources::from_folder(const std::string& folder) {
  KernelSources sources;
  sources.folder_ = folder;
  return sources;
}

KernelSources KernelSources::from_files(std::map<std::string, std::string> files) {
  KernelSources sources;
  sources.files_ = std::move(files);
  return sources;
}

bool KernelSources::read(const std::string& path, std::string* text) const {
  if (path.empty() || path.starts_with("..")) return false;  // nothing outside kernels/
  if (!folder_.empty()) return static_cast<bool>(platform::read_file(platform::join(folder_, path), text));
  const auto found = files_.find(path);
  if (found == files_.end()) return false;
  *text = found->second;
  return true;
}

SourceBundle KernelSources::bundle(const std::string& source) const {
  SourceBundle out;
  out.source.name = source;
  if (!read(source, &out.source.text)) {
    throw JitError("the kernel source " + source + " is not there (kernel text: " + origin() + ")" +
                   (folder_.empty() ? "" : "; unset MAMBA_SCAN_KERNEL_DIR to use the text that is built in"));
  }
  struct Header {
    std::string path;
    std::string text;
  };
  std::map<std::string, Header> headers;  // by the name that #include uses
  struct Pending {
    std::string folder;
    std::string text;
  };
  const auto folder_of = [](const std::string& path) {
    const std::size_t cut = path.rfind('/');
    return cut == std::string::npos ? std::string() : path.substr(0, cut + 1);
  };
  std::vector<Pending> pending = {{folder_of(source), out.source.text}};
  while (!pending.empty()) {
    const Pending current = std::move(pending.back());
    pending.pop_back();
    for (const std::string& name : quoted_includes(current.text)) {
      // The order of every C++ compiler: beside the including file first.
      Header header{normalised(current.folder + name), {}};
      if (!read(header.path, &header.text)) {
        header.path = normalised(name);
        if (!read(header.path, &header.text)) continue;
      }
      const auto [found, added] = headers.try_emplace(name, header);
      if (!added && found->second.path != header.path) {
        throw JitError("#include \"" + name + "\" means both " + found->second.path + " and " + header.path + " in " +
                       source + "; name it from the root of kernels/");
      }
      if (added) pending.push_back({folder_of(header.path), header.text});
    }
  }
  for (auto& [name, header] : headers) out.headers.push_back({name, std::move(header.text)});
  return out;
}

std::vector<std::string> KernelSources::files() const {
  std::vector<std::string> out;
  for (const auto& [path, text] : files_) out.push_back(path);
  return out;
}

}  // namespace mamba_scan::jit
