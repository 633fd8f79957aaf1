// Whether the model of the device chooses the plans that were measured to be the fastest.
#include "measured_plans.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "gpu_limits.h"
#include "ops/plan.h"
#include "ops/tuning.h"
#include "problem_without_data.h"

namespace mamba_scan::ops {
namespace {

SelectiveScanProblem problem_of(const test::MeasuredScan& scan) {
  const auto p = test::problem_of(scan.batch, scan.seqlen, scan.dim, scan.dstate, scan.dtype, scan.seq_last);
  return scan.full ? test::full(p) : p;
}

std::string text_of(const test::MeasuredScan& scan) {
  return std::to_string(scan.batch) + ", " + std::to_string(scan.seqlen) + ", " + std::to_string(scan.dim) + ", " +
         std::to_string(scan.dstate) + " dtype " + std::to_string(static_cast<int>(scan.dtype)) +
         (scan.seq_last ? " bdl" : " bld") + (scan.full ? " full" : "");
}

bool is_of(const PlanChoice& choice, const test::MeasuredPlan& plan) {
  return choice.lanes == plan.lanes && choice.channels == plan.channels && choice.cut == plan.cut &&
         choice.wrapped == plan.wrapped && choice.warps == plan.warps && choice.served == plan.served &&
         choice.abreast == plan.abreast;
}

// The time of the plan chosen over that of the fastest.
TEST(MeasuredPlans, AreChosenWhereTheyAreTheFastestOrNearlySo) {
  double sum = 0;
  for (const test::MeasuredScan& scan : test::kMeasuredScans) {
    const PlanChoice own = choice_of(plan_forward(problem_of(scan), test::h100_report()));
    const auto chosen =
        std::find_if(scan.plans.begin(), scan.plans.end(), [&](const auto& p) { return is_of(own, p); });
    ASSERT_NE(chosen, scan.plans.end()) << text_of(scan) << ": the plan was not timed; time it";
    const double fastest = scan.plans.front().us;  // they are sorted
    EXPECT_LE(chosen->us, 1.2 * fastest) << text_of(scan);
    sum += chosen->us / fastest;
  }
  EXPECT_LE(sum / static_cast<double>(test::kMeasuredScans.size()), 1.04);
}

}  // namespace
}  // namespace mamba_scan::ops
