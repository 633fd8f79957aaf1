// Which kernel, in which shape, and how rows are dealt out to its warps: all candidates, and the fastest by the model.
#pragma once

#include <cstddef>

#include "driver/device.h"
#include "ops/forward_variant.h"
#include "ops/plan.h"
#include "selective_scan/problem.h"

namespace mamba_scan::ops {

// A variant, and the slots that its rows are dealt out to: as many, or more if it is cut.
struct Candidate {
  ForwardVariant variant;
  Index rows = 0;
  Index slots = 0;
  double clocks = 0;  // by the model
};

// Does it want a tile, unroll, stages or blocks?
bool has_details(const PlanChoice& choice);

// The variant's choice but for details.
PlanChoice simple_choice(const ForwardVariant& v, std::int16_t slices);

// Is it the variant's choice but for details?
bool is_simply(const PlanChoice& choice, const ForwardVariant& v);

// Of one prepared tensor, for every batch, group and step of whole tiles.
std::size_t prepared_floats(const ForwardVariant& v, const SelectiveScanProblem& p);

// Can B and C be prepared (prepare.cu)?
bool can_be_prepared(const ForwardVariant& v, const SelectiveScanProblem& problem);

// What forward.cu takes with its carries and with B and C prepared, all in all. Infinite where shared memory would then
// hold fewer warps.
double clocks_prepared(ForwardVariant v, Index rows, Index slots, const SelectiveScanProblem& problem,
                       const driver::DeviceReport& device);

// The same without preparation: what rows do not divide into is copied as slowly as words.
double clocks_unprepared(ForwardVariant v, Index rows, Index slots, const SelectiveScanProblem& problem,
                         const driver::DeviceReport& device);

// The one wanted where it is possible, otherwise the fastest by the model. whole_problem: not one slice of it, so that
// all kernels may be used.
Candidate choose(const SelectiveScanProblem& problem, const driver::DeviceReport& device, const ForwardVariant& base,
                 bool whole_problem, const PlanChoice* wanted);

}  // namespace mamba_scan::ops
