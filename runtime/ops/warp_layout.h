// How a variant's warps lie on a problem: what each has of it, and how its tensors are moved.
#pragma once

#include "ops/forward_variant.h"
#include "selective_scan/forward_params.h"

namespace mamba_scan::ops {

int next_power_of_two(int value);

// Warps that the channels of a group take.
Index blocks_per_group(const SelectiveScanProblem& problem, const ForwardVariant& v);

// Rows of a scan: of each batch entry and group, one for every warp.
Index rows_of(const SelectiveScanProblem& problem, const ForwardVariant& v);

// For which blocks have room: those of a group that go abreast may be fewer than a block could have.
Index rows_with_room(const SelectiveScanProblem& problem, const ForwardVariant& v);

// A lane holds 16 states of a channel at most.
int fewest_lanes(int dstate);

// States of a lane that has an odd number of many: these would be read one by one from shared memory, and one more,
// which is only padding, may cost less.
int padded_states(const ForwardVariant& v, int lanes);

// Windows of rows of steps, of more states than those for which short ones are worth it (uses_windows()).
bool has_long_windows(const ForwardVariant& v);

// Can rows of `columns` elements be moved in windows?
bool has_windows(int columns, DType dtype);

// b_order to c_access: how B and C are moved.
void set_projections(const SelectiveScanProblem& problem, ForwardVariant& v);

// u_access to y_access. Where u is shifted in shared memory, y is not stored from there in vectors.
void set_accesses(const SelectiveScanProblem& problem, ForwardVariant& v);

// Are there rows that may begin within a word or window? Only a single channel of a lane can be read from these.
bool is_shifted(const ForwardVariant& v);

// Only then does it matter to a kernel in which direction steps run in memory.
bool has_adjacent_steps(const ForwardVariant& v);

// How lanes walk along B or C (tile_copy.cuh), and along all tensors.
TileSteps projection_steps(const ProjectionTensor& tensor, ProjectionLayout layout, const ForwardVariant& v);
void set_tile_steps(const ForwardVariant& v, SelectiveScanForwardParams& params);

}  // namespace mamba_scan::ops
