// Kernel text: what is built into the program, or, for work on kernels, the folder in MAMBA_SCAN_KERNEL_DIR.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "platform/export.h"

namespace mamba_scan::jit {

struct SourceFile {
  std::string name;
  std::string text;
};

// One kernel file and every header it reaches, each under the name its #include uses: so NVRTC finds them in memory,
// and no -I, no temporary folder and no user name with odd letters is involved.
struct SourceBundle {
  SourceFile source;
  std::vector<SourceFile> headers;  // sorted by name
};

class MAMBA_SCAN_API KernelSources {
 public:
  // MAMBA_SCAN_KERNEL_DIR if set, else the text in this program.
  static KernelSources from_environment();
  static KernelSources embedded();
  // Files are read anew for every bundle, so that an edit counts from the next build on.
  static KernelSources from_folder(const std::string& folder);
  // Path inside kernels/ -> text.
  static KernelSources from_files(std::map<std::string, std::string> files);

  // Headers are named from the root of kernels/ or relative to the file that includes them. One that does not exist
  // is left for the compiler to judge: the directive may stand in a branch that is not taken.
  // Throws JitError when `source` is not there.
  SourceBundle bundle(const std::string& source) const;

  // "built in" or the folder.
  std::string origin() const { return folder_.empty() ? "built in" : folder_; }
  std::vector<std::string> files() const;  // paths inside kernels/; empty for a folder

 private:
  bool read(const std::string& path, std::string* text) const;

  std::string folder_;
  std::map<std::string, std::string> files_;
};

}  // namespace mamba_scan::jit
