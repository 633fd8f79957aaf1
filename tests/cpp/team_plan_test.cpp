// Which scans the team kernel gets, and how they are dealt out to it, without a device.
#include "ops/team_plan.h"

#include <gtest/gtest.h>

#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../fakes/fake_cuda.h"
#include "empty_kernels.h"
#include "ops/selective_scan.h"
#include "platform/environment.h"
#include "problem_without_data.h"

namespace mamba_scan::ops {
namespace {

using test::memory;
using test::problem_of;

driver::DeviceReport device_with(int sm_count, int capability = 90) {
  driver::DeviceReport device;
  device.major = capability / 10;
  device.minor = capability % 10;
  device.sm_count = sm_count;
  device.shared_per_block_optin = capability == 90 ? 227 << 10 : 99 << 10;
  return device;
}

TEST(TeamPlan, IsConsistentForRandomProblemsOnEveryDeviceSize) {
  std::mt19937 random(20261123);
  const auto pick = [&](Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); };
  for (int sm_count : {8, 16, 36, 82, 128, 132}) {
    int planned = 0;
    for (int i = 0; i < 400; ++i) {
      const Index groups = pick(1, 3);
      SelectiveScanProblem p = problem_of(pick(1, 3), 8 * pick(8, 500), 8 * groups * pick(1, 40),
                                          Index{1} << pick(2, 6), static_cast<DType>(pick(0, 2)), pick(0, 1) == 1);
      p.ngroups = groups;
      if (pick(0, 1)) p.z = p.u;
      const driver::DeviceReport device = device_with(sm_count, pick(0, 1) ? 90 : 86);
      const auto plan = plan_team(p, device);
      if (!plan) continue;
      ++planned;
      const TeamVariant& v = plan->variant;
      SCOPED_TRACE(v.team().name());
      EXPECT_EQ(v.lanes * v.states, p.dstate);
      EXPECT_EQ(v.warps % v.segments, 0);
      EXPECT_EQ(v.tile % v.unroll, 0);
      EXPECT_LE(v.shared_bytes(), device.shared_per_block_optin);
      EXPECT_LE(plan->blocks, static_cast<unsigned>(sm_count));
      EXPECT_EQ(plan->blocks, p.batch * groups * plan->params.blocks_per_group);
      EXPECT_GE(plan->params.blocks_per_group * v.channels(), p.dim / groups);
      EXPECT_LT((plan->params.blocks_per_group - 1) * v.channels(), p.dim / groups) << "a block without a channel";
      EXPECT_GE(Index{plan->params.tiles} * v.tile * v.segments, p.seqlen);
      EXPECT_LT((plan->params.tiles - 1) * Index{v.tile} * v.segments, p.seqlen) << "a tile that no segment needs";
    }
    EXPECT_GT(planned, 20) << sm_count << " multiprocessors";
  }
}

TEST(TeamPlan, TakesFewAndShortSequencesOnly) {
  const auto device = device_with(132);
  const auto shape_of = [&](Index batch, Index seqlen, Index dim) -> std::string {
    const auto plan = plan_team(problem_of(batch, seqlen, dim), device);
    return plan ? std::to_string(plan->variant.states) + " in " + std::to_string(plan->variant.segments) : "none";
  };
  EXPECT_EQ(shape_of(1, 1024, 2048), "2 in 1");
  EXPECT_EQ(shape_of(1, 1024, 256), "1 in 4");
  EXPECT_EQ(shape_of(1, 300, 96), "1 in 4");
  EXPECT_EQ(shape_of(2, 77, 56), "1 in 1") << "one pass is shorter than two of a quarter and their beginnings";
  EXPECT_EQ(shape_of(1, 16384, 2048), "none") << "a cut in time is faster";
  EXPECT_EQ(shape_of(1, 131072, 256), "none");
  EXPECT_EQ(shape_of(64, 2048, 1536), "none") << "there are enough warps without";
  EXPECT_EQ(shape_of(1, 1, 2048), "none") << "a step of decoding";
}

TEST(TeamPlan, TakesNoLongSequencesOnSmallDevices) {
  EXPECT_FALSE(plan_team(problem_of(1, 1024, 2048), device_with(8)));
  EXPECT_TRUE(plan_team(problem_of(1, 1024, 64), device_with(8, 87)));
}

TEST(TeamPlan, LeavesWhatTheKernelDoesNotServe) {
  const auto device = device_with(132);
  const SelectiveScanProblem served = problem_of(1, 256, 256);
  const auto is_served = [&](auto change) {
    SelectiveScanProblem p = served;
    change(p);
    for (const TeamShape shape : {TeamShape{1, 1}, TeamShape{2, 1}, TeamShape{1, 4}})
      if (plan_team_as(p, device, shape)) return true;
    return false;
  };
  EXPECT_TRUE(is_served([](auto&) {}));
  EXPECT_TRUE(is_served([](auto& p) { p.reverse = true; }));
  EXPECT_FALSE(is_served([](auto& p) { p.is_complex = true; }));
  EXPECT_FALSE(is_served([](auto& p) { p.chunk_invariant = true; }));
  EXPECT_FALSE(is_served([](auto& p) { p.cu_seqlens = reinterpret_cast<const int*>(memory), p.sequences = 1; }));
  EXPECT_FALSE(is_served([](auto& p) { p.B.constant = true; }));
  EXPECT_FALSE(is_served([](auto& p) { p.C.constant = true; }));
  EXPECT_FALSE(is_served([](auto& p) { p.dstate = 12; }));
  EXPECT_FALSE(is_served([](auto& p) { p.dstate = 128; }));
  EXPECT_FALSE(is_served([](auto& p) { p.u.data = reinterpret_cast<char*>(memory) + 2; })) << "not aligned";
  EXPECT_FALSE(is_served([](auto& p) { p.delta.seq_stride += 1; })) << "rows not aligned";
  EXPECT_FALSE(is_served([](auto& p) { p.z = p.u, p.z.dim_stride = 2; }));
  EXPECT_FALSE(is_served([](auto& p) { p.B.seq_stride = 17; }));
  EXPECT_TRUE(is_served([](auto& p) { p.y.data = reinterpret_cast<char*>(memory) + 2; })) << "y is stored one by one";
  const SelectiveScanProblem by_sequence = problem_of(1, 256, 256, 16, DType::kFloat16, true);
  EXPECT_TRUE(plan_team_as(by_sequence, device, {2, 1}));
  SelectiveScanProblem backwards = by_sequence;
  backwards.reverse = true;
  EXPECT_FALSE(plan_team_as(backwards, device, {2, 1}));
  EXPECT_FALSE(plan_team_as(served, device_with(132, 75), {2, 1}));
}

TEST(TeamPlan, StaysWithinTheSharedMemoryOfTheDevice) {
  driver::DeviceReport device = device_with(132);
  device.shared_per_block_optin = 0;  // an old driver does not tell
  int planned = 0;
  for (const bool seq_last : {false, true}) {
    for (const DType dtype : {DType::kFloat32, DType::kFloat16}) {
      for (const TeamShape shape : {TeamShape{2, 1}, TeamShape{1, 4}}) {
        SelectiveScanProblem p = problem_of(1, 256, 256, 16, dtype, seq_last);
        p.z = p.u;
        const auto plan = plan_team_as(p, device, shape);
        if (!plan) continue;
        ++planned;
        EXPECT_LE(plan->variant.shared_bytes(), std::size_t{48} << 10);
      }
    }
  }
  EXPECT_GE(planned, 5);
}

struct Seen {
  std::string entry;
  SelectiveScanTeamParams params{};
};
std::vector<Seen> seen;

void remember(const char* entry, void** arguments) {
  seen.push_back({entry});
  if (seen.back().entry == "selective_scan_team")
    seen.back().params = *static_cast<const SelectiveScanTeamParams*>(arguments[0]);
}

struct NoScratch : ScratchAllocator {
  void* allocate(std::size_t) override { throw std::runtime_error("the team kernel needs no scratch memory"); }
};

TEST(TeamLaunch, AShortScanIsOneLaunchOfTheTeamKernel) {
  if (!platform::environment_variable("MAMBA_SCAN_NVRTC")) GTEST_SKIP() << "MAMBA_SCAN_NVRTC names no NVRTC";
  const test::ScratchFolder folder;
  test::write_empty_kernels(folder / "kernels");
  platform::set_environment_variable("MAMBA_SCAN_KERNEL_DIR", folder / "kernels");
  platform::set_environment_variable("MAMBA_SCAN_CACHE_DIR", folder / "cache");
  tests::FakeCuda fake("devices=90:132:Card");
  fake.on_launch(remember);
  NoScratch scratch;
  seen.clear();
  for (int call = 0; call < 2; ++call) selective_scan_cuda(problem_of(1, 300, 64), 0, nullptr, scratch);
  fake.on_launch(nullptr);
  ASSERT_EQ(seen.size(), 2u);
  for (const Seen& launch : seen) {
    EXPECT_EQ(launch.entry, "selective_scan_team");
    EXPECT_EQ(launch.params.problem.seqlen, 300);
    EXPECT_EQ(launch.params.channels_per_group, 64);
    EXPECT_GT(launch.params.tiles, 0);
  }
}

}  // namespace
}  // namespace mamba_scan::ops
