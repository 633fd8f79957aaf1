// The vector code of the scan behind run-time dispatch: each function runs the version for the best instruction set
// of this processor. "Rows" are floats [step][lane], one lane per channel; states lie as [state][lane]. Lanes
// without a channel hold zeros on the way in and are not written on the way out. Complex numbers are two rows or
// floats, real and imaginary part: [state][part][lane].
//
// The kernels know nothing of packed sequences and of scans from the end: selective_scan.cpp makes forward scans of
// single sequences out of them.
#pragma once

#include <cstddef>

#include "selective_scan/problem.h"

namespace mamba_scan::cpu {

// Channels of one batch entry that share B and C.
struct Tile {
  Index batch;
  Index group;
  Index channel;
  int channels;
};

// What stays in place while the steps go by, for one vector of channels.
struct StateRows {
  float* decay;  // A * log2(e); complex: three rows, Re A * log2(e) and Im A in quarter turns as a sum of two floats
  float* h;
  float* constant_b;  // null unless B is constant
  float* constant_c;
};

// The steps of one vector of channels.
struct StepRows {
  float* dt;
  float* du;  // dt * u
  float* y;
};

// B and C of some steps as floats [step][state][part]; not used for the constant one.
struct ProjectionRows {
  float* b;
  float* c;
};

// Floats of a number, and of a decay rate.
constexpr Index number_parts(const SelectiveScanProblem& problem) { return problem.is_complex ? 2 : 1; }
constexpr Index rate_parts(const SelectiveScanProblem& problem) { return problem.is_complex ? 3 : 1; }

// States of one vector of channels over some steps. The sum over the states is built in blocks of this many, each
// from zero, added to y in order; what is left over forms blocks of one. So the order of additions depends on
// dstate alone.
inline constexpr Index kBlockStates = 4;
inline constexpr Index kComplexBlockStates = 2;  // whose rates and states fill as many registers

constexpr Index full_block(const SelectiveScanProblem& problem) {
  return problem.is_complex ? kComplexBlockStates : kBlockStates;
}

// Cache lines to fetch while a block is computed: for each step one of every tensor, at `first + offsets[step]`.
struct LinesAhead {
  struct Rows {
    const char* first;
    const Index* offsets;
  };
  const Rows* rows = nullptr;
  int tensors = 0;
};

struct StateBlock {
  Index state;  // the first of the block
  int steps;
  bool bounded;  // |dt * decay| <= 125 in all of them, no NaN
  LinesAhead ahead = {};
};

constexpr Index states_in_block(const SelectiveScanProblem& problem, Index first) {
  return problem.dstate - first >= full_block(problem) ? full_block(problem) : 1;
}
constexpr Index block_count(const SelectiveScanProblem& problem) {
  return problem.dstate / full_block(problem) + problem.dstate % full_block(problem);
}
constexpr Index block_first_state(const SelectiveScanProblem& problem, Index block) {
  const Index full = problem.dstate / full_block(problem);
  return block < full ? block * full_block(problem) : full * full_block(problem) + (block - full);
}

// Largest |dt * decay| for which the kernels may leave out the range check of the exponential.
inline constexpr float kBoundedExponent = 125.0f;

namespace kernels {

const char* target_name();
int lanes();
int max_tile_vectors();

// A whole sequence for up to `vectors` (at most max_tile_vectors()) vectors of channels. memory: tile_memory() floats,
// 64-byte aligned.
std::size_t tile_memory(const SelectiveScanProblem& problem, int vectors);
void scan_tile(const SelectiveScanProblem& problem, const Tile& tile, float* memory);

// The same in pieces, for a tile of one vector. load_states and stage_steps return the largest |decay| and |dt|,
// or NaN where there is one.
float load_states(const SelectiveScanProblem& problem, const Tile& tile, const StateRows& to);
float stage_steps(const SelectiveScanProblem& problem, const Tile& tile, Index step, int steps, const StepRows& to);
void stage_projections(const SelectiveScanProblem& problem, Index batch, Index group, Index step, int steps,
                       const ProjectionRows& to);
void scan_block(const SelectiveScanProblem& problem, const StateBlock& block, const StateRows& states,
                const StepRows& rows, const ProjectionRows& projections);
void finish_steps(const SelectiveScanProblem& problem, const Tile& tile, Index step, int steps, const StepRows& rows);
void store_states(const SelectiveScanProblem& problem, const Tile& tile, const float* h);

}  // namespace kernels
}  // namespace mamba_scan::cpu
