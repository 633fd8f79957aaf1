// The bytes and exponentials no kernel can avoid: counted by hand here, tensor by tensor.
#include "ops/work.h"

#include <gtest/gtest.h>

namespace mamba_scan::ops {
namespace {

float memory[1];  // only whether a tensor is there counts

SelectiveScanProblem problem_of(Index batch, Index seqlen, Index dim, Index dstate, DType dtype) {
  SelectiveScanProblem p{};
  p.batch = batch;
  p.seqlen = seqlen;
  p.dim = dim;
  p.dstate = dstate;
  p.ngroups = 1;
  p.dtype = dtype;
  return p;
}

TEST(Work, IsThreeSequencesTwoProjectionsAndADecay) {
  const Work work = forward_work(problem_of(3, 101, 37, 5, DType::kFloat32));
  EXPECT_EQ(work.exps, 3 * 101 * 37 * 5);
  EXPECT_EQ(work.bytes, 3 * 101 * (3 * 37 + 2 * 5) * 4 + 37 * 5 * 4);
}

TEST(Work, HalvesWithTheElementsButKeepsWeightsWhole) {
  for (DType dtype : {DType::kFloat16, DType::kBFloat16})
    EXPECT_EQ(forward_work(problem_of(1, 7, 11, 2, dtype)).bytes, 7 * (3 * 11 + 2 * 2) * 2 + 11 * 2 * 4);
}

TEST(Work, CountsEveryGroupAndReadsConstantProjectionsOnce) {
  SelectiveScanProblem p = problem_of(2, 10, 12, 4, DType::kFloat16);
  p.ngroups = 3;
  EXPECT_EQ(forward_work(p).bytes, 2 * 10 * (3 * 12 + 2 * 3 * 4) * 2 + 12 * 4 * 4);
  p.B.constant = true;
  EXPECT_EQ(forward_work(p).bytes, 2 * 10 * (3 * 12 + 3 * 4) * 2 + 2 * 12 * 4 * 4);
}

TEST(Work, AddsWhatTheCallAsksFor) {
  SelectiveScanProblem p = problem_of(2, 10, 12, 4, DType::kFloat16);
  const std::int64_t plain = forward_work(p).bytes;
  p.z.data = memory;
  EXPECT_EQ(forward_work(p).bytes - plain, 2 * 10 * 12 * 2);
  p.D = p.delta_bias = memory;
  EXPECT_EQ(forward_work(p).bytes - plain, 2 * 10 * 12 * 2 + 2 * 12 * 4);
  p.initial_state.data = p.final_state.data = memory;
  EXPECT_EQ(forward_work(p).bytes - plain, 2 * 10 * 12 * 2 + 2 * 12 * 4 + 2 * (2 * 12 * 4 * 4));
}

TEST(Work, CountsTheStatesOfPackedSequences) {
  static const int boundaries[] = {0, 4, 4, 20};
  SelectiveScanProblem p = problem_of(1, 20, 12, 4, DType::kFloat32);
  p.final_state.data = memory;
  const std::int64_t one = forward_work(p).bytes;
  p.cu_seqlens = boundaries;
  p.sequences = 3;
  EXPECT_EQ(forward_work(p).bytes - one, 2 * (12 * 4 * 4) + 4 * 4);
}

// exp(a + ib) = exp(a) (cos b + i sin b): one exponential and polynomials, but pairs where there were numbers.
TEST(Work, CountsThePairsOfComplexStates) {
  SelectiveScanProblem p = problem_of(1, 20, 12, 4, DType::kFloat16);
  p.is_complex = true;
  p.final_state.data = memory;
  const Work work = forward_work(p);
  EXPECT_EQ(work.exps, 20 * 12 * 4);
  EXPECT_EQ(work.bytes, 20 * (3 * 12 + 2 * 2 * 4) * 2 + 2 * (12 * 4 * 8));
}

}  // namespace
}  // namespace mamba_scan::ops
