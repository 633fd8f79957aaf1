// Plans of random problems on devices of many sizes, for the tests of one kernel's plans.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <random>

#include "gpu_limits.h"
#include "ops/plan.h"
#include "problem_without_data.h"

namespace mamba_scan::test {

// Calls expect(problem, plan, device) for the plans of 400 problems that this kernel is to scan, on each size of two
// architectures, which must be more than `fewest`. choice(i): what is asked for of the i-th, if anything.
template <class Choice, class Expect>
void expect_of_random_plans(unsigned seed, const MostOfProblem& most, ops::ScanKernel kernel, int fewest,
                            const Choice& choice, const Expect& expect) {
  std::mt19937 random(seed);
  for (int sm_count : {8, 16, 36, 82, 128, 132}) {
    int planned = 0;
    for (int i = 0; i < 400; ++i) {
      const SelectiveScanProblem p = random_problem(random, most);
      const driver::DeviceReport device = device_with(sm_count, i % 2 == 0 ? 90 : 86);
      const std::optional<ops::PlanChoice> wanted = choice(i);
      const ops::ForwardPlan plan = plan_forward(p, device, wanted ? &*wanted : nullptr);
      if (plan.variant.kernel() != kernel) continue;
      ++planned;
      expect(p, plan, device);
    }
    EXPECT_GT(planned, fewest) << sm_count << " multiprocessors";
  }
}

}  // namespace mamba_scan::test
