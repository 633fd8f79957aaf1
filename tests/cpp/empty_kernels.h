// A kernel folder in which every shipped kernel compiles in a moment and does nothing: for tests of what happens
// around kernels.
#pragma once

#include <map>
#include <set>
#include <string>

#include "jit_test_support.h"
#include "ops/plan.h"

namespace mamba_scan::test {

inline void write_empty_kernels(const std::string& folder) {
  std::map<std::string, std::set<std::string>> entries;  // by source file
  for (const jit::Variant& variant : ops::shipped_variants(90)) entries[variant.source].insert(variant.entry);
  for (const auto& [source, names] : entries) {
    std::string text;
    for (const std::string& name : names) {
      text += "extern \"C\" __global__ void " + name + "(unsigned char* p) { if (p) *p = 0; }\n";
    }
    const std::string path = platform::join(folder, source);
    platform::create_folders(platform::parent_folder(path));
    write_plainly(path, text);
  }
}

}  // namespace mamba_scan::test
