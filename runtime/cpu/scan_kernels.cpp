#include "cpu/scan_kernels.h"

#include <algorithm>

#include "cpu/denormals.h"

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/scan_kernels.cpp"
#include "hwy/foreach_target.h"  // must come before highway.h and the -inl headers
// clang-format on
#include "cpu/stages-inl.h"
#include "hwy/highway.h"

#ifndef MAMBA_SCAN_CPU_TILE_LAYOUT
#define MAMBA_SCAN_CPU_TILE_LAYOUT
namespace mamba_scan::cpu {
namespace {

constexpr Index kMaxStageSteps = 64;

// Steps that are staged together: dt, du, y, B and C of them stay in the L1 cache (20 KB at dstate 16).
int steps_per_stage(const SelectiveScanProblem& problem) {
  const Index floats = std::max<Index>(problem.dstate * number_parts(problem), 1);  // per step, of B or C
  return static_cast<int>(std::clamp<Index>(8192 / floats, 16, kMaxStageSteps));
}

// How a tile divides its memory.
struct TileLayout {
  TileLayout(const SelectiveScanProblem& problem, int vectors, Index lanes, float* memory)
      : steps(steps_per_stage(problem)),
        rates(problem.dstate * rate_parts(problem) * lanes),
        matrix(problem.dstate * number_parts(problem) * lanes),
        memory_(memory) {
    const Index values = steps * problem.dstate * number_parts(problem);
    rows = {take(steps * lanes), take(steps * lanes), take(steps * lanes)};
    projections = {take(values), take(values)};
    states = {take(vectors * rates), take(vectors * matrix), problem.B.constant ? take(vectors * matrix) : nullptr,
              problem.C.constant ? take(vectors * matrix) : nullptr};
  }

  StateRows states_of(int vector) const {
    const Index offset = vector * matrix;
    return {states.decay + vector * rates, states.h + offset, states.constant_b ? states.constant_b + offset : nullptr,
            states.constant_c ? states.constant_c + offset : nullptr};
  }

  int steps;
  Index rates;   // floats of the decay rates of one vector of channels
  Index matrix;  // and of its states
  StepRows rows;
  ProjectionRows projections;
  StateRows states;
  Index used = 0;

 private:
  float* take(Index count) {
    float* taken = memory_ ? memory_ + used : nullptr;
    used += (count + 15) / 16 * 16;
    return taken;
  }
  float* memory_;
};

// Wide tiles read the rows of a (batch, seqlen, dim) tensor in long pieces, which memory serves faster.
constexpr int kMaxTileVectors = 16;

}  // namespace
}  // namespace mamba_scan::cpu
#endif  // MAMBA_SCAN_CPU_TILE_LAYOUT

HWY_BEFORE_NAMESPACE();
namespace mamba_scan::cpu::HWY_NAMESPACE {

const char* target() { return hwy::TargetName(HWY_TARGET); }

int lane_count() { return static_cast<int>(kLanes); }

// Hands out the cache lines that stage_steps and finish_steps will touch, tensor by tensor, to the blocks of states
// that are computed before.
class Upcoming {
 public:
  explicit Upcoming(const SelectiveScanProblem& problem) : element_size_(problem.dtype == DType::kFloat32 ? 4 : 2) {
    for (const SequenceTensor* tensor : {&problem.u, &problem.delta, &problem.y, &problem.z}) {
      if (tensor->data && has_lines(*tensor)) tensors_[count_++] = tensor;
    }
    const Index blocks = std::max<Index>(block_count(problem), 1);
    per_block_ = static_cast<int>((count_ + blocks - 1) / blocks);
  }

  // What next() is about from now on: `steps` steps of one vector of channels.
  void begin(const Tile& tile, Index step, Index steps) {
    given_ = steps > 0 ? 0 : count_;
    if (steps <= 0) return;
    const bool known = steps == steps_ && tile.channels == channels_;
    steps_ = steps;
    channels_ = tile.channels;
    for (int i = 0; i < count_; ++i) {
      const SequenceTensor& tensor = *tensors_[i];
      if (!known) lines_of_rows(tensor, element_size_, tile.channels, steps, kMaxStageSteps, offsets_[i]);
      const Index first =
          tile.batch * tensor.batch_stride + step * tensor.seq_stride + tile.channel * tensor.dim_stride;
      rows_[i] = {static_cast<const char*>(tensor.data) + first * element_size_, offsets_[i]};
    }
  }

  // For the next block, which has at least as many steps.
  LinesAhead next() {
    const LinesAhead share{rows_ + given_, std::min(per_block_, count_ - given_)};
    given_ += share.tensors;
    return share;
  }

 private:
  const Index element_size_;
  const SequenceTensor* tensors_[4];
  int count_ = 0;
  int per_block_ = 0;

  Index steps_ = 0;
  int channels_ = 0;
  Index offsets_[4][kMaxStageSteps];

  LinesAhead::Rows rows_[4];
  int given_ = 0;
};

void scan_tile(const SelectiveScanProblem& problem, const Tile& tile, float* memory) {
  const int vectors = (tile.channels + static_cast<int>(kRow) - 1) / static_cast<int>(kRow);
  const TileLayout layout(problem, vectors, kRow, memory);
  Tile parts[kMaxTileVectors];
  float decays[kMaxTileVectors];
  for (int v = 0; v < vectors; ++v) {
    parts[v] = tile;
    parts[v].channel += v * kRow;
    parts[v].channels = std::min(tile.channels - v * static_cast<int>(kRow), static_cast<int>(kRow));
    decays[v] = load_states(problem, parts[v], layout.states_of(v));
  }
  Upcoming upcoming(problem);
  for (Index step = 0; step < problem.seqlen; step += layout.steps) {
    const int steps = static_cast<int>(std::min<Index>(layout.steps, problem.seqlen - step));
    stage_projections(problem, tile.batch, tile.group, step, steps, layout.projections);
    for (int v = 0; v < vectors; ++v) {
      const float largest_dt = stage_steps(problem, parts[v], step, steps, layout.rows);
      const bool bounded = largest_dt * decays[v] <= kBoundedExponent;
      // While states are computed, which has no memory traffic of its own, the rows of what comes next are fetched.
      const bool last = v + 1 == vectors;
      const Index next = last ? step + steps : step;
      upcoming.begin(parts[last ? 0 : v + 1], next, std::min<Index>(layout.steps, problem.seqlen - next));
      for (Index n = 0; n < problem.dstate; n += states_in_block(problem, n)) {
        scan_block(problem, {n, steps, bounded, upcoming.next()}, layout.states_of(v), layout.rows, layout.projections);
      }
      finish_steps(problem, parts[v], step, steps, layout.rows);
    }
  }
  for (int v = 0; v < vectors; ++v) store_states(problem, parts[v], layout.states_of(v).h);
}

}  // namespace mamba_scan::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mamba_scan::cpu {

HWY_EXPORT(target);
HWY_EXPORT(lane_count);
HWY_EXPORT(scan_tile);
HWY_EXPORT(load_states);
HWY_EXPORT(stage_steps);
HWY_EXPORT(stage_projections);
HWY_EXPORT(scan_block);
HWY_EXPORT(finish_steps);
HWY_EXPORT(store_states);

namespace kernels {

const char* target_name() { return HWY_DYNAMIC_DISPATCH(target)(); }

int lanes() { return HWY_DYNAMIC_DISPATCH(lane_count)(); }

int max_tile_vectors() { return kMaxTileVectors; }

std::size_t tile_memory(const SelectiveScanProblem& problem, int vectors) {
  return static_cast<std::size_t>(TileLayout(problem, vectors, lanes(), nullptr).used);
}

void scan_tile(const SelectiveScanProblem& problem, const Tile& tile, float* memory) {
  const DenormalsAreZero guard;
  HWY_DYNAMIC_DISPATCH(scan_tile)(problem, tile, memory);
}

float load_states(const SelectiveScanProblem& problem, const Tile& tile, const StateRows& to) {
  const DenormalsAreZero guard;
  return HWY_DYNAMIC_DISPATCH(load_states)(problem, tile, to);
}

float stage_steps(const SelectiveScanProblem& problem, const Tile& tile, Index step, int steps, const StepRows& to) {
  const DenormalsAreZero guard;
  return HWY_DYNAMIC_DISPATCH(stage_steps)(problem, tile, step, steps, to);
}

void stage_projections(const SelectiveScanProblem& problem, Index batch, Index group, Index step, int steps,
                       const ProjectionRows& to) {
  const DenormalsAreZero guard;
  HWY_DYNAMIC_DISPATCH(stage_projections)(problem, batch, group, step, steps, to);
}

void scan_block(const SelectiveScanProblem& problem, const StateBlock& block, const StateRows& states,
                const StepRows& rows, const ProjectionRows& projections) {
  const DenormalsAreZero guard;
  HWY_DYNAMIC_DISPATCH(scan_block)(problem, block, states, rows, projections);
}

void finish_steps(const SelectiveScanProblem& problem, const Tile& tile, Index step, int steps, const StepRows& rows) {
  const DenormalsAreZero guard;
  HWY_DYNAMIC_DISPATCH(finish_steps)(problem, tile, step, steps, rows);
}

void store_states(const SelectiveScanProblem& problem, const Tile& tile, const float* h) {
  HWY_DYNAMIC_DISPATCH(store_states)(problem, tile, h);
}

}  // namespace kernels
}  // namespace mamba_scan::cpu
#endif  // HWY_ONCE
