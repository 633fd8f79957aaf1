// A plan from the cache is the plan that would be made.
#include "ops/plan_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "gpu_limits.h"
#include "problem_without_data.h"

namespace mamba_scan::ops {
namespace {

using test::memory;
using test::problem_of;

char* at(std::size_t offset) { return reinterpret_cast<char*>(memory) + offset; }

// Scans of a few kinds, so that many of them are alike but for where their tensors lie.
SelectiveScanProblem random_problem(std::mt19937& random) {
  const auto pick = [&](int choices) { return static_cast<int>(random() % static_cast<unsigned>(choices)); };
  SelectiveScanProblem p = problem_of(1 + pick(2), pick(2) ? 1024 : 4096, 256, 16, DType::kFloat16, pick(2) == 1);
  p.reverse = pick(2) == 1;
  for (SequenceTensor* tensor : {&p.u, &p.delta, &p.y}) tensor->data = at(static_cast<std::size_t>(pick(3)) * 2);
  if (pick(2)) p.z = p.u;
  p.B.data = at(static_cast<std::size_t>(pick(2)) * 16);
  if (pick(2)) p.D = memory;
  if (pick(2)) p.initial_state = {memory, p.dim * p.dstate, p.dstate, 1};
  if (pick(2)) p.final_state = {pick(2) ? memory : memory + 4, p.dim * p.dstate, p.dstate, 1};
  return p;
}

TEST(PlanCache, GivesThePlanThatWouldBeMade) {
  const driver::DeviceReport device = test::report_of(90, 132);
  PlanCache cache;
  std::mt19937 random(20261125);
  int known = 0;
  SelectiveScanProblem latest[6];
  for (int i = 0; i < 3000; ++i) {
    // Most are one of the last few again, elsewhere in memory.
    SelectiveScanProblem p = random_problem(random);
    SelectiveScanProblem& place = latest[random() % 6];
    if (i > 100 && random() % 8 != 0) {
      p = place;
      p.u.data = static_cast<char*>(p.u.data) + 16 * (random() % 2);
      if (random() % 4 == 0) p.delta.data = at(2 * (random() % 2));
    }
    place = p;
    const ForwardPlan made = plan_forward(p, device);
    const auto found = cache.find(p, 0, 7);
    EXPECT_FALSE(cache.find(p, 1, 7)) << "of another device";
    EXPECT_FALSE(cache.find(p, 0, 8)) << "of another tuning";
    if (!found) {
      cache.add(p, 0, 7, made);
      continue;
    }
    ++known;
    EXPECT_TRUE(found->variant == made.variant);
    EXPECT_EQ(std::memcmp(&found->params.problem, &made.params.problem, sizeof made.params.problem), 0);
    EXPECT_EQ(found->params.slots, made.params.slots);
    EXPECT_EQ(found->params.u_steps.advance, made.params.u_steps.advance);
    EXPECT_EQ(found->params.delta_steps.between, made.params.delta_steps.between);
    EXPECT_EQ(found->prepared_bytes, made.prepared_bytes);
    EXPECT_EQ(found->carry_state_bytes, made.carry_state_bytes);
  }
  EXPECT_GT(known, 1000);
}

TEST(PlanCache, ForgetsTheOldest) {
  const driver::DeviceReport device = test::report_of(90, 132);
  PlanCache cache;
  for (Index seqlen = 1; seqlen <= 9; ++seqlen) {
    const SelectiveScanProblem p = problem_of(1, seqlen, 64);
    cache.add(p, 0, 0, plan_forward(p, device));
    EXPECT_TRUE(cache.find(p, 0, 0));
  }
  EXPECT_FALSE(cache.find(problem_of(1, 1, 64), 0, 0));
  EXPECT_TRUE(cache.find(problem_of(1, 2, 64), 0, 0));
}

}  // namespace
}  // namespace mamba_scan::ops
