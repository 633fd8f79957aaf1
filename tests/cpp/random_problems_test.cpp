// What calls for random problems launch compiles: any size, layout, alignment and option, on several GPUs. The fake
// driver runs nothing; the emulator tests what kernels compute.
#include <gtest/gtest.h>

#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "fake_gpu.h"
#include "ops/runtime.h"
#include "ops/selective_scan.h"
#include "problem_without_data.h"

namespace mamba_scan::ops {
namespace {

class RandomProblem {
 public:
  explicit RandomProblem(unsigned seed) : random_(seed) {
    const bool seq_last = maybe(2), is_complex = maybe(4);
    const Index dim = pick({1, 10, 33, 77, 256, 263, 2048, 5120}), parts = is_complex ? 2 : 1;
    const Index dstate = pick({1, 2, 3, 4, 7, 8, 15, 16, 17, 33, 64, 100, 166, 255, 256, 257, 600});
    p_ = test::problem_of(pick({1, 2, 8}), pick({1, 9, 33, 331, 1024, 4097, 16384}), dim, dstate,
                          static_cast<DType>(pick({0, 1, 2})), seq_last);
    p_.is_complex = is_complex;
    const bool constant_B = maybe(4), constant_C = maybe(4);
    p_.ngroups = dim % 2 == 0 && !(constant_B && constant_C) && maybe(3) ? 2 : 1;
    p_.B = projection(constant_B, seq_last && !is_complex, parts);
    p_.C = projection(constant_C, seq_last && !is_complex, parts);
    p_.A_dim_stride = dstate * parts;
    p_.A_state_stride = parts;
    p_.A_imag_stride = 1;
    p_.final_state = {test::memory, dim * dstate * parts, dstate * parts, parts, 1};
    if (maybe(2)) {
      p_.D = p_.delta_bias = test::memory;
      p_.delta_softplus = true;
      p_.z = p_.u;
      p_.initial_state = p_.final_state;
    }
    p_.reverse = maybe(4);
    p_.chunk_invariant = maybe(5);
  }

  const SelectiveScanProblem& get() const { return p_; }

  std::string text() const {
    std::ostringstream out;
    out << p_.batch << " x " << p_.seqlen << " x " << p_.dim << ", " << p_.dstate << " states, " << p_.ngroups
        << " groups, dtype " << static_cast<int>(p_.dtype) << (p_.u.seq_stride == 1 ? ", seq last" : "")
        << (p_.is_complex ? ", complex" : "") << (p_.B.constant ? ", constant B" : "")
        << (p_.C.constant ? ", constant C" : "") << (p_.D != nullptr ? ", every option" : "")
        << (p_.reverse ? ", reverse" : "") << (p_.chunk_invariant ? ", invariant" : "");
    return out.str();
  }

 private:
  Index pick(const std::vector<Index>& of) { return of[random_() % of.size()]; }
  bool maybe(unsigned one_of) { return random_() % one_of == 0; }

  ProjectionTensor projection(bool constant, bool seq_last, Index parts) const {
    const Index states = p_.dstate * parts;
    if (constant) return {test::memory, 0, 0, states, parts, true, 1};
    const Index batch = p_.seqlen * p_.ngroups * states;
    if (seq_last) return {test::memory, batch, 1, p_.seqlen * states, p_.seqlen, false, 1};
    return {test::memory, batch, p_.ngroups * states, states, parts, false, 1};
  }

  std::mt19937 random_;
  SelectiveScanProblem p_;
};

TEST(RandomProblems, AllTheirKernelsCompile) {
  if (!platform::environment_variable("MAMBA_SCAN_NVRTC")) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  const test::ScratchFolder folder;
  platform::set_environment_variable("MAMBA_SCAN_CACHE_DIR", folder / "cache");
  const tests::FakeCuda fake("devices=75:36:Small,80:108:Middle,90:132:Large,120:36:Newest");
  constexpr int kDevices = 4, kProblems = 16;
  for (int i = 0; i < kProblems; ++i) {
    const unsigned seed = std::random_device{}();
    const RandomProblem problem(seed);
    test::DeviceScratch scratch;
    EXPECT_NO_THROW(selective_scan_cuda(problem.get(), i % kDevices, nullptr, scratch))
        << problem.text() << "; device " << i % kDevices << ", seed " << seed;
  }
}

}  // namespace
}  // namespace mamba_scan::ops
