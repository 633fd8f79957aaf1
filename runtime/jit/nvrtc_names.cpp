#include "jit/nvrtc_names.h"

#include <algorithm>
#include <cctype>
#include <charconv>

namespace mamba_scan::jit {
namespace {

// The decimal number at the start of `text`, which it takes away.
std::optional<int> take_number(std::string_view& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return out;
}

}  // namespace

std::string nvrtc_name(NvrtcNaming naming, int major) {
  const std::string number = std::to_string(major);
  return naming == NvrtcNaming::kWindows ? "nvrtc64_" + number + "0_0.dll" : "libnvrtc.so." + number;
}

std::string builtins_name(NvrtcNaming naming, int major, int minor) {
  const std::string high = std::to_string(major), low = std::to_string(minor);
  return naming == NvrtcNaming::kWindows ? "nvrtc-builtins64_" + high + low + ".dll"
                                         : "libnvrtc-builtins.so." + high + "." + low;
}

std::vector<std::string> nvrtc_names(NvrtcNaming naming) {
  std::vector<std::string> names;
  for (int major = kNewestNvrtcMajor; major >= kOldestNvrtcMajor; --major) names.push_back(nvrtc_name(naming, major));
  return names;
}

std::optional<int> nvrtc_major(NvrtcNaming naming, std::string_view file_name) {
  const std::string name = naming == NvrtcNaming::kWindows ? lower(file_name) : std::string(file_name);
  std::string_view rest = name;
  if (!take(rest, naming == NvrtcNaming::kWindows ? "nvrtc64_" : "libnvrtc.so.")) return std::nullopt;
  const std::optional<int> number = take_number(rest);
  if (!number) return std::nullopt;
  if (naming == NvrtcNaming::kLinux) return rest.empty() ? number : std::nullopt;
  return rest == "_0.dll" ? std::optional<int>(*number / 10) : std::nullopt;
}

std::optional<int> builtins_major(NvrtcNaming naming, std::string_view file_name) {
  const std::string name = naming == NvrtcNaming::kWindows ? lower(file_name) : std::string(file_name);
  std::string_view rest = name;
  if (!take(rest, naming == NvrtcNaming::kWindows ? "nvrtc-builtins64_" : "libnvrtc-builtins.so.")) {
    return std::nullopt;
  }
  const std::optional<int> number = take_number(rest);
  if (!number) return std::nullopt;
  if (naming == NvrtcNaming::kLinux) return rest.starts_with('.') ? number : std::nullopt;
  return rest == ".dll" ? std::optional<int>(*number / 10) : std::nullopt;
}

}  // namespace mamba_scan::jit
