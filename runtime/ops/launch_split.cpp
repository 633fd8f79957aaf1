#include "ops/launch_split.h"

#include <algorithm>

#include "ops/candidates.h"
#include "ops/ceil_div.h"
#include "ops/memory_layout.h"
#include "ops/plan.h"
#include "ops/work.h"

namespace mamba_scan::ops {
namespace {

constexpr double kSafety = 4;
constexpr Index kChannelBlock = 128;  // a multiple of what any warp covers

// ---- parts of a problem ----

void advance(SequenceTensor& tensor, Index elements, DType dtype) {
  if (tensor.data != nullptr) tensor.data = static_cast<char*>(tensor.data) + elements * element_size(dtype);
}

void advance(ProjectionTensor& tensor, Index elements, DType dtype) {
  const Index size = tensor.constant ? Index{sizeof(float)} : element_size(dtype);
  if (tensor.data != nullptr) tensor.data = static_cast<char*>(tensor.data) + elements * size;
}

SelectiveScanProblem some_batches(SelectiveScanProblem p, Index first, Index count) {
  p.batch = count;
  for (SequenceTensor* tensor : {&p.u, &p.delta, &p.z, &p.y}) advance(*tensor, first * tensor->batch_stride, p.dtype);
  for (ProjectionTensor* tensor : {&p.B, &p.C}) advance(*tensor, first * tensor->batch_stride, p.dtype);
  for (StateTensor* tensor : {&p.initial_state, &p.final_state})
    if (tensor->data != nullptr) tensor->data += first * tensor->batch_stride;
  return p;
}

// Channels of one group, or whole groups.
SelectiveScanProblem some_channels(SelectiveScanProblem p, Index first, Index count) {
  const Index per_group = p.dim / p.ngroups;
  p.dim = count;
  p.ngroups = std::max<Index>(1, count / per_group);
  for (SequenceTensor* tensor : {&p.u, &p.delta, &p.z, &p.y}) advance(*tensor, first * tensor->dim_stride, p.dtype);
  for (ProjectionTensor* tensor : {&p.B, &p.C})
    advance(*tensor, (tensor->constant ? first : first / per_group) * tensor->group_stride, p.dtype);
  p.A += first * p.A_dim_stride;
  if (p.D != nullptr) p.D += first;
  if (p.delta_bias != nullptr) p.delta_bias += first;
  for (StateTensor* tensor : {&p.initial_state, &p.final_state})
    if (tensor->data != nullptr) tensor->data += first * tensor->dim_stride;
  return p;
}

// `first` counts in the order of scanning.
SelectiveScanProblem some_steps(SelectiveScanProblem p, Index first, Index count) {
  const Index step = p.reverse ? p.seqlen - first - count : first;
  p.seqlen = count;
  if (p.cu_seqlens != nullptr) p.packed_begin += step;
  for (SequenceTensor* tensor : {&p.u, &p.delta, &p.z, &p.y}) advance(*tensor, step * tensor->seq_stride, p.dtype);
  for (ProjectionTensor* tensor : {&p.B, &p.C}) advance(*tensor, step * tensor->seq_stride, p.dtype);
  return p;
}

// ---- how large the parts are ----

// The most of `units` that still fit, at least one; fits(k) must not become true again as k grows. Then as few as leave
// the number of parts the same, so that parts are about equal.
template <class Fits>
Index largest_share(Index units, const Fits& fits) {
  Index low = 1, high = std::max<Index>(units, 1);
  while (low < high) {
    const Index middle = low + (high - low + 1) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return ceil_div(std::max<Index>(units, 1), ceil_div(std::max<Index>(units, 1), low));
}

struct Clocks {
  double hz, memory_bytes_per_second;
};

// For what an old driver does not tell: less than any GPU that runs these kernels has.
Clocks clocks_of(const driver::DeviceReport& device) {
  const double memory_hz = device.memory_clock_khz > 0 ? device.memory_clock_khz * 1e3 : 8e8;
  const double bus_bytes = device.memory_bus_bits > 0 ? device.memory_bus_bits / 8.0 : 8;
  return {device.clock_khz > 0 ? device.clock_khz * 1e3 : 5e8, 2 * memory_hz * bus_bytes};  // double data rate
}

// What the arithmetic of a complex state takes at least, in exponentials: 40 instructions, of which a multiprocessor
// issues 8 while it evaluates one (complex_lane.cuh).
constexpr double kComplex = 5;

// The roof, with a margin.
double full_device_ms(const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  const Clocks clocks = clocks_of(device);
  SelectiveScanProblem launch = problem;
  launch.dstate = most_states_at_once(problem);
  // Whether a call passes states must not matter to how an invariant scan is divided.
  if (problem.chunk_invariant) launch.initial_state.data = launch.final_state.data = const_cast<float*>(problem.A);
  const Work work = forward_work(launch);
  auto bytes = static_cast<double>(work.bytes);
  // Of a tensor without adjacent elements each is a sector.
  const SelectiveScanProblem scanned = in_scan_order(problem);
  const bool seq_contiguous = is_seq_contiguous(scanned);
  for (const SequenceTensor* tensor : {&scanned.u, &scanned.delta, &scanned.z, &scanned.y})
    if (tensor->data != nullptr && access_of(*tensor, scanned, seq_contiguous, 1) == Access::kElementwise)
      bytes += static_cast<double>(problem.batch * problem.seqlen * problem.dim) *
               (kSectorBytes - element_size(problem.dtype));
  const double exps_per_second = 16.0 * std::max(device.sm_count, 1) * clocks.hz;
  const double exps = static_cast<double>(work.exps) * (problem.is_complex ? kComplex : 1);
  return 1e3 * kSafety * std::max(exps / exps_per_second, bytes / clocks.memory_bytes_per_second);
}

// Of a step of sequences that run whole, however few they are: about 400 clocks for a warp on its own with complex
// states, 80 with real ones. 0: they may be cut in time, and few sequences fill the device.
double clocks_of_step(const SelectiveScanProblem& problem) {
  if (may_be_cut(problem)) return 0;
  return problem.is_complex ? 500 : 250;
}

// What fits in one launch as far as the dependence of steps on each other goes.
Index most_steps(const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  const double clocks = clocks_of_step(problem);
  if (clocks == 0) return problem.seqlen;
  const auto steps = static_cast<Index>(kLongestLaunchMs / 1e3 * clocks_of(device).hz / clocks);
  return std::min(problem.seqlen, std::max<Index>(steps / kInvariantSteps, 1) * kInvariantSteps);
}

struct Shares {
  Index batch, channels, steps;
};

Shares share_out(const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  const auto fits = [&](const SelectiveScanProblem& p) { return full_device_ms(p, device) <= kLongestLaunchMs; };
  const Index per_group = problem.dim / problem.ngroups;
  SelectiveScanProblem part = problem;
  part.seqlen = most_steps(problem, device);
  if (problem.chunk_invariant) {  // neither a call's length nor how its inputs lie in memory may matter
    part.seqlen = kInvariantSteps;
    for (SequenceTensor* tensor : {&part.u, &part.delta, &part.z}) {
      void* const data = tensor->data;
      *tensor = part.y;
      tensor->data = data;
    }
  }
  part.batch = largest_share(problem.batch, [&](Index count) { return fits(some_batches(part, 0, count)); });
  if (part.batch == 1 && !fits(part)) {
    const Index groups =
        largest_share(problem.ngroups, [&](Index count) { return fits(some_channels(part, 0, count * per_group)); });
    part = some_channels(part, 0, groups * per_group);
  }
  if (part.dim == per_group && !fits(part)) {
    const auto channels = [&](Index blocks) { return std::min(blocks * kChannelBlock, per_group); };
    const Index blocks = largest_share(ceil_div(per_group, kChannelBlock),
                                       [&](Index count) { return fits(some_channels(part, 0, channels(count))); });
    part = some_channels(part, 0, channels(blocks));
  }
  const SelectiveScanProblem whole = some_channels(some_batches(problem, 0, part.batch), 0, part.dim);
  Index steps = most_steps(problem, device);
  if (!fits(some_steps(whole, 0, steps)))
    steps = kInvariantSteps * largest_share(ceil_div(steps, kInvariantSteps), [&](Index count) {
              return fits(some_steps(whole, 0, std::min(count * kInvariantSteps, problem.seqlen)));
            });
  return {part.batch, part.dim, steps};
}

// ---- states between pieces ----

std::size_t state_bytes(const SelectiveScanProblem& p) {
  const Index states = p.cu_seqlens != nullptr ? p.sequences : p.batch;
  return static_cast<std::size_t>(states * p.dim * p.dstate * (p.is_complex ? 2 : 1)) * sizeof(float);
}

StateTensor dense_state(const SelectiveScanProblem& p) {
  const Index parts = p.is_complex ? 2 : 1;
  return {nullptr, p.dim * p.dstate * parts, p.dstate * parts, parts, p.is_complex ? 1 : 0};
}

// Appends the pieces in time of one share of batch and channels.
void cut_in_time(const SelectiveScanProblem& p, Index steps, LaunchSplit& split) {
  Index first = 0;
  do {
    const Index count = std::min(steps, p.seqlen - first);
    LaunchPiece piece{some_steps(p, first, count), first > 0, first + count < p.seqlen};
    if (piece.takes_state) piece.problem.initial_state = dense_state(p);
    if (piece.gives_state) piece.problem.final_state = dense_state(p);
    if (piece.gives_state) split.state_bytes = std::max(split.state_bytes, 2 * state_bytes(p));
    split.pieces.push_back(piece);
    first += count;
  } while (first < p.seqlen);
}

}  // namespace

double estimated_launch_ms(const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  const double chain = static_cast<double>(problem.seqlen) * clocks_of_step(problem) / clocks_of(device).hz;
  return std::max(full_device_ms(problem, device), 1e3 * chain);
}

bool needs_split(const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  if (!device.watchdog) return false;
  SelectiveScanProblem whole = problem;
  if (problem.chunk_invariant) whole.seqlen = std::max(problem.seqlen, kInvariantSteps);
  return estimated_launch_ms(whole, device) > kLongestLaunchMs;
}

LaunchSplit split_launches(const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  LaunchSplit split;
  if (!device.watchdog) {
    split.pieces.push_back({problem});
    return split;
  }
  const Shares shares = share_out(problem, device);
  const Index per_group = problem.dim / problem.ngroups;
  // A share of channels is whole groups, or lies within one.
  const Index span = std::max(shares.channels, per_group) / per_group * per_group;
  for (Index b = 0; b < problem.batch; b += shares.batch) {
    const auto rows = some_batches(problem, b, std::min(shares.batch, problem.batch - b));
    for (Index begin = 0; begin < problem.dim; begin += span) {
      const Index end = std::min(begin + span, problem.dim);
      for (Index d = begin; d < end; d += shares.channels)
        cut_in_time(some_channels(rows, d, std::min(shares.channels, end - d)), shares.steps, split);
    }
  }
  return split;
}

void hand_on_states(LaunchSplit& split, void* scratch) {
  float* const halves[] = {static_cast<float*>(scratch),
                           static_cast<float*>(scratch) + split.state_bytes / (2 * sizeof(float))};
  int next = 0;
  for (LaunchPiece& piece : split.pieces) {
    if (piece.takes_state) piece.problem.initial_state.data = halves[1 - next];
    if (piece.gives_state) {
      piece.problem.final_state.data = halves[next];
      next = 1 - next;
    }
  }
}

}  // namespace mamba_scan::ops
