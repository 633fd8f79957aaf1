#include "scan_work.h"

#include <sstream>

#include "ops/work.h"
#include "platform/error.h"

namespace mamba_scan::binding {
namespace {

DType dtype_named(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "float16") return DType::kFloat16;
  if (name == "bfloat16") return DType::kBFloat16;
  throw ArgumentError("dtype: got '" + name + "', needed float32, float16 or bfloat16");
}

void add_feature(SelectiveScanProblem& problem, const std::string& word) {
  static float somewhere[1];  // only whether a tensor is there counts
  if (word == "D") {
    problem.D = somewhere;
  } else if (word == "z") {
    problem.z.data = somewhere;
  } else if (word == "delta_bias") {
    problem.delta_bias = somewhere;
  } else if (word == "initial_state") {
    problem.initial_state.data = somewhere;
  } else if (word == "final_state") {
    problem.final_state.data = somewhere;
  } else if (word == "constant_B") {
    problem.B.constant = true;
  } else if (word == "constant_C") {
    problem.C.constant = true;
  } else if (word == "complex") {
    problem.is_complex = true;
  } else {
    throw ArgumentError("features: got '" + word +
                        "', needed words of: D z delta_bias initial_state final_state constant_B constant_C complex");
  }
}

}  // namespace

std::pair<std::int64_t, std::int64_t> scan_work(const ScanDescription& description) {
  static const int boundaries[1] = {0};
  SelectiveScanProblem problem{};
  problem.batch = description.batch;
  problem.seqlen = description.seqlen;
  problem.dim = description.dim;
  problem.dstate = description.dstate;
  problem.ngroups = description.groups;
  problem.dtype = dtype_named(description.dtype);
  problem.sequences = description.sequences;
  problem.cu_seqlens = description.sequences > 0 ? boundaries : nullptr;
  std::istringstream words(description.features);
  for (std::string word; words >> word;) add_feature(problem, word);
  const ops::Work work = ops::forward_work(problem);
  return {work.bytes, work.exps};
}

}  // namespace mamba_scan::binding
