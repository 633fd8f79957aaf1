// The places where NVRTC may lie, in the order of preference.
#pragma once

#include <string>
#include <vector>

#include "jit/nvrtc_environment.h"

namespace mamba_scan::jit {

struct CandidatePlace {
  enum class Kind {
    kFolder,  // look for NVRTC's names in it
    kFile,    // this file, whatever it is called
    kSystem,  // ask the loader for NVRTC's names
    kNote,    // nothing to look into; `note` says why
  };
  std::string place;
  std::string where;
  Kind kind = Kind::kFolder;
  std::string note;
};

std::vector<CandidatePlace> nvrtc_places(const NvrtcEnvironment& environment,
                                         const std::vector<std::string>& search_folders);

// Python package folders near the program: above our own library, and those of an active virtual environment.
std::vector<std::string> site_packages_folders(const NvrtcEnvironment& environment);

}  // namespace mamba_scan::jit
