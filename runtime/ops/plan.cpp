#include "ops/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "platform/error.h"

namespace mamba_scan::ops {
namespace {

constexpr int kStages = 2;  // as in warp_tile.cuh

int element_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

template <class Value>
Value ceil_div(Value value, Value divisor) {
  return (value + divisor - 1) / divisor;
}

// ---- memory layout --------------------------------------------------------------------------------------------------

// Adjacent along the sequence rather than along the channels? An axis of length 1 is adjacent to anything.
bool is_seq_contiguous(const SelectiveScanProblem& problem) {
  if (problem.seqlen == 1) return false;
  return problem.y.seq_stride == 1 && (problem.y.dim_stride != 1 || problem.dim == 1);
}

// Elements of the widest asynchronous copy that rows of `columns` elements divide into; 0: not even 4 bytes.
int copy_width(int columns, DType dtype) {
  const int bytes = columns * element_size(dtype);
  for (int width : {16, 8, 4})
    if (bytes % width == 0) return width / element_size(dtype);
  return 0;
}

bool is_aligned(const void* data, int elements, DType dtype) {
  return reinterpret_cast<std::uintptr_t>(data) % static_cast<std::size_t>(elements * element_size(dtype)) == 0;
}

// Can `width` elements along the contiguous axis always be accessed at once?
bool is_vectored(const SequenceTensor& tensor, const SelectiveScanProblem& problem, bool seq_contiguous, int width) {
  if (width == 0) return false;
  const Index along = seq_contiguous ? tensor.seq_stride : tensor.dim_stride;
  const Index across = seq_contiguous ? tensor.dim_stride : tensor.seq_stride;
  const Index along_extent = seq_contiguous ? problem.seqlen : problem.dim;
  const Index across_extent = seq_contiguous ? problem.dim : problem.seqlen;
  if (along != 1 && along_extent > 1) return false;
  if (across % width != 0 && across_extent > 1) return false;
  if (tensor.batch_stride % width != 0 && problem.batch > 1) return false;
  // Warps start at a group's first channel.
  if (!seq_contiguous && problem.ngroups > 1 && (problem.dim / problem.ngroups) % width != 0) return false;
  return is_aligned(tensor.data, width, problem.dtype);
}

ProjectionOrder order_of(const ProjectionTensor& tensor, const SelectiveScanProblem& problem, int tile) {
  if (tensor.constant) return ProjectionOrder::kConstant;
  const auto fits = [&](Index along, Index along_extent, Index across, Index across_extent, int width) {
    return width > 0 && (along == 1 || along_extent == 1) && (across % width == 0 || across_extent == 1) &&
           (tensor.group_stride % width == 0 || problem.ngroups == 1) &&
           (tensor.batch_stride % width == 0 || problem.batch == 1) && is_aligned(tensor.data, width, problem.dtype);
  };
  const int dstate = static_cast<int>(problem.dstate);
  if (fits(tensor.state_stride, problem.dstate, tensor.seq_stride, problem.seqlen, copy_width(dstate, problem.dtype)))
    return ProjectionOrder::kStates;
  if (fits(tensor.seq_stride, problem.seqlen, tensor.state_stride, problem.dstate, copy_width(tile, problem.dtype)))
    return ProjectionOrder::kSteps;
  return ProjectionOrder::kStrided;
}

// ---- lanes, states and channels
// -----------------------------------------------------------------------------------------

// Registers a lane's states, decay rates and everything else fit in without spilling, as blocks of one warp per SM.
// 8 blocks leave 255 registers, 12 leave 168, 16 leave 128; Turing and the RTX 30 and 40 series hold no more than 16.
std::int16_t blocks_for_registers(const ForwardVariant& v) {
  int per_lane = v.channels * v.states;
  if (v.b_order == ProjectionOrder::kConstant) per_lane += v.channels * v.states / 2;
  if (v.c_order == ProjectionOrder::kConstant) per_lane += v.channels * v.states / 2;
  // Sums over many lanes take registers too, and B and C of many states leave shared memory for fewer blocks anyway.
  if (v.dstate > 64) return 8;
  return static_cast<std::int16_t>(per_lane > 32 ? 8 : per_lane > 12 ? 12 : 16);
}

int blocks_per_sm(const ForwardVariant& v, const driver::DeviceReport& device) {
  constexpr std::size_t kReservedPerBlock = 1024;  // by the system, on every architecture since sm_80
  const std::size_t by_shared = device.shared_per_sm / (v.shared_bytes() + kReservedPerBlock);
  const int by_threads = device.max_threads_per_sm / static_cast<int>(kForwardBlockThreads);
  const int by_slots = device.max_blocks_per_sm > 0 ? device.max_blocks_per_sm : 16;  // 0: an old driver
  return std::max(1, std::min({static_cast<int>(v.min_blocks), static_cast<int>(by_shared), by_threads, by_slots}));
}

// ---- the model that chooses
// -----------------------------------------------------------------------------------------------

// Clocks one scheduler (a quarter of an SM) takes for one step of all of its `warps`, fitted to an H200: the
// exponential unit takes 8 clocks per state of a lane and reaches 85 % of that; issue slots bind when a lane has few
// states; about 100 clocks of latency are not hidden.
double clocks_per_step(const ForwardVariant& v, int warps) {
  if (warps == 0) return 0;
  const double states = static_cast<double>(v.channels) * v.states;
  return 100 + warps * std::max(8 * states * 1.18, (5 * states + 55) * 1.15);
}

struct Candidate {
  ForwardVariant variant;
  Index rows = 0;
  Index slots = 0;
  double clocks = 0;
};

// Rows run whole, in waves as large as the device holds.
double clocks_uncut(const Candidate& c, const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  const int schedulers = 4 * std::max(device.sm_count, 1);
  const int resident = std::max(1, blocks_per_sm(c.variant, device) / 4);
  const Index per_scheduler = ceil_div<Index>(c.rows, schedulers);
  const double waves = static_cast<double>(per_scheduler / resident);
  const double per_step = waves * clocks_per_step(c.variant, resident) +
                          clocks_per_step(c.variant, static_cast<int>(per_scheduler % resident));
  return per_step * static_cast<double>(problem.seqlen);
}

// Every slot scans an equal share, after the carries of that share have been computed. At Mamba's own initialisation
// (delta about 0.02, A = -1 .. -N) state n counts for about 1300 / n steps; a state that is forgotten costs nothing.
double clocks_cut(const Candidate& c, const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  const int resident = std::max(1, blocks_per_sm(c.variant, device) / 4);
  const double tiles =
      static_cast<double>(c.rows) * static_cast<double>(ceil_div<Index>(problem.seqlen, c.variant.tile));
  const double steps = std::ceil(tiles / static_cast<double>(c.slots)) * c.variant.tile;
  constexpr double kRemembered = 1300;
  const double harmonic = std::log(static_cast<double>(problem.dstate)) + 0.58;  // 1/1 + ... + 1/N
  const double states_alive = std::min(1.0, kRemembered / steps * harmonic / static_cast<double>(problem.dstate));
  const double steps_alive = std::min(1.0, kRemembered / steps);
  const double carry_share = 0.8 * states_alive + 0.25 * steps_alive;
  constexpr double kSecondLaunch = 8000;  // about 4 us: its start, its cold instructions, reading the carries
  return steps * clocks_per_step(c.variant, resident) * (1 + carry_share) + kSecondLaunch;
}

int next_power_of_two(int value) {
  int power = 1;
  while (power < value) power *= 2;
  return power;
}

// All ways to share a channel's states among lanes and channels among warps, whole or cut in time; the fastest by the
// model.
Candidate choose(const SelectiveScanProblem& problem, const driver::DeviceReport& device, const ForwardVariant& base) {
  const int dstate = static_cast<int>(problem.dstate);
  const int fewest_lanes = std::min(32, next_power_of_two(ceil_div(dstate, 8)));
  const int most_lanes = std::min(32, next_power_of_two(dstate));
  const Index channels_per_group = problem.dim / problem.ngroups;
  Candidate best;
  // Where steps are adjacent, u, delta and the outputs of several steps are in registers at once: four channels of them
  // would spill, and two are as fast.
  const int most_channels = base.seq_contiguous ? 2 : 4;
  for (int lanes = fewest_lanes; lanes <= most_lanes; lanes *= 2) {
    for (int channels = most_channels; channels >= 1; channels /= 2) {
      Candidate c;
      c.variant = base;
      ForwardVariant& v = c.variant;
      v.lanes = static_cast<std::int16_t>(lanes);
      v.states = static_cast<std::int16_t>(ceil_div(dstate, lanes));
      v.channels = static_cast<std::int16_t>(channels);
      v.min_blocks = blocks_for_registers(v);
      c.rows = problem.batch * problem.ngroups * ceil_div<Index>(channels_per_group, v.warp_channels());
      if (c.rows > std::numeric_limits<int>::max()) continue;
      c.slots = c.rows;
      c.clocks = clocks_uncut(c, problem, device);
      if (best.slots == 0 || c.clocks < best.clocks) best = c;

      const Index tiles_per_row = ceil_div<Index>(problem.seqlen, v.tile);
      c.slots =
          std::min<Index>(Index{device.sm_count} * (blocks_per_sm(v, device) / 4 * 4), c.rows * tiles_per_row / 2);
      if (c.slots <= c.rows) continue;
      v.cut = true;
      c.clocks = clocks_cut(c, problem, device);
      if (c.clocks < best.clocks) best = c;
    }
  }
  if (best.slots == 0)
    throw ArgumentError("batch * dim: got " + std::to_string(problem.batch) + " * " + std::to_string(problem.dim) +
                        ", which needs more than 2^31 - 1 blocks; split the batch");
  return best;
}

jit::Variant make_variant(const ForwardVariant& v, const char* source, const char* entry) {
  jit::Variant out;
  out.source = source;
  out.entry = entry;
  const auto define = [&](const char* name, int value) { out.defines.emplace_back(name, std::to_string(value)); };
  define("MS_DTYPE", static_cast<int>(v.dtype));
  define("MS_DSTATE", v.dstate);
  define("MS_LANES", v.lanes);
  define("MS_STATES", v.states);
  define("MS_CHANNELS", v.channels);
  define("MS_MIN_BLOCKS", v.min_blocks);
  define("MS_TILE", v.tile);
  define("MS_UNROLL", v.unroll);
  define("MS_SEQ_CONTIGUOUS", v.seq_contiguous);
  define("MS_U_VECTORED", v.u_vectored);
  define("MS_DELTA_VECTORED", v.delta_vectored);
  define("MS_Z_VECTORED", v.z_vectored);
  define("MS_Y_VECTORED", v.y_vectored);
  define("MS_B_ORDER", static_cast<int>(v.b_order));
  define("MS_C_ORDER", static_cast<int>(v.c_order));
  define("MS_SOFTPLUS", v.softplus);
  define("MS_HAS_BIAS", v.has_bias);
  define("MS_HAS_D", v.has_d);
  define("MS_HAS_Z", v.has_z);
  define("MS_HAS_INITIAL", v.has_initial);
  define("MS_HAS_FINAL", v.has_final);
  define("MS_CUT", v.cut);
  return out;
}

// A tile is 32 bytes of a channel where steps are adjacent, a whole sector of memory, and the same number of steps
// otherwise; less where B and C of many states would fill shared memory.
std::int16_t tile_for(const SelectiveScanProblem& problem) {
  const int steps = 32 / element_size(problem.dtype);
  return static_cast<std::int16_t>(problem.dstate > 128 ? 16 / element_size(problem.dtype) : steps);
}

}  // namespace

std::size_t ForwardVariant::shared_bytes() const {
  const auto aligned = [](std::size_t bytes) { return (bytes + 15) / 16 * 16; };
  const std::size_t element = static_cast<std::size_t>(element_size(dtype));
  const std::size_t steps = static_cast<std::size_t>(tile);
  const std::size_t sequence = aligned(steps * static_cast<std::size_t>(warp_channels()) * element);
  const auto raw = [&](ProjectionOrder order) {
    return aligned(order == ProjectionOrder::kConstant ? element : steps * static_cast<std::size_t>(dstate) * element);
  };
  const auto expanded = [&](ProjectionOrder order) {
    return aligned(order == ProjectionOrder::kConstant ? 4 : steps * static_cast<std::size_t>(lanes * states) * 4);
  };
  const std::size_t stage = 2 * sequence + (has_z ? sequence : 16) + raw(b_order) + raw(c_order);
  constexpr std::size_t kPiece = 32;
  return kStages * stage + kPiece + expanded(b_order) + expanded(c_order);
}

jit::Variant ForwardVariant::forward() const {
  return make_variant(*this, "selective_scan/forward.cu", "selective_scan_forward");
}

jit::Variant ForwardVariant::carry() const {
  ForwardVariant v = *this;  // what the carries do not depend on must not make another kernel
  v.c_order = ProjectionOrder::kConstant;
  v.z_vectored = v.y_vectored = true;
  v.has_d = v.has_z = v.has_initial = v.has_final = false;
  return make_variant(v, "selective_scan/carry.cu", "selective_scan_carry");
}

ForwardPlan plan_forward(const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  if (problem.dstate > kMaxCudaDState)
    throw ArgumentError("dstate: got " + std::to_string(problem.dstate) + ", the CUDA kernels need at most " +
                        std::to_string(kMaxCudaDState) + "; use CPU tensors for larger states");

  ForwardVariant v;
  v.dtype = problem.dtype;
  v.dstate = static_cast<std::int16_t>(problem.dstate);
  v.tile = tile_for(problem);
  v.seq_contiguous = is_seq_contiguous(problem);
  v.b_order = order_of(problem.B, problem, v.tile);
  v.c_order = order_of(problem.C, problem, v.tile);
  v.unroll = static_cast<std::int16_t>(v.seq_contiguous ? std::min<int>(16 / element_size(v.dtype), v.tile) : 4);
  v.softplus = problem.delta_softplus;
  v.has_bias = problem.delta_bias != nullptr;
  v.has_d = problem.D != nullptr;
  v.has_z = problem.z.data != nullptr;
  v.has_initial = problem.initial_state.data != nullptr;
  v.has_final = problem.final_state.data != nullptr;

  const Candidate chosen = choose(problem, device, v);
  v = chosen.variant;
  const int copied = copy_width(v.seq_contiguous ? v.tile : v.warp_channels(), v.dtype);
  const int stored =
      v.seq_contiguous ? std::min<int>(16 / element_size(v.dtype), v.tile) : std::max(v.channels / v.lanes, 1);
  v.u_vectored = is_vectored(problem.u, problem, v.seq_contiguous, copied);
  v.delta_vectored = is_vectored(problem.delta, problem, v.seq_contiguous, copied);
  v.z_vectored = !v.has_z || is_vectored(problem.z, problem, v.seq_contiguous, copied);
  v.y_vectored = is_vectored(problem.y, problem, v.seq_contiguous, stored);

  const Index channels_per_group = problem.dim / problem.ngroups;
  const Index tiles_per_row = std::max<Index>(1, ceil_div<Index>(problem.seqlen, v.tile));
  const Index tiles = chosen.rows * tiles_per_row;
  if (tiles > std::numeric_limits<int>::max())
    throw ArgumentError("batch * seqlen * dim: got " + std::to_string(problem.batch) + " * " +
                        std::to_string(problem.seqlen) + " * " + std::to_string(problem.dim) +
                        ", which is more than 2^31 - 1 tiles of " + std::to_string(v.tile) + " steps and " +
                        std::to_string(v.warp_channels()) + " channels; split the batch or the sequence");

  ForwardPlan plan;
  plan.variant = v;
  plan.params.problem = problem;
  plan.params.channels_per_group = static_cast<int>(channels_per_group);
  plan.params.blocks_per_group = static_cast<int>(ceil_div<Index>(channels_per_group, v.warp_channels()));
  plan.params.tiles_per_row = static_cast<int>(tiles_per_row);
  plan.params.tiles = static_cast<int>(tiles);
  plan.params.slots = static_cast<int>(chosen.slots);
  plan.params.carry_state = nullptr;
  plan.params.carry_delta = nullptr;
  if (v.cut) {
    const std::size_t lanes = static_cast<std::size_t>(chosen.slots) * 32 * static_cast<std::size_t>(v.channels);
    plan.carry_state_bytes = lanes * static_cast<std::size_t>(v.states) * sizeof(float);
    plan.carry_delta_bytes = lanes * sizeof(float);
  }
  return plan;
}

Work forward_work(const SelectiveScanProblem& problem) {
  const Index rows = problem.batch * problem.seqlen;
  const int element = element_size(problem.dtype);
  Work work;
  work.exps = rows * problem.dim * problem.dstate;
  work.bytes = rows * problem.dim * element * (problem.z.data ? 4 : 3);
  for (const ProjectionTensor* tensor : {&problem.B, &problem.C})
    work.bytes +=
        tensor->constant ? problem.dim * problem.dstate * 4 : rows * problem.ngroups * problem.dstate * element;
  const Index state_bytes = problem.batch * problem.dim * problem.dstate * 4;
  work.bytes += problem.dim * problem.dstate * 4;
  work.bytes += (problem.initial_state.data ? state_bytes : 0) + (problem.final_state.data ? state_bytes : 0);
  work.bytes += (problem.D ? problem.dim * 4 : 0) + (problem.delta_bias ? problem.dim * 4 : 0);
  return work;
}

std::vector<jit::Variant> shipped_variants(int capability) {
  driver::DeviceReport device;
  device.major = capability / 10;
  device.minor = capability % 10;
  device.sm_count = 64;
  device.max_blocks_per_sm = 16;
  device.max_threads_per_sm = capability == 75 ? 1024 : 1536;
  device.shared_per_sm = capability == 75 ? 64 << 10 : 100 << 10;

  // Only whether a pointer is null matters to the plan, and its alignment.
  alignas(16) static float somewhere[4];
  std::vector<jit::Variant> out;
  std::set<std::string> seen;
  const auto add_once = [&](jit::Variant variant) {
    if (seen.insert(variant.name()).second) out.push_back(std::move(variant));
  };
  const auto add = [&](DType dtype, bool seq_last, Index dstate, Index batch, bool full, bool constant_b) {
    SelectiveScanProblem p{};
    p.batch = batch;
    p.seqlen = 8192;
    p.dim = 2048;
    p.dstate = dstate;
    p.ngroups = 1;
    p.dtype = dtype;
    const SequenceTensor tensor{somewhere, p.seqlen * p.dim, seq_last ? 1 : p.dim, seq_last ? p.seqlen : 1};
    p.u = p.delta = p.y = tensor;
    p.B = p.C = {somewhere, p.seqlen * dstate, seq_last ? 1 : dstate, dstate, seq_last ? p.seqlen : 1, false};
    if (constant_b) p.B = {somewhere, 0, 0, dstate, 1, true};
    p.A = somewhere;
    if (full) {
      p.z = tensor;
      p.delta_softplus = true;
      p.D = p.delta_bias = somewhere;
      p.initial_state = p.final_state = {somewhere, p.dim * dstate, dstate, 1};
    }
    const ForwardVariant variant = plan_forward(p, device).variant;
    add_once(variant.forward());
    if (variant.cut) add_once(variant.carry());
  };
  constexpr Index kFew = 1, kMany = 64;  // sequences: cut in time, and whole
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16})
    for (bool seq_last : {false, true}) {
      add(dtype, seq_last, 16, kMany, false, false);
      add(dtype, seq_last, 16, kMany, true, false);
      add(dtype, seq_last, 16, kFew, true, false);
    }
  for (Index dstate : {1, 4, 8, 32, 64, 128, 256}) add(DType::kFloat16, false, dstate, kMany, true, false);
  add(DType::kFloat32, true, 64, kMany, true, true);
  return out;
}

}  // namespace mamba_scan::ops
