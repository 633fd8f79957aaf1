#include "cpu/split_states.h"

#include <algorithm>
#include <vector>

#include "cpu/aligned_buffer.h"
#include "cpu/denormals.h"
#include "cpu/scan_kernels.h"
#include "cpu/thread_pool.h"

namespace mamba_scan::cpu {
namespace {

constexpr Index kPieceSteps = 256;
constexpr Index kMaxStretchPieces = 32;              // 8192 steps: long enough to make waiting for threads cheap
constexpr Index kMaxStretchFloats = Index{4} << 20;  // 16 MB, so that what threads hand over stays in the cache

Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

class StateSplit {
 public:
  StateSplit(const SelectiveScanProblem& problem, int threads);
  void run();

 private:
  struct Vector {
    Tile tile;
    Index projection;  // index of its (batch, group)
    StateRows states;
    StepRows steps;     // y: one row block per block of states
    float* largest_dt;  // per piece
    float largest_decay;
  };

  float* take(Index count) {
    float* taken = memory_.data() + used_;
    used_ += ceil_div(count, 16) * 16;
    return taken;
  }
  Index floats_per_stretch(Index pieces) const;
  Index piece_steps(Index piece) const { return std::min(kPieceSteps, steps_ - piece * kPieceSteps); }

  void stage(Index task);
  void recur(Index task);
  void finish(Index task);

  const SelectiveScanProblem& problem_;
  const int threads_;
  const Index lanes_;
  const Index blocks_;
  const Index values_;  // floats of B or C in one step
  const Index group_channels_;
  const Index vectors_per_group_;
  const Index projections_count_;
  Index max_pieces_;
  AlignedBuffer memory_;
  Index used_ = 0;
  std::vector<Vector> vectors_;
  std::vector<ProjectionRows> projections_;

  Index step_ = 0;  // the current stretch
  Index steps_ = 0;
  Index pieces_ = 0;
};

// Everything of `pieces` pieces and the states, with room for rounding each part up to a cache line.
Index StateSplit::floats_per_stretch(Index pieces) const {
  const Index vectors = projections_count_ * vectors_per_group_;
  const Index matrices = problem_.dstate * rate_parts(problem_) * lanes_ + 3 * values_ * lanes_ + 4 * 16;
  const Index rows = (2 + blocks_) * pieces * kPieceSteps * lanes_ + pieces + 16;
  return vectors * (matrices + rows) + projections_count_ * 2 * (pieces * kPieceSteps * values_ + 16);
}

StateSplit::StateSplit(const SelectiveScanProblem& problem, int threads)
    : problem_(problem),
      threads_(threads),
      lanes_(kernels::lanes()),
      blocks_(block_count(problem)),
      values_(problem.dstate * number_parts(problem)),
      group_channels_(problem.dim / problem.ngroups),
      vectors_per_group_(ceil_div(group_channels_, lanes_)),
      projections_count_(problem.batch * problem.ngroups),
      max_pieces_(std::min(kMaxStretchPieces, ceil_div(problem.seqlen, kPieceSteps))),
      memory_([this] {
        while (max_pieces_ > 1 && floats_per_stretch(max_pieces_) > kMaxStretchFloats) max_pieces_ /= 2;
        return static_cast<std::size_t>(floats_per_stretch(max_pieces_));
      }()) {
  const Index rates = problem_.dstate * rate_parts(problem_) * lanes_;
  const Index matrix = values_ * lanes_;
  const Index rows = max_pieces_ * kPieceSteps * lanes_;
  for (Index p = 0; p < projections_count_; ++p) {
    const Index batch = p / problem_.ngroups;
    const Index group = p % problem_.ngroups;
    const Index values = max_pieces_ * kPieceSteps * values_;
    projections_.push_back({take(values), take(values)});
    for (Index v = 0; v < vectors_per_group_; ++v) {
      const Index first = v * lanes_;
      const int channels = static_cast<int>(std::min(lanes_, group_channels_ - first));
      vectors_.push_back({.tile = {batch, group, group * group_channels_ + first, channels},
                          .projection = p,
                          .states = {take(rates), take(matrix), take(matrix), take(matrix)},
                          .steps = {take(rows), take(rows), take(blocks_ * rows)},
                          .largest_dt = take(max_pieces_),
                          .largest_decay = 0});
    }
  }
}

void StateSplit::run() {
  ThreadPool& pool = ThreadPool::shared();
  const auto vectors = static_cast<Index>(vectors_.size());
  pool.run(vectors, threads_, [this](Index task, int) {
    Vector& vector = vectors_[static_cast<std::size_t>(task)];
    vector.largest_decay = kernels::load_states(problem_, vector.tile, vector.states);
  });
  const auto guarded = [this](void (StateSplit::*part)(Index)) {
    return [this, part](Index task, int) {
      const DenormalsAreZero guard;
      (this->*part)(task);
    };
  };
  for (step_ = 0; step_ < problem_.seqlen; step_ += steps_) {
    steps_ = std::min(max_pieces_ * kPieceSteps, problem_.seqlen - step_);
    pieces_ = ceil_div(steps_, kPieceSteps);
    pool.run((vectors + projections_count_) * pieces_, threads_, guarded(&StateSplit::stage));
    pool.run(vectors * blocks_, threads_, guarded(&StateSplit::recur));
    pool.run(vectors * pieces_, threads_, guarded(&StateSplit::finish));
  }
  for (const Vector& vector : vectors_) kernels::store_states(problem_, vector.tile, vector.states.h);
}

// Tasks: the pieces of every projection, then those of every vector.
void StateSplit::stage(Index task) {
  const Index owner = task / pieces_;
  const Index piece = task % pieces_;
  const Index step = step_ + piece * kPieceSteps;
  const int steps = static_cast<int>(piece_steps(piece));
  if (owner < projections_count_) {
    const ProjectionRows& rows = projections_[static_cast<std::size_t>(owner)];
    const Index offset = piece * kPieceSteps * values_;
    kernels::stage_projections(problem_, owner / problem_.ngroups, owner % problem_.ngroups, step, steps,
                               {rows.b + offset, rows.c + offset});
    return;
  }
  const Vector& vector = vectors_[static_cast<std::size_t>(owner - projections_count_)];
  const Index offset = piece * kPieceSteps * lanes_;
  vector.largest_dt[piece] =
      kernels::stage_steps(problem_, vector.tile, step, steps,
                           {vector.steps.dt + offset, vector.steps.du + offset, vector.steps.y + offset});
}

void StateSplit::recur(Index task) {
  const Vector& vector = vectors_[static_cast<std::size_t>(task / blocks_)];
  const Index block = task % blocks_;
  const ProjectionRows& projections = projections_[static_cast<std::size_t>(vector.projection)];
  float* y = vector.steps.y + block * max_pieces_ * kPieceSteps * lanes_;
  // The first block adds to D * u. Adding to -0 leaves every other partial sum as it is, +0 and -0 included.
  if (block > 0) std::fill_n(y, steps_ * lanes_, -0.0f);
  for (Index piece = 0; piece < pieces_; ++piece) {
    const Index offset = piece * kPieceSteps * lanes_;
    const Index values = piece * kPieceSteps * values_;
    const bool bounded = vector.largest_dt[piece] * vector.largest_decay <= kBoundedExponent;
    kernels::scan_block(problem_, {block_first_state(problem_, block), static_cast<int>(piece_steps(piece)), bounded},
                        vector.states, {vector.steps.dt + offset, vector.steps.du + offset, y + offset},
                        {projections.b + values, projections.c + values});
  }
}

void StateSplit::finish(Index task) {
  const Vector& vector = vectors_[static_cast<std::size_t>(task / pieces_)];
  const Index piece = task % pieces_;
  const Index offset = piece * kPieceSteps * lanes_;
  const Index count = piece_steps(piece) * lanes_;
  float* y = vector.steps.y + offset;
  for (Index block = 1; block < blocks_; ++block) {
    const float* partial = y + block * max_pieces_ * kPieceSteps * lanes_;
    for (Index i = 0; i < count; ++i) y[i] += partial[i];
  }
  kernels::finish_steps(problem_, vector.tile, step_ + piece * kPieceSteps, static_cast<int>(piece_steps(piece)),
                        {vector.steps.dt + offset, vector.steps.du + offset, y});
}

}  // namespace

void scan_split_states(const SelectiveScanProblem& problem, int threads) { StateSplit(problem, threads).run(); }

}  // namespace mamba_scan::cpu
