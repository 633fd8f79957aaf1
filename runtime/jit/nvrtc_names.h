// How NVRTC's files are called on each system.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mamba_scan::jit {

enum class NvrtcNaming { kLinux, kWindows };

#if defined(_WIN32)
inline constexpr NvrtcNaming kNativeNaming = NvrtcNaming::kWindows;
#else
inline constexpr NvrtcNaming kNativeNaming = NvrtcNaming::kLinux;
#endif

// "libnvrtc.so.13", "nvrtc64_130_0.dll": one name for all of CUDA 13.
std::string nvrtc_name(NvrtcNaming naming, int major);
// "libnvrtc-builtins.so.13.0", "nvrtc-builtins64_130.dll": the minor version counts.
std::string builtins_name(NvrtcNaming naming, int major, int minor);

// The CUDA major version such a file belongs to; nothing for other files.
std::optional<int> nvrtc_major(NvrtcNaming naming, std::string_view file_name);
std::optional<int> builtins_major(NvrtcNaming naming, std::string_view file_name);

// "NVRTC 12 or newer": what came before cannot compile for the GPUs of today and has no cubin for some of them.
inline constexpr int kOldestNvrtcMajor = 12;
inline constexpr int kNewestNvrtcMajor = 16;  // how far to look for what does not exist yet

// The names of all of these, the newest first.
std::vector<std::string> nvrtc_names(NvrtcNaming naming);

}  // namespace mamba_scan::jit
