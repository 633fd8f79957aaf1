#include "cpu/selective_scan.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "cpu/aligned_buffer.h"
#include "cpu/scan_kernels.h"
#include "cpu/split_states.h"
#include "cpu/subproblem.h"
#include "cpu/thread_pool.h"

namespace mamba_scan::cpu {
namespace {

// Exponentials that repay waking a thread (some 10 us), and those that repay handing stretches of steps around.
constexpr Index kExponentialsPerThread = 1 << 15;
constexpr Index kExponentialsToSplitStates = 1 << 20;
constexpr Index kExponentialsPerComplex = 4;  // what a state's step costs with its cosine and sine
constexpr Index kTasksPerThread = 2;          // so that a thread that starts late or is interrupted costs little

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
  const Index cost = std::max<Index>(problem.dstate, 1) * (problem.is_complex ? kExponentialsPerComplex : 1);
  // A double, because the product of five 64-bit sizes may not fit.
  const double exponentials = static_cast<double>(vectors) * static_cast<double>(lanes) * static_cast<double>(steps) *
                              static_cast<double>(cost);
  const double useful = std::max(1.0, exponentials / kExponentialsPerThread);
  const int threads = useful < limit ? static_cast<int>(useful) : limit;

  const Index rounds = ceil_div(vectors, threads);
  const bool unbalanced = 4 * rounds * threads > 5 * vectors;  // more than a fifth of the threads' time idle
  if (threads > 1 && unbalanced && block_count(problem) > 1 && exponentials >= kExponentialsToSplitStates) {
    return {threads, true, 1};
  }
  // Many states make sharing B and C relatively cheap and the states of a tile too large for the cache.
  const Index floats = std::max<Index>(problem.dstate * number_parts(problem), 1);
  Index tile_vectors = std::clamp<Index>(256 / floats, 1, kernels::max_tile_vectors());
  if (threads > 1) {
    // Tiles of one size: what is left over would make one thread wait for another.
    const Index wanted = ceil_div(kTasksPerThread * threads, problem.batch * problem.ngroups);  // per group
    tile_vectors = std::clamp<Index>(vectors_per_group / wanted, 1, tile_vectors);
  }
  return {threads, false, tile_vectors};
}

// Calls scan(row, tile, memory) for the tiles of `rows` sequences; tile.batch is left to it.
template <class Scan>
void for_each_tile(const SelectiveScanProblem& problem, Index rows, Index lanes, const Plan& plan, const Scan& scan) {
  const Index group_channels = problem.dim / problem.ngroups;
  const Index tile_channels = plan.tile_vectors * lanes;
  const Index tiles_per_group = ceil_div(group_channels, tile_channels);
  const Index tasks = rows * problem.ngroups * tiles_per_group;
  const auto memory_per_thread = kernels::tile_memory(problem, static_cast<int>(plan.tile_vectors));
  const AlignedBuffer memory(memory_per_thread * static_cast<std::size_t>(plan.threads));
  ThreadPool::shared().run(tasks, plan.threads, [&](Index task, int slot) {
    const Index first = task % tiles_per_group * tile_channels;
    const Index group = task / tiles_per_group % problem.ngroups;
    const int channels = static_cast<int>(std::min(tile_channels, group_channels - first));
    scan(task / tiles_per_group / problem.ngroups, Tile{0, group, group * group_channels + first, channels},
         memory.data() + memory_per_thread * static_cast<std::size_t>(slot));
  });
}

// A problem that is neither packed nor reversed.
void scan_batch(const SelectiveScanProblem& problem, Index lanes, const Plan& plan) {
  if (plan.split_states) {
    scan_split_states(problem, plan.threads);
    return;
  }
  for_each_tile(problem, problem.batch, lanes, plan, [&](Index batch, Tile tile, float* memory) {
    tile.batch = batch;
    kernels::scan_tile(problem, tile, memory);
  });
}

// Sequences that are long enough to occupy all threads go first, one by one; of the others, tiles are dealt out, the
// longest first, so that none of them begins when the other threads are nearly done.
void scan_packed(const SelectiveScanProblem& problem, Index lanes, int limit) {
  std::vector<Index> sequences(static_cast<std::size_t>(problem.sequences));
  std::iota(sequences.begin(), sequences.end(), Index{0});
  const auto length = [&](Index i) { return sequence_begin(problem, i + 1) - sequence_begin(problem, i); };
  std::stable_sort(sequences.begin(), sequences.end(), [&](Index a, Index b) { return length(a) > length(b); });
  auto next = sequences.begin();
  for (; next != sequences.end() && Index{length(*next)} * limit > problem.seqlen; ++next) {
    const SelectiveScanProblem sequence = one_sequence(problem, *next);
    scan_batch(sequence, lanes, make_plan(sequence, lanes, limit));
  }
  const auto rest = static_cast<Index>(sequences.end() - next);
  if (rest == 0) return;
  SelectiveScanProblem typical = problem;  // a batch of sequences of one length, for the plan
  typical.batch = rest;
  typical.seqlen = 0;
  for (auto i = next; i != sequences.end(); ++i) typical.seqlen += length(*i);
  typical.seqlen = ceil_div(typical.seqlen, rest);
  Plan plan = make_plan(typical, lanes, limit);
  plan.split_states = false;
  for_each_tile(problem, rest, lanes, plan, [&](Index row, const Tile& tile, float* memory) {
    kernels::scan_tile(one_sequence(problem, next[row]), tile, memory);
  });
}

}  // namespace

void selective_scan(const SelectiveScanProblem& problem, int threads) {
  if (problem.batch == 0 || problem.dim == 0) return;
  const Index lanes = kernels::lanes();
  const int limit = thread_limit(threads);
  if (problem.cu_seqlens != nullptr) {
    scan_packed(problem, lanes, limit);
  } else if (problem.reverse) {
    const SelectiveScanProblem turned = turned_around(problem);
    scan_batch(turned, lanes, make_plan(turned, lanes, limit));
  } else {
    scan_batch(problem, lanes, make_plan(problem, lanes, limit));
  }
}

int default_threads() { return thread_limit(0); }

}  // namespace mamba_scan::cpu
