#include <string>

#include "ops/selective_scan.h"
#include "platform/error.h"

namespace mamba_scan::ops {
namespace {

[[noreturn]] void fail(const std::string& argument, const std::string& got, const std::string& needed) {
  throw ArgumentError(argument + ": got " + got + ", needed " + needed);
}

void need_pointer(const char* argument, const void* data, Index elements) {
  if (data == nullptr && elements > 0) fail(argument, "a null pointer", std::to_string(elements) + " elements");
}

}  // namespace

void check(const SelectiveScanProblem& p) {
  const auto need_at_least = [](const char* argument, Index value, Index least) {
    if (value < least) fail(argument, std::to_string(value), "at least " + std::to_string(least));
  };
  need_at_least("batch", p.batch, 0);
  need_at_least("seqlen", p.seqlen, 0);
  need_at_least("dim", p.dim, 0);
  need_at_least("dstate", p.dstate, 1);
  need_at_least("ngroups", p.ngroups, 1);
  if (p.dim % p.ngroups != 0) fail("ngroups", std::to_string(p.ngroups), "a divisor of dim = " + std::to_string(p.dim));
  if (p.dtype != DType::kFloat32 && p.dtype != DType::kFloat16 && p.dtype != DType::kBFloat16)
    fail("dtype", std::to_string(static_cast<int>(p.dtype)), "float32, float16 or bfloat16");
  need_at_least("sequences", p.sequences, p.cu_seqlens != nullptr ? 1 : 0);
  if (p.cu_seqlens == nullptr && p.sequences > 0)
    fail("cu_seqlens", "a null pointer", std::to_string(p.sequences + 1) + " elements");
  if (p.cu_seqlens != nullptr && p.batch != 1) fail("batch", std::to_string(p.batch), "1 with cu_seqlens");
  const Index elements = p.batch * p.seqlen * p.dim;
  need_pointer("u", p.u.data, elements);
  need_pointer("delta", p.delta.data, elements);
  need_pointer("y", p.y.data, elements);
  need_pointer("A", p.A, elements);
  need_pointer("B", p.B.data, elements);
  need_pointer("C", p.C.data, elements);
}

void check_sequences(const SelectiveScanProblem& p) {
  if (p.cu_seqlens == nullptr) return;
  const auto fail_at = [&](Index i, const std::string& needed) {
    fail("cu_seqlens[" + std::to_string(i) + "]", std::to_string(p.cu_seqlens[i]), needed);
  };
  if (p.cu_seqlens[0] != 0) fail_at(0, "0");
  for (Index i = 1; i <= p.sequences; ++i)
    if (p.cu_seqlens[i] < p.cu_seqlens[i - 1])
      fail_at(i, "at least " + std::to_string(p.cu_seqlens[i - 1]) + ", the element before it");
  if (p.cu_seqlens[p.sequences] != p.seqlen) fail_at(p.sequences, std::to_string(p.seqlen) + " = seqlen");
}

}  // namespace mamba_scan::ops
