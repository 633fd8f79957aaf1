// How a scan is dealt out to a device, without a device.
#include "ops/plan.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "ops/selective_scan.h"
#include "platform/error.h"

namespace mamba_scan::ops {
namespace {

alignas(16) float memory[8];  // only addresses matter to a plan

driver::DeviceReport device_with(int sm_count, int capability = 90) {
  driver::DeviceReport device;
  device.major = capability / 10;
  device.minor = capability % 10;
  device.sm_count = sm_count;
  device.max_blocks_per_sm = capability == 90 ? 32 : 16;
  device.max_threads_per_sm = capability == 75 ? 1024 : capability == 86 || capability == 89 ? 1536 : 2048;
  device.shared_per_sm = capability == 75 ? 64 << 10 : capability == 86 || capability == 89 ? 100 << 10 : 228 << 10;
  return device;
}

SelectiveScanProblem problem_of(Index batch, Index seqlen, Index dim, Index dstate = 16, DType dtype = DType::kFloat16,
                                bool seq_last = false) {
  SelectiveScanProblem p{};
  p.batch = batch;
  p.seqlen = seqlen;
  p.dim = dim;
  p.dstate = dstate;
  p.ngroups = 1;
  p.dtype = dtype;
  const SequenceTensor tensor{memory, seqlen * dim, seq_last ? 1 : dim, seq_last ? seqlen : 1};
  p.u = p.delta = p.y = tensor;
  p.B = p.C = {memory, seqlen * dstate, seq_last ? 1 : dstate, 0, seq_last ? seqlen : 1, false};
  p.A = memory;
  p.A_dim_stride = dstate;
  p.A_state_stride = 1;
  return p;
}

SelectiveScanProblem with_everything(SelectiveScanProblem p) {
  p.z = p.u;
  p.D = p.delta_bias = memory;
  p.delta_softplus = true;
  p.initial_state = p.final_state = {memory, p.dim * p.dstate, p.dstate, 1};
  return p;
}

Index rows_of(const ForwardPlan& plan) { return plan.params.tiles / plan.params.tiles_per_row; }

void expect_consistent(const SelectiveScanProblem& p, const ForwardPlan& plan) {
  const ForwardVariant& v = plan.variant;
  const auto& params = plan.params;
  EXPECT_EQ(32 % v.lanes, 0);
  EXPECT_GE(v.lanes * v.states, p.dstate);
  EXPECT_LT(v.lanes * (v.states - 1), p.dstate) << "a state register that no lane needs";
  EXPECT_EQ(v.tile % v.unroll, 0);
  EXPECT_LE(v.shared_bytes(), std::size_t{48} << 10);
  EXPECT_EQ(params.channels_per_group, p.dim / p.ngroups);
  EXPECT_GE(Index{params.blocks_per_group} * v.warp_channels(), params.channels_per_group);
  EXPECT_GE(Index{params.tiles_per_row} * v.tile, p.seqlen);
  EXPECT_EQ(rows_of(plan), p.batch * p.ngroups * params.blocks_per_group);
  EXPECT_GE(params.slots, 1);
  EXPECT_LE(params.slots, params.tiles);
  EXPECT_EQ(v.cut, params.slots != rows_of(plan));
  EXPECT_EQ(plan.carry_state_bytes != 0, v.cut);
  EXPECT_EQ(plan.carry_state_bytes, plan.carry_delta_bytes * static_cast<std::size_t>(v.states));
}

TEST(Plan, IsConsistentForRandomProblemsOnEveryDeviceSize) {
  std::mt19937 random(20261122);
  const auto pick = [&](Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); };
  for (int sm_count : {8, 16, 36, 82, 128, 132}) {
    for (int i = 0; i < 200; ++i) {
      const Index groups = pick(1, 3);
      SelectiveScanProblem p = problem_of(pick(1, 9), pick(1, 5000), groups * pick(1, 700), pick(1, 256),
                                          static_cast<DType>(pick(0, 2)), pick(0, 1) == 1);
      p.ngroups = groups;
      if (pick(0, 1)) p = with_everything(p);
      SCOPED_TRACE(std::to_string(sm_count) + " SMs: " + std::to_string(p.batch) + " x " + std::to_string(p.seqlen) +
                   " x " + std::to_string(p.dim) + " x " + std::to_string(p.dstate));
      expect_consistent(p, plan_forward(p, device_with(sm_count, pick(0, 1) ? 90 : 86)));
    }
  }
}

TEST(Plan, FillsEveryDeviceWithOneLongSequence) {
  for (int sm_count : {8, 16, 36, 82, 128, 132}) {
    const ForwardPlan plan = plan_forward(problem_of(1, 131072, 2048), device_with(sm_count));
    EXPECT_GE(plan.params.slots, sm_count * 8) << "fewer than two warps per scheduler";
  }
}

TEST(Plan, RunsManySequencesWhole) {
  const ForwardPlan plan = plan_forward(problem_of(64, 2048, 1536), device_with(132));
  EXPECT_FALSE(plan.variant.cut);
  EXPECT_EQ(plan.variant.lanes, 2);
  EXPECT_EQ(plan.variant.states, 8);
  EXPECT_EQ(plan.variant.channels, 4);
}

TEST(Plan, GivesEverySlotTwoTilesAtLeast) {
  for (Index seqlen : {1, 7, 16, 17, 32, 33, 100, 1000}) {
    const ForwardPlan plan = plan_forward(problem_of(1, seqlen, 64), device_with(132));
    if (plan.variant.cut) {
      EXPECT_GE(plan.params.tiles, 2 * plan.params.slots) << seqlen;
    }
  }
}

TEST(Plan, CountsBeyondTwoToThe31Elements) {
  const SelectiveScanProblem p = problem_of(1, 1638400, 2048);
  ASSERT_GT(p.seqlen * p.dim, Index{1} << 31);
  expect_consistent(p, plan_forward(p, device_with(132)));
}

TEST(Plan, SharedMemoryStaysBelow48KiBForEveryStateCount) {
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16})
    for (bool seq_last : {false, true})
      for (Index dstate = 1; dstate <= 256; ++dstate) {
        const auto p = with_everything(problem_of(8, 4096, 2048, dstate, dtype, seq_last));
        EXPECT_LE(plan_forward(p, device_with(64, 86)).variant.shared_bytes(), std::size_t{48} << 10) << dstate;
      }
}

TEST(Plan, ReadsTheLayoutFromTheStrides) {
  EXPECT_FALSE(plan_forward(problem_of(2, 64, 64), device_with(132)).variant.seq_contiguous);
  EXPECT_TRUE(plan_forward(problem_of(2, 64, 64, 16, DType::kFloat16, true), device_with(132)).variant.seq_contiguous);
  // One step is adjacent to anything.
  EXPECT_FALSE(plan_forward(problem_of(2, 1, 64, 16, DType::kFloat16, true), device_with(132)).variant.seq_contiguous);
}

TEST(Plan, AccessesByElementWhatCannotBeVectored) {
  const auto device = device_with(132);
  const SelectiveScanProblem p = problem_of(64, 2048, 1536);
  EXPECT_TRUE(plan_forward(p, device).variant.u_vectored);

  SelectiveScanProblem shifted = p;
  shifted.u.data = reinterpret_cast<char*>(memory) + 2;
  EXPECT_FALSE(plan_forward(shifted, device).variant.u_vectored);
  EXPECT_TRUE(plan_forward(shifted, device).variant.delta_vectored) << "the others keep their speed";

  SelectiveScanProblem odd_pitch = p;
  odd_pitch.delta.seq_stride = 1537;
  EXPECT_FALSE(plan_forward(odd_pitch, device).variant.delta_vectored);

  SelectiveScanProblem fused = p;  // a view of a projection twice as wide
  fused.u.seq_stride = 2 * 1536;
  EXPECT_TRUE(plan_forward(fused, device).variant.u_vectored);

  SelectiveScanProblem odd_batch = p;
  odd_batch.y.batch_stride += 1;
  EXPECT_FALSE(plan_forward(odd_batch, device).variant.y_vectored);

  SelectiveScanProblem across = p;  // a gate laid out along the sequence beside inputs along the channels
  across.z = {memory, 2048 * 1536, 1, 2048};
  EXPECT_FALSE(plan_forward(across, device).variant.z_vectored);

  SelectiveScanProblem groups = problem_of(8, 2048, 3 * 36);
  groups.ngroups = 3;  // groups begin 36 elements apart: not a multiple of 8
  EXPECT_FALSE(plan_forward(groups, device).variant.u_vectored);
}

TEST(Plan, ReadsTheOrderOfBAndC) {
  const auto order = [](const SelectiveScanProblem& p) { return plan_forward(p, device_with(132)).variant.b_order; };
  EXPECT_EQ(order(problem_of(2, 64, 64)), ProjectionOrder::kStates);
  EXPECT_EQ(order(problem_of(2, 64, 64, 16, DType::kFloat16, true)), ProjectionOrder::kSteps);
  SelectiveScanProblem p = problem_of(2, 64, 64);
  p.B.seq_stride = 17;
  EXPECT_EQ(order(p), ProjectionOrder::kStrided);
  p.B = {memory, 0, 0, 16, 1, true};
  EXPECT_EQ(order(p), ProjectionOrder::kConstant);
}

TEST(Plan, CarriesDoNotDependOnWhatOnlyOutputsNeed) {
  const auto device = device_with(132);
  SelectiveScanProblem p = problem_of(1, 131072, 2048);
  SelectiveScanProblem gated = p;
  gated.z = gated.u;
  gated.D = memory;
  gated.final_state = {memory, 0, 16, 1};
  const ForwardVariant plain = plan_forward(p, device).variant, other = plan_forward(gated, device).variant;
  ASSERT_TRUE(plain.cut);
  EXPECT_EQ(plain.carry(), other.carry());
  EXPECT_NE(plain.forward(), other.forward());
}

TEST(Plan, CountsTheWorkOfTheRoof) {
  const Work work = forward_work(problem_of(2, 100, 32));
  EXPECT_EQ(work.exps, 2 * 100 * 32 * 16);
  EXPECT_EQ(work.bytes, 2 * 100 * (3 * 32 + 2 * 16) * 2 + 32 * 16 * 4);
  const Work gated = forward_work(with_everything(problem_of(2, 100, 32)));
  EXPECT_EQ(gated.bytes - work.bytes, 2 * 100 * 32 * 2 + 2 * (2 * 32 * 16 * 4) + 2 * 32 * 4);
}

template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const ArgumentError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Plan, NamesWhatItCannotServe) {
  const auto refusal = [](const SelectiveScanProblem& p) {
    return message_of([&] { plan_forward(p, device_with(132)); });
  };
  EXPECT_NE(refusal(problem_of(1, 8, 8, 257)).find("dstate: got 257"), std::string::npos);
  EXPECT_NE(refusal(problem_of(Index{1} << 40, 1, 8)).find("batch * dim"), std::string::npos);
}

TEST(Check, NamesTheArgumentWhatCameAndWhatIsNeeded) {
  const auto refusal = [](const SelectiveScanProblem& p) { return message_of([&] { check(p); }); };
  EXPECT_EQ(refusal(problem_of(1, 8, 8)), "no error");
  EXPECT_EQ(refusal(problem_of(0, 8, 8)), "no error");
  EXPECT_EQ(refusal(problem_of(-1, 8, 8)), "batch: got -1, needed at least 0");
  EXPECT_EQ(refusal(problem_of(1, 8, 8, 0)), "dstate: got 0, needed at least 1");
  SelectiveScanProblem p = problem_of(1, 8, 8);
  p.ngroups = 3;
  EXPECT_EQ(refusal(p), "ngroups: got 3, needed a divisor of dim = 8");
  p = problem_of(1, 8, 8);
  p.delta.data = nullptr;
  EXPECT_EQ(refusal(p), "delta: got a null pointer, needed 64 elements");
}

}  // namespace
}  // namespace mamba_scan::ops
