#include "platform/paths.h"

#include <algorithm>
#include <cctype>
#include <cstddef>

namespace mamba_scan::platform {
namespace {

#if defined(_WIN32)
constexpr char kSeparator = '\\';
constexpr std::string_view kSeparators = "\\/";
#else
constexpr char kSeparator = '/';
constexpr std::string_view kSeparators = "/";
#endif

// Length of what cannot be taken off a path: "/", "C:\", "\\server\share\".
std::size_t root_length(std::string_view path) {
#if defined(_WIN32)
  if (path.size() >= 2 && std::isalpha(static_cast<unsigned char>(path[0])) && path[1] == ':') {
    return path.size() >= 3 && kSeparators.find(path[2]) != std::string_view::npos ? 3 : 2;
  }
  if (path.size() >= 2 && kSeparators.find(path[0]) != std::string_view::npos &&
      kSeparators.find(path[1]) != std::string_view::npos) {
    const std::size_t server = path.find_first_of(kSeparators, 2);
    if (server == std::string_view::npos) return path.size();
    const std::size_t share = path.find_first_of(kSeparators, server + 1);
    return share == std::string_view::npos ? path.size() : share + 1;
  }
#endif
  return !path.empty() && kSeparators.find(path[0]) != std::string_view::npos ? 1 : 0;
}

std::string_view without_trailing_separators(std::string_view path) {
  const std::size_t root = root_length(path);
  while (path.size() > root && kSeparators.find(path.back()) != std::string_view::npos) path.remove_suffix(1);
  return path;
}

}  // namespace

std::string join(std::string_view folder, std::string_view name) {
  std::string out(without_trailing_separators(folder));
  if (!out.empty() && kSeparators.find(out.back()) == std::string_view::npos) out.push_back(kSeparator);
  out.append(name);
  if (kSeparator != '/') std::replace(out.begin(), out.end(), '/', kSeparator);
  return out;
}

std::string parent_folder(std::string_view path) {
  path = without_trailing_separators(path);
  const std::size_t root = root_length(path);
  const std::size_t cut = path.find_last_of(kSeparators);
  if (cut == std::string_view::npos || path.size() <= root) return {};
  return std::string(without_trailing_separators(path.substr(0, std::max(cut, root))));
}

std::string file_name(std::string_view path) {
  path = without_trailing_separators(path);
  const std::size_t cut = path.find_last_of(kSeparators);
  return std::string(cut == std::string_view::npos ? path : path.substr(cut + 1));
}

bool is_absolute(std::string_view path) {
#if defined(_WIN32)
  const std::size_t root = root_length(path);
  return root >= 3 || (root >= 2 && path[1] != ':');
#else
  return root_length(path) > 0;
#endif
}

}  // namespace mamba_scan::platform
