// Which scans get rows that are moved whole, and how these are dealt out, without a device.
#include <gtest/gtest.h>

#include "gpu_limits.h"
#include "ops/memory_layout.h"
#include "ops/plan.h"
#include "ops/tuning.h"
#include "problem_without_data.h"
#include "random_plans.h"

namespace mamba_scan::ops {
namespace {

using test::device_with;
using test::full;
using test::memory;
using test::problem_of;

constexpr PlanChoice kWholeRows{.lanes = 1, .whole_rows = true};

// Of 768 channels in each of four groups, as VMamba has them.
SelectiveScanProblem of_vision(Index batch, Index seqlen, Index dim, Index dstate, DType dtype = DType::kFloat16) {
  SelectiveScanProblem p = problem_of(batch, seqlen, dim, dstate, dtype, true);
  p.ngroups = 4;
  p.D = p.delta_bias = memory;
  p.delta_softplus = true;
  return p;
}

bool has_whole_rows(const SelectiveScanProblem& p, const driver::DeviceReport& device) {
  return plan_forward(p, device).variant.kernel() == ScanKernel::kWholeRows;
}

void expect_consistent(const SelectiveScanProblem& p, const ForwardPlan& plan, const driver::DeviceReport& device) {
  const ForwardVariant& v = plan.variant;
  const jit::Variant kernel = v.scan();
  SCOPED_TRACE(kernel.name());
  EXPECT_EQ(kernel.entry, "selective_scan_whole_rows");
  EXPECT_EQ(v.scan_threads(), 32u);
  EXPECT_EQ(v.dynamic_shared_bytes(), 0u) << "it depends on the number of steps";
  const std::size_t bytes = v.scan_shared_bytes(plan.params);
  EXPECT_LE(bytes, device.shared_per_block_optin);
  const auto run = static_cast<std::size_t>(32 * p.seqlen * element_size(p.dtype)),
             states = static_cast<std::size_t>(p.seqlen * v.states) * sizeof(float);
  EXPECT_GE(bytes, (v.has_z ? 3 : 2) * run + 2 * states);
  EXPECT_EQ(v.tile, v.unroll);
  EXPECT_EQ(v.tile % v.row_vector, 0);
  EXPECT_EQ(p.seqlen % v.row_vector, 0);
  EXPECT_EQ(v.bulk, device.major >= 9);
  EXPECT_FALSE(v.cut || v.prepared);
  EXPECT_EQ(plan.slices, 1);
  EXPECT_EQ(v.scan_blocks(plan.params), static_cast<unsigned>(plan.params.slots));
  EXPECT_EQ(plan.params.slots, p.batch * p.ngroups * ((p.dim / p.ngroups + 31) / 32));
}

TEST(WholeRowsPlan, IsConsistentForRandomProblemsOnEveryDeviceSize) {
  test::expect_of_random_plans(
      20261126, {.batch = 9, .seqlen = 300, .channels_of_group = 900, .dstate = 16}, ScanKernel::kWholeRows, 50,
      [](int) { return kWholeRows; }, expect_consistent);
}

// As measured: these were faster by this kernel than by any other.
TEST(WholeRowsPlan, TakesShortRowsOfVisionModels) {
  const auto device = device_with(132);
  EXPECT_TRUE(has_whole_rows(of_vision(64, 49, 3072, 1), device));
  EXPECT_TRUE(has_whole_rows(of_vision(64, 49, 3072, 4), device));
  EXPECT_TRUE(has_whole_rows(of_vision(64, 49, 6144, 16), device));
  EXPECT_TRUE(has_whole_rows(of_vision(64, 196, 1536, 1), device));
  EXPECT_TRUE(has_whole_rows(of_vision(64, 49, 3072, 1, DType::kFloat32), device));
  EXPECT_TRUE(has_whole_rows(of_vision(2, 49, 3072, 1), device));
  EXPECT_TRUE(has_whole_rows(of_vision(64, 48, 3072, 1), device)) << "aligned rows";

  EXPECT_FALSE(has_whole_rows(of_vision(64, 196, 3072, 16), device)) << "shared memory holds four of these rows";
  EXPECT_FALSE(has_whole_rows(full(problem_of(128, 197, 768, 16, DType::kBFloat16, true)), device)) << "likewise";
  EXPECT_FALSE(has_whole_rows(of_vision(64, 3136, 384, 1), device)) << "rows are too long";
}

// Not even where it is asked for.
TEST(WholeRowsPlan, LeavesWhatTheKernelDoesNotServe) {
  const auto is_made = [&](auto change, int capability = 90) {
    SelectiveScanProblem p = of_vision(4, 49, 384, 4);
    change(p);
    return plan_forward(p, device_with(36, capability), &kWholeRows).variant.kernel() == ScanKernel::kWholeRows;
  };
  EXPECT_TRUE(is_made([](auto&) {}));
  EXPECT_TRUE(is_made([](auto&) {}, 75));
  EXPECT_TRUE(is_made([](auto& p) { p.reverse = true; }));
  EXPECT_TRUE(is_made([](auto& p) { p.z = p.u; }));
  EXPECT_TRUE(is_made([](auto& p) { p.y.data = reinterpret_cast<char*>(memory) + 2; }));
  EXPECT_TRUE(is_made([](auto& p) { p.u.batch_stride += 10 * 49; })) << "part of a larger tensor";
  EXPECT_FALSE(is_made([](auto& p) { p.u.dim_stride = 50; })) << "rows that are apart";
  EXPECT_FALSE(is_made([](auto& p) { p.y.dim_stride = 50; }));
  EXPECT_FALSE(is_made([](auto& p) { p.z = {memory, 384 * 49, 384, 1}; })) << "z of the other layout";
  EXPECT_FALSE(is_made([](auto& p) { p = problem_of(4, 49, 384, 4); })) << "adjacent channels";
  EXPECT_FALSE(is_made([](auto& p) { p.B.constant = true; }));
  EXPECT_FALSE(is_made([](auto& p) { p.is_complex = true, p.B.imag_stride = p.C.imag_stride = 1; }));
  EXPECT_FALSE(is_made([](auto& p) { p.chunk_invariant = true; }));
  EXPECT_FALSE(is_made([](auto& p) { p.cu_seqlens = reinterpret_cast<const int*>(memory), p.sequences = 1; }));
  EXPECT_FALSE(is_made([](auto& p) { p.dstate = 17; }));
  EXPECT_FALSE(is_made([](auto& p) { p.seqlen = 0; }));
  EXPECT_FALSE(is_made([](auto& p) { p.seqlen = p.u.dim_stride = p.delta.dim_stride = p.y.dim_stride = 4000; }))
      << "more than the shared memory of a block";
}

// Of vectors that all rows begin with a multiple of.
TEST(WholeRowsPlan, ReadsTheWidestVectors) {
  const auto width_of = [](Index seqlen, DType dtype, int shift = 0, Index batch_stride = 0) {
    SelectiveScanProblem p = problem_of(2, seqlen, 96, 1, dtype, true);
    p.u.data = reinterpret_cast<char*>(memory) + shift * element_size(dtype);
    p.u.batch_stride += batch_stride;
    return adjacent_rows_vector(p);
  };
  for (const DType dtype : {DType::kFloat16, DType::kFloat32}) {
    EXPECT_EQ(width_of(49, dtype), 1);
    EXPECT_EQ(width_of(50, dtype), 2);
    EXPECT_EQ(width_of(52, dtype), 4);
    EXPECT_EQ(width_of(56, dtype), dtype == DType::kFloat32 ? 4 : 8);
    EXPECT_EQ(width_of(56, dtype, 2), 2) << "u begins two elements after a vector";
    EXPECT_EQ(width_of(56, dtype, 0, 1), 1) << "every other batch entry begins one after";
  }
  SelectiveScanProblem reversed = problem_of(2, 52, 96, 1, DType::kFloat16, true);
  reversed.reverse = true;
  EXPECT_EQ(adjacent_rows_vector(in_scan_order(reversed)), 4);
}

TEST(WholeRowsPlan, IsTriedByTuningAndFoundAgain) {
  const auto device = device_with(132);
  const SelectiveScanProblem p = of_vision(64, 196, 3072, 16);
  int made = 0;
  for (const ExpectedChoice& expected : plan_choices(p, device)) {
    const ForwardPlan plan = plan_forward(p, device, &expected.choice);
    EXPECT_EQ(choice_of(plan), expected.choice);
    if (!expected.choice.whole_rows) continue;
    ++made;
    for (const ExpectedChoice& near : plan_choices_near(p, device, expected.choice)) {
      EXPECT_TRUE(near.choice.whole_rows);
      EXPECT_EQ(choice_of(plan_forward(p, device, &near.choice)), near.choice);
    }
  }
  EXPECT_EQ(made, 1);
}

}  // namespace
}  // namespace mamba_scan::ops
