#include "ops/team_plan.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <string>
#include <utility>

#include "ops/memory_layout.h"

namespace mamba_scan::ops {
namespace {

constexpr std::size_t kSharedOfEveryDevice = 48 << 10;
constexpr Index kMostSteps = Index{1} << 28;  // byte counts of a row of steps are ints in the kernel

// In clocks, measured on an H200 with 16-bit inputs and 16 states. A step takes a block about as long with one state
// per lane as with two: it waits for shared memory and for the helpers, not for the exponential unit.
constexpr double kStepOfOneState = 40;
constexpr double kStepOfTwoStates = 43;
constexpr double kSeqContiguous = 1.6;  // times as much where steps are adjacent: B and C are gathered
constexpr double kOnce = 5800;          // 2.9 us: the first tiles' way through shared memory, cold instructions
constexpr double kOnceOfSegments = 8000;

// What the warp kernel takes for the same: cut in time, or whole. Measured at 1 x 1024 and 1 x 16384 x 2048, 37 and
// 255 us with all of an H200; the part that depends on the length is in proportion to the states per multiprocessor.
constexpr double kWarpsOnce = 44000;  // two launches, and carries of a length of their own
constexpr double kWarpsStep = 28;     // at kWarpsStates
constexpr double kWarpsStates = 2048.0 * 16 / 132;
constexpr double kWarpsUncutOnce = 5000;
constexpr double kWarpsUncutStep = 100;  // latency: few warps per scheduler

constexpr int kUsualTile = 16;
constexpr int kMostDepth = 8;
constexpr int kMostWarps = 16;  // that compute, and that help: a block has 32

// Below this, starting the pipeline of tiles takes longer than the steps.
constexpr Index kFewestSteps = 64;

template <class Value>
Value ceil_div(Value value, Value divisor) {
  return (value + divisor - 1) / divisor;
}

bool is_power_of_two(Index value) { return value > 0 && (value & (value - 1)) == 0; }

bool is_served(const SelectiveScanProblem& p, const driver::DeviceReport& device) {
  if (device.major < 8) return false;  // asynchronous copies
  if (p.is_complex || p.chunk_invariant || p.cu_seqlens != nullptr) return false;
  if (p.B.constant || p.C.constant) return false;
  return is_power_of_two(p.dstate) && p.dstate >= 4 && p.dstate <= 64 && p.seqlen > 0 && p.seqlen <= kMostSteps;
}

// Can every tile be copied in the kernel's chunks?
bool is_copyable(const SelectiveScanProblem& p, const TeamVariant& v) {
  const int columns = v.seq_contiguous ? v.tile : v.channels();
  for (const SequenceTensor* tensor : {&p.u, &p.delta, &p.z})
    if (tensor->data != nullptr && access_of(*tensor, p, v.seq_contiguous, columns) != Access::kVectors) return false;
  const ProjectionOrder needed = v.seq_contiguous ? ProjectionOrder::kSteps : ProjectionOrder::kStates;
  const auto is_needed = [&](const ProjectionTensor& x) {
    const ProjectionLayout layout = layout_of(x, p, v.tile);
    return layout.order == needed && layout.access == Access::kVectors;
  };
  return is_needed(p.B) && is_needed(p.C);
}

// Shorter tiles, and fewer of them under way, where a block's shared memory would not suffice for the usual ones.
bool fit_shared_memory(TeamVariant& v, TeamShape shape, const driver::DeviceReport& device) {
  const std::size_t most = std::max(kSharedOfEveryDevice, device.shared_per_block_optin);
  for (const int tile : {32, 16, 8}) {
    if (shape.tile > 0 ? tile != shape.tile : tile > kUsualTile) continue;
    for (int depth = kMostDepth; depth >= 2; --depth) {
      if (shape.depth > 0 ? depth != shape.depth : depth > (v.segments == 1 ? 4 : 3)) continue;
      v.tile = static_cast<std::int16_t>(tile);
      v.depth = static_cast<std::int16_t>(depth);
      if (v.shared_bytes() <= most) return true;
    }
  }
  return false;
}

bool is_possible(const TeamShape& shape) {
  return is_power_of_two(shape.states) && is_power_of_two(shape.segments) && shape.segments <= kMostWarps &&
         shape.helpers >= 0 && shape.helpers <= kMostWarps;
}

void set_warps(TeamVariant& v, TeamShape shape) {
  const int fewest = 4;  // one for every scheduler
  v.segments = static_cast<std::int16_t>(shape.segments);
  v.warps = static_cast<std::int16_t>(std::max(fewest, shape.segments));
  v.helpers = static_cast<std::int16_t>(shape.helpers > 0 ? shape.helpers : v.warps);
}

double team_clocks(const TeamVariant& v, Index seqlen) {
  const Index steps = ceil_div<Index>(seqlen, v.segments) * (v.segments == 1 ? 1 : 2);
  const double of_step = (v.states == 1 ? kStepOfOneState : kStepOfTwoStates) * (v.seq_contiguous ? kSeqContiguous : 1);
  return (v.segments == 1 ? kOnce : kOnceOfSegments) + static_cast<double>(steps) * of_step;
}

double warp_clocks(const SelectiveScanProblem& p, const driver::DeviceReport& device) {
  const double states = static_cast<double>(p.batch * p.dim * p.dstate) / std::max(device.sm_count, 1);
  const double steps = static_cast<double>(p.seqlen);
  return std::min(kWarpsOnce + steps * kWarpsStep * states / kWarpsStates, kWarpsUncutOnce + steps * kWarpsUncutStep);
}

}  // namespace

std::size_t TeamVariant::shared_bytes() const {
  const auto aligned = [](std::size_t bytes) { return (bytes + 15) / 16 * 16; };
  const auto size = [](int value) { return static_cast<std::size_t>(value); };
  const std::size_t element = size(element_size(dtype));
  const auto raw = [&](int across) {  // a tensor's share of a tile, of every segment
    const std::size_t columns = seq_contiguous ? size(tile) + 16 / element : size(across);
    const std::size_t rows = seq_contiguous ? size(across) : size(tile);
    return size(segments) * rows * columns * element;
  };
  const std::size_t raw_tile = aligned((has_z ? 3 : 2) * raw(channels())) + aligned(2 * raw(dstate));
  const std::size_t steps = size(segments) * size(tile);
  const std::size_t inputs = 3 * steps * size(channels()) * 2 * sizeof(float);
  const std::size_t projections = seq_contiguous ? 3 * steps * size(dstate) * 2 * element : 0;
  const std::size_t sums = 2 * steps * size(warps / segments) * 32 * sizeof(float);
  return size(depth + 4) * raw_tile + aligned(inputs) + aligned(projections) + aligned(sums);
}

jit::Variant TeamVariant::team() const {
  jit::Variant out;
  out.source = "selective_scan/team.cu";
  out.entry = "selective_scan_team";
  const auto define = [&](const char* name, int value) { out.defines.emplace_back(name, std::to_string(value)); };
  define("MS_DTYPE", static_cast<int>(dtype));
  define("MS_DSTATE", dstate);
  define("MS_LANES", lanes);
  define("MS_STATES", states);
  define("MS_WARPS", warps);
  define("MS_HELPERS", helpers);
  define("MS_SEGMENTS", segments);
  define("MS_TILE", tile);
  define("MS_UNROLL", unroll);
  define("MS_DEPTH", depth);
  define("MS_SEQ_CONTIGUOUS", seq_contiguous);
  define("MS_SOFTPLUS", softplus);
  define("MS_HAS_BIAS", has_bias);
  define("MS_HAS_D", has_d);
  define("MS_HAS_Z", has_z);
  define("MS_HAS_INITIAL", has_initial);
  define("MS_HAS_FINAL", has_final);
  define("MS_SHARED_BYTES", static_cast<int>(shared_bytes()));
  return out;
}

std::optional<TeamPlan> plan_team_as(const SelectiveScanProblem& as_stored, const driver::DeviceReport& device,
                                     TeamShape shape) {
  if (!is_served(as_stored, device) || !is_possible(shape)) return std::nullopt;
  const SelectiveScanProblem problem = in_scan_order(as_stored);
  TeamPlan plan;
  TeamVariant& v = plan.variant;
  v.dtype = problem.dtype;
  v.dstate = static_cast<std::int16_t>(problem.dstate);
  v.states = static_cast<std::int16_t>(shape.states);
  v.lanes = static_cast<std::int16_t>(problem.dstate / shape.states);
  set_warps(v, shape);
  v.seq_contiguous = is_seq_contiguous(problem);
  v.softplus = problem.delta_softplus;
  v.has_bias = problem.delta_bias != nullptr;
  v.has_d = problem.D != nullptr;
  v.has_z = problem.z.data != nullptr;
  v.has_initial = problem.initial_state.data != nullptr;
  v.has_final = problem.final_state.data != nullptr;
  // Tiles of a reversed scan along adjacent steps would have to be copied backwards.
  if (v.seq_contiguous && problem.reverse) return std::nullopt;
  // Channels are converted in pairs.
  if (v.lanes < 1 || v.lanes > 32 || v.channels() % 2 != 0) return std::nullopt;
  if (!fit_shared_memory(v, shape, device) || !is_copyable(problem, v)) return std::nullopt;

  const Index channels_per_group = problem.dim / problem.ngroups;
  const Index blocks_per_group = ceil_div<Index>(channels_per_group, v.channels());
  const Index blocks = problem.batch * problem.ngroups * blocks_per_group;
  if (blocks > std::numeric_limits<int>::max()) return std::nullopt;
  plan.blocks = static_cast<unsigned>(blocks);
  plan.clocks = team_clocks(v, problem.seqlen);
  SelectiveScanTeamParams& params = plan.params;
  params.problem = problem;
  params.channels_per_group = static_cast<int>(channels_per_group);
  params.blocks_per_group = static_cast<int>(blocks_per_group);
  params.tiles = static_cast<int>(ceil_div<Index>(ceil_div<Index>(problem.seqlen, v.tile), v.segments));
  const Index tile_bytes = Index{v.tile} * element_size(v.dtype);
  params.u_step = problem.u.seq_stride * tile_bytes;
  params.delta_step = problem.delta.seq_stride * tile_bytes;
  params.z_step = problem.z.seq_stride * tile_bytes;
  params.y_step = problem.y.seq_stride * tile_bytes;
  params.B_step = problem.B.seq_stride * tile_bytes;
  params.C_step = problem.C.seq_stride * tile_bytes;
  return plan;
}

std::optional<TeamPlan> plan_team(const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  if (problem.seqlen < kFewestSteps) return std::nullopt;
  std::optional<TeamPlan> best;
  double fewest = warp_clocks(problem, device);
  for (const TeamShape shape : {TeamShape{2, 1}, TeamShape{1, 1}, TeamShape{2, 4}, TeamShape{1, 4}}) {
    std::optional<TeamPlan> plan = plan_team_as(problem, device, shape);
    // One block per multiprocessor, which is what was measured.
    if (!plan || plan->blocks > static_cast<unsigned>(std::max(device.sm_count, 1)) || plan->clocks >= fewest) continue;
    fewest = plan->clocks;
    best = std::move(plan);
  }
  return best;
}

std::vector<TeamVariant> shipped_team_variants(int capability) {
  std::vector<TeamVariant> out;
  if (capability < 80) return out;
  const auto add = [&](DType dtype, bool seq_contiguous, int dstate, TeamShape shape, bool full) {
    driver::DeviceReport device;
    device.major = capability / 10;
    device.shared_per_block_optin = 99 << 10;
    TeamVariant v;
    v.dtype = dtype;
    v.seq_contiguous = seq_contiguous;
    v.dstate = static_cast<std::int16_t>(dstate);
    v.states = static_cast<std::int16_t>(shape.states);
    v.lanes = static_cast<std::int16_t>(dstate / shape.states);
    set_warps(v, shape);
    v.softplus = v.has_bias = v.has_d = v.has_z = v.has_initial = v.has_final = full;
    if (fit_shared_memory(v, shape, device)) out.push_back(v);
  };
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16})
    for (bool seq_contiguous : {false, true})
      for (const TeamShape shape : {TeamShape{2, 1}, TeamShape{1, 4}}) add(dtype, seq_contiguous, 16, shape, true);
  for (const int dstate : {4, 8, 32, 64}) add(DType::kFloat16, false, dstate, {2, 1}, true);
  add(DType::kFloat16, false, 16, {1, 1}, true);
  add(DType::kFloat16, false, 32, {2, 4}, false);
  return out;
}

}  // namespace mamba_scan::ops
