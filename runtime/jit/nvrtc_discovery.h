// Finds the NVRTC to use among those on this machine, and says where it looked.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "jit/nvrtc_environment.h"
#include "platform/export.h"

namespace mamba_scan::jit {

// Zero: not known, so no reason to prefer one NVRTC to another.
struct NvrtcNeed {
  int capability = 0;           // 90 for sm_90
  int driver_cuda_version = 0;  // cuDriverGetVersion(): 12040 for CUDA 12.4
};

struct NvrtcChoice {
  std::string path;
  std::string place;  // "torch", "pip package", ...
  NvrtcFacts facts;
};

struct NvrtcPlace {
  std::string place;  // what kind of place
  std::string where;  // the folder, file or variable
  std::string found;  // "nothing", "no such folder", "libnvrtc.so.13: usable, 13.0.88", ...
};

struct NvrtcSearch {
  std::optional<NvrtcChoice> choice;
  std::vector<NvrtcPlace> places;  // in the order they were tried
  std::string error;               // when there is no choice: everything above and what to do, ready to show
  std::string remedy;              // then, too: what to do alone
};

// Order: MAMBA_SCAN_NVRTC (a file or a folder; when set, it alone counts), already loaded in the process, torch/lib,
// NVIDIA's pip packages, beside our own library, the toolkit (CUDA_PATH, CUDA_HOME, /usr/local/cuda), the system.
// Of several, the newest that the driver accepts and that lists the GPU; the earlier place wins a tie.
// `search_folders`: each a folder that holds NVRTC, or a site-packages folder.
MAMBA_SCAN_API NvrtcSearch find_nvrtc(const NvrtcEnvironment& environment, const NvrtcNeed& need,
                                      const std::vector<std::string>& search_folders);

}  // namespace mamba_scan::jit
