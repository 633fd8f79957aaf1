// How a problem's tensors lie in memory, as far as a choice of kernel depends on it.
#pragma once

#include <cstdint>

#include "selective_scan/problem.h"

namespace mamba_scan::ops {

// How B or C lies in memory: MS_B_ORDER and MS_C_ORDER.
enum class ProjectionOrder : std::int8_t { kStates = 0, kSteps = 1, kStrided = 2, kConstant = 3 };

// How a tensor's tiles are moved: MS_*_ACCESS (warp_tile.cuh).
enum class Access : std::int8_t { kElementwise = 0, kWords = 1, kVectors = 2, kWindows = 3, kDirectly = 4 };

// Words or windows: rows that begin anywhere.
constexpr bool is_unaligned(Access access) { return access == Access::kWords || access == Access::kWindows; }
// Those, or what lanes move without tiles because of it.
constexpr bool begins_anywhere(Access access) { return is_unaligned(access) || access == Access::kDirectly; }

constexpr int kWindowElements = 8;  // of 16 bits

int element_size(DType dtype);

// The problem as the kernels see it: step 0 is the first one scanned. The functions below are for problems in that
// order.
SelectiveScanProblem in_scan_order(SelectiveScanProblem problem);

// Adjacent along the sequence rather than along the channels?
bool is_seq_contiguous(const SelectiveScanProblem& problem);

// Elements of the widest asynchronous copy that rows of `columns` elements divide into; 0: not even 4 bytes.
int copy_width(int columns, DType dtype);

// Of tiles whose rows are `columns` elements along the contiguous axis.
Access access_of(const SequenceTensor& tensor, const SelectiveScanProblem& problem, bool seq_contiguous, int columns);

// Elements, up to a vector of 16 bytes, that the rows of u, delta and z begin with a multiple of, and divide into. 0:
// these and y are not rows of adjacent steps each of which begins where the one before it ends.
int adjacent_rows_vector(const SelectiveScanProblem& problem);

// Are these rows whole sectors of memory?
bool fills_sectors(const SequenceTensor& tensor, const SelectiveScanProblem& problem, bool seq_contiguous, int columns);

struct ProjectionLayout {
  ProjectionOrder order = ProjectionOrder::kStrided;
  Access access = Access::kVectors;  // of rows of all states, or of `tile` steps
};
ProjectionLayout layout_of(const ProjectionTensor& tensor, const SelectiveScanProblem& problem, int tile);

}  // namespace mamba_scan::ops
