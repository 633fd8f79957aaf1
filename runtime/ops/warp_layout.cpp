#include "ops/warp_layout.h"

#include <algorithm>

#include "ops/ceil_div.h"

namespace mamba_scan::ops {
namespace {

constexpr int kStatesOfShortWindows = 10;

// Windows take fewer copies than words, but more shared memory. Those of a lane lie in rows that must be shifted alike:
// as many rows apart as fit 32 lanes, and a multiple of the elements of a window. Short rows of steps, of which a
// window more is half as much again, are worth it where states are few; long ones leave room for fewer warps, which
// short sequences need to have one begin while others go on.
bool uses_windows(const ForwardVariant& v, Index seqlen) {
  constexpr int kMostStates = 16, kLongTile = 32;
  const bool fits = has_windows(v.tile_columns(), v.dtype) && v.channels == 1 && v.tile_columns() <= 32 &&
                    v.tile % kWindowElements == 0;
  if (v.kernel() == ScanKernel::kRelay)
    return fits && v.seq_contiguous && v.lanes > 1 && v.states >= 4;  // whose lanes read few words each
  const bool is_long = v.kernel() == ScanKernel::kForward && v.tile >= kLongTile && seqlen >= 4 * kLongTile;
  const int most = is_long ? kMostStates : kStatesOfShortWindows;
  return fits && (!v.seq_contiguous || (v.lanes <= 2 && v.states <= most));
}

// Do rows of outputs wait for the rest of a sector (sector_outputs.cuh)? Reversed scans would have to wait for what
// comes before it in memory, packed and complex ones have no registers left, many states take longer than memory, and
// whether calls that must agree to the bit end in the middle of one must not make another kernel.
bool stores_sectors(const SelectiveScanProblem& problem, const ForwardVariant& v) {
  constexpr int kMostStates = 12;
  const bool gains = v.states <= kMostStates && v.channels == 1 && v.lanes <= (element_size(v.dtype) == 4 ? 2 : 1);
  return gains && v.kernel() == ScanKernel::kForward && v.seq_contiguous && !problem.reverse && !v.packed &&
         !v.is_complex && !v.chunk_invariant && v.y_access != Access::kElementwise &&
         v.tile * element_size(v.dtype) % kSectorBytes == 0 && !fills_sectors(problem.y, problem, true, v.tile);
}

// Do lanes read and write rows that begin anywhere themselves (direct_rows.cuh)? What several lanes share they would
// read several times, and more states leave no registers; packed, sliced and invariant scans have their tiles in shared
// memory.
bool moves_directly(const ForwardVariant& v) {
  constexpr int kMostStates = 16;
  const auto accesses = {v.u_access, v.delta_access, v.z_access, v.y_access};
  const bool begin_anywhere = std::any_of(accesses.begin(), accesses.end(), is_unaligned) &&
                              std::find(accesses.begin(), accesses.end(), Access::kElementwise) == accesses.end();
  return begin_anywhere && v.kernel() == ScanKernel::kForward && !v.seq_contiguous && v.lanes == 1 && v.channels == 1 &&
         v.abreast == 1 && v.states <= kMostStates && v.slice == StateSlice::kAll && !v.packed && !v.is_complex &&
         !v.chunk_invariant;
}

// Rows of `row` adjacent elements, row_stride apart; tiles of `advance` elements.
TileSteps tile_steps(Index row, Index row_stride, Index advance, DType dtype, Access access) {
  const int columns = static_cast<int>(row);
  const int width = access == Access::kWords     ? 4 / element_size(dtype)
                    : access == Access::kWindows ? 16 / element_size(dtype)
                                                 : copy_width(columns, dtype);
  if (access == Access::kElementwise || access == Access::kDirectly || width == 0 || columns % width != 0 ||
      32 % (columns / width) != 0)
    return {0, 0};
  return {32 / (columns / width) * row_stride * element_size(dtype), advance * element_size(dtype)};
}

TileSteps sequence_steps(const SequenceTensor& tensor, Access access, const ForwardVariant& v) {
  const Index advance = Index{v.tiles_apart()} * v.tile * tensor.seq_stride;
  const Index row_stride = v.seq_contiguous ? tensor.dim_stride : tensor.seq_stride;
  return tile_steps(v.tile_columns(), row_stride, advance, v.dtype, access);
}

}  // namespace

bool has_long_windows(const ForwardVariant& v) {
  return v.u_access == Access::kWindows && v.seq_contiguous && v.states > kStatesOfShortWindows;
}

int next_power_of_two(int value) {
  int power = 1;
  while (power < value) power *= 2;
  return power;
}

Index blocks_per_group(const SelectiveScanProblem& problem, const ForwardVariant& v) {
  return ceil_div<Index>(problem.dim / problem.ngroups, v.warp_channels());
}

Index rows_of(const SelectiveScanProblem& problem, const ForwardVariant& v) {
  return problem.batch * problem.ngroups * blocks_per_group(problem, v);
}

Index rows_with_room(const SelectiveScanProblem& problem, const ForwardVariant& v) {
  return problem.batch * problem.ngroups * ceil_div<Index>(blocks_per_group(problem, v), v.abreast) * v.abreast;
}

int fewest_lanes(int dstate) { return std::min(32, next_power_of_two(ceil_div(dstate, 16))); }

int padded_states(const ForwardVariant& v, int lanes) {
  constexpr int kMany = 9;
  const int states = ceil_div<int>(v.dstate, lanes);
  return !v.is_complex && states >= kMany && states % 2 == 1 ? states + 1 : states;
}

bool has_windows(int columns, DType dtype) { return element_size(dtype) == 2 && columns % kWindowElements == 0; }

void set_projections(const SelectiveScanProblem& problem, ForwardVariant& v) {
  if (v.prepared) {  // prepare.cu reads any layout
    v.b_order = v.c_order = ProjectionOrder::kStates;
    v.b_access = v.c_access = Access::kVectors;
    return;
  }
  // Windows of B and C take less of a warp's time than words, but registers and shared memory, which only warps that
  // serve others have to spare: relay.cu measured slower with them.
  const auto layout = [&](const ProjectionTensor& tensor) {
    ProjectionLayout layout = layout_of(tensor, problem, v.tile);
    const bool are_words_of_steps = layout.order == ProjectionOrder::kSteps && layout.access == Access::kWords;
    if (v.served && are_words_of_steps && has_windows(v.tile, v.dtype)) layout.access = Access::kWindows;
    // whole_rows.cu reads any layout alike, but for vectors of states.
    const bool are_vectors_of_states = layout.order == ProjectionOrder::kStates && layout.access == Access::kVectors;
    if (v.row_vector > 0 && !are_vectors_of_states) layout = {ProjectionOrder::kStrided, Access::kVectors};
    return layout;
  };
  const ProjectionLayout B = layout(problem.B), C = layout(problem.C);
  v.b_order = B.order, v.b_access = B.access;
  v.c_order = C.order, v.c_access = C.access;
}

void set_accesses(const SelectiveScanProblem& problem, ForwardVariant& v) {
  if (v.row_vector > 0) return;  // whole_rows.cu moves runs of rows
  const auto access = [&](const SequenceTensor& x) {
    return access_of(x, problem, v.seq_contiguous, v.tile_columns());
  };
  const auto input_access = [&](const SequenceTensor& x) {
    const Access plain = access(x);
    return plain == Access::kWords && uses_windows(v, problem.seqlen) ? Access::kWindows : plain;
  };
  v.u_access = input_access(problem.u);
  v.delta_access = input_access(problem.delta);
  v.z_access = v.has_z ? input_access(problem.z) : Access::kVectors;
  v.y_access = access(problem.y);
  if (is_unaligned(v.u_access) && v.y_access == Access::kVectors) v.y_access = Access::kWords;
  if (stores_sectors(problem, v)) v.y_access = Access::kWindows;
  if (!moves_directly(v)) return;
  v.u_access = v.delta_access = v.y_access = Access::kDirectly;
  if (v.has_z) v.z_access = Access::kDirectly;
}

bool is_shifted(const ForwardVariant& v) {
  return element_size(v.dtype) == 2 &&
         (is_unaligned(v.u_access) || is_unaligned(v.delta_access) || is_unaligned(v.z_access));
}

bool has_adjacent_steps(const ForwardVariant& v) {
  return v.seq_contiguous || v.b_order == ProjectionOrder::kSteps || v.c_order == ProjectionOrder::kSteps;
}

TileSteps projection_steps(const ProjectionTensor& tensor, ProjectionLayout layout, const ForwardVariant& v) {
  const Index advance = Index{v.tiles_apart()} * v.tile * tensor.seq_stride;
  if (layout.access == Access::kWords) return {0, 0};
  if (layout.order == ProjectionOrder::kStates)
    return tile_steps(v.dstate * (v.is_complex ? 2 : 1), tensor.seq_stride, advance, v.dtype, layout.access);
  if (layout.order == ProjectionOrder::kSteps)
    return tile_steps(v.tile, tensor.state_stride, advance, v.dtype, layout.access);
  return {0, 0};
}

void set_tile_steps(const ForwardVariant& v, SelectiveScanForwardParams& params) {
  const SelectiveScanProblem& p = params.problem;
  params.u_steps = sequence_steps(p.u, v.u_access, v);
  params.delta_steps = sequence_steps(p.delta, v.delta_access, v);
  params.z_steps = sequence_steps(p.z, v.z_access, v);
  params.y_steps = sequence_steps(p.y, v.y_access, v);
  params.B_steps = v.prepared ? TileSteps{0, 0} : projection_steps(p.B, {v.b_order, v.b_access}, v);
  params.C_steps = v.prepared ? TileSteps{0, 0} : projection_steps(p.C, {v.c_order, v.c_access}, v);
}

}  // namespace mamba_scan::ops
