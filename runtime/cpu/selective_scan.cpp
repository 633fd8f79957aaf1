#include "cpu/selective_scan.h"

#include <algorithm>

#include "cpu/aligned_buffer.h"
#include "cpu/scan_kernels.h"
#include "cpu/split_states.h"
#include "cpu/thread_pool.h"

namespace mamba_scan::cpu {
namespace {

// Exponentials that repay waking a thread (some 10 us), and those that repay handing stretches of steps around.
constexpr Index kExponentialsPerThread = 1 << 15;
constexpr Index kExponentialsToSplitStates = 1 << 20;
constexpr Index kTasksPerThread = 2;  // so that a thread that starts late or is interrupted costs little

Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

// Every choice here is about speed only: the results are the same bits.
struct Plan {
  int threads;
  bool split_states;
  Index tile_vectors;  // vectors of channels that one task takes through the sequence together, sharing B and C
};

Plan make_plan(const SelectiveScanProblem& problem, Index lanes, int limit) {
  const Index vectors_per_group = ceil_div(problem.dim / problem.ngroups, lanes);
  const Index vectors = problem.batch * problem.ngroups * vectors_per_group;
  const Index steps = std::max<Index>(problem.seqlen, 1);
  // A double, because the product of five 64-bit sizes may not fit.
  const double exponentials = static_cast<double>(vectors) * static_cast<double>(lanes) * static_cast<double>(steps) *
                              static_cast<double>(std::max<Index>(problem.dstate, 1));
  const double useful = std::max(1.0, exponentials / kExponentialsPerThread);
  const int threads = useful < limit ? static_cast<int>(useful) : limit;

  const Index rounds = ceil_div(vectors, threads);
  const bool unbalanced = 4 * rounds * threads > 5 * vectors;  // more than a fifth of the threads' time idle
  if (threads > 1 && unbalanced && block_count(problem.dstate) > 1 && exponentials >= kExponentialsToSplitStates) {
    return {threads, true, 1};
  }
  // Many states make sharing B and C relatively cheap and the states of a tile too large for the cache.
  Index tile_vectors = std::clamp<Index>(256 / std::max<Index>(problem.dstate, 1), 1, kernels::max_tile_vectors());
  if (threads > 1) {
    // Tiles of one size: what is left over would make one thread wait for another.
    const Index wanted = ceil_div(kTasksPerThread * threads, problem.batch * problem.ngroups);  // per group
    tile_vectors = std::clamp<Index>(vectors_per_group / wanted, 1, tile_vectors);
  }
  return {threads, false, tile_vectors};
}

void scan_tiles(const SelectiveScanProblem& problem, Index lanes, const Plan& plan) {
  const Index group_channels = problem.dim / problem.ngroups;
  const Index tile_channels = plan.tile_vectors * lanes;
  const Index tiles_per_group = ceil_div(group_channels, tile_channels);
  const Index tasks = problem.batch * problem.ngroups * tiles_per_group;
  const auto memory_per_thread = kernels::tile_memory(problem, static_cast<int>(plan.tile_vectors));
  const AlignedBuffer memory(memory_per_thread * static_cast<std::size_t>(plan.threads));
  ThreadPool::shared().run(tasks, plan.threads, [&](Index task, int slot) {
    const Index first = task % tiles_per_group * tile_channels;
    const Index group = task / tiles_per_group % problem.ngroups;
    const Index batch = task / tiles_per_group / problem.ngroups;
    const int channels = static_cast<int>(std::min(tile_channels, group_channels - first));
    kernels::scan_tile(problem, {batch, group, group * group_channels + first, channels},
                       memory.data() + memory_per_thread * static_cast<std::size_t>(slot));
  });
}

}  // namespace

void selective_scan(const SelectiveScanProblem& problem, int threads) {
  if (problem.batch == 0 || problem.dim == 0) return;
  const Index lanes = kernels::lanes();
  const Plan plan = make_plan(problem, lanes, thread_limit(threads));
  if (plan.split_states) {
    scan_split_states(problem, plan.threads);
  } else {
    scan_tiles(problem, lanes, plan);
  }
}

int default_threads() { return thread_limit(0); }

}  // namespace mamba_scan::cpu
