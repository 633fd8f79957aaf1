#include "ops/forward_variant.h"

#include <algorithm>
#include <string>

#include "ops/ceil_div.h"
#include "ops/residency.h"
#include "ops/warp_layout.h"

namespace mamba_scan::ops {
namespace {

// dynamic: bytes of shared memory that its launches provide.
jit::Variant make_variant(const ForwardVariant& v, const char* source, const char* entry, std::size_t dynamic = 0) {
  jit::Variant out;
  out.source = source;
  out.entry = entry;
  const auto define = [&](const char* name, int value) { out.defines.emplace_back(name, std::to_string(value)); };
  define("MS_DTYPE", static_cast<int>(v.dtype));
  define("MS_DSTATE", v.dstate);
  define("MS_LANES", v.lanes);
  define("MS_STATES", v.states);
  define("MS_CHANNELS", v.channels);
  define("MS_WARPS", v.warps);
  define("MS_SERVED", v.served);
  if (v.wrapped) define("MS_WRAPPED", 1);
  if (v.together > 1) define("MS_TOGETHER", v.together);
  if (v.tabulated) define("MS_TABULATED", 1);
  define("MS_ABREAST", v.abreast);
  if (v.row_vector > 0) {
    define("MS_ROW_VECTOR", v.row_vector);
    define("MS_BULK", v.bulk);
  }
  define("MS_MIN_BLOCKS", v.min_blocks);
  define("MS_TILE", v.tile);
  define("MS_STAGES", v.stages);
  define("MS_UNROLL", v.unroll);
  define("MS_SEQ_CONTIGUOUS", v.seq_contiguous);
  define("MS_REVERSE", v.reverse);
  define("MS_U_ACCESS", static_cast<int>(v.u_access));
  define("MS_DELTA_ACCESS", static_cast<int>(v.delta_access));
  define("MS_Z_ACCESS", static_cast<int>(v.z_access));
  define("MS_Y_ACCESS", static_cast<int>(v.y_access));
  define("MS_B_ORDER", static_cast<int>(v.b_order));
  define("MS_C_ORDER", static_cast<int>(v.c_order));
  define("MS_B_ACCESS", static_cast<int>(v.b_access));
  define("MS_C_ACCESS", static_cast<int>(v.c_access));
  define("MS_SOFTPLUS", v.softplus);
  define("MS_HAS_BIAS", v.has_bias);
  define("MS_HAS_D", v.has_d);
  define("MS_HAS_Z", v.has_z);
  define("MS_HAS_INITIAL", v.has_initial);
  define("MS_HAS_FINAL", v.has_final);
  define("MS_CUT", v.cut && !v.chunk_invariant);
  define("MS_INVARIANT", v.chunk_invariant);
  define("MS_PACKED", v.packed);
  define("MS_COMPLEX", v.is_complex);
  define("MS_PREPARED", v.prepared);
  define("MS_SLICE", static_cast<int>(v.slice));
  if (dynamic > 0) out.defines.emplace_back("MS_SHARED_BYTES", std::to_string(dynamic));
  return out;
}

// What lanes share of a tile (step_inputs.cuh).
std::size_t inputs_bytes(const ForwardVariant& v) {
  const int inputs = v.shares_inputs() ? v.warp_channels() * (v.tile / 2 + 1) : 1;  // of two steps and a channel each
  return 4 * sizeof(float) * static_cast<std::size_t>(inputs);
}

// In relay_served.cu, besides what the servers have: what is in the slots beyond B, C and inputs (kSharesPitch numbers
// of every step), a lane's states for every scanning warp and its A, the piece at hand, and two events for every slot.
std::size_t relay_served_bytes(const ForwardVariant& v) {
  constexpr std::size_t kEvent = 8, kPiece = 32;
  const auto slots = static_cast<std::size_t>(v.relay_slots());
  const auto shares = slots * static_cast<std::size_t>(v.tile * (v.seq_contiguous ? 32 : 32 + v.lanes));
  const auto held = static_cast<std::size_t>(32 * (v.warps + 1) * v.states);
  return sizeof(float) * (shares + held) + kPiece + 2 * slots * kEvent;
}

// Of carry.cu, where a slot is not left to one warp: as many as leave a thread 128 registers.
constexpr std::int16_t kCarryWarpsOfSm = 16;

}  // namespace

ForwardVariant carry_variant(ForwardVariant v) {
  v.c_order = ProjectionOrder::kStates;  // no registers
  const bool is_direct = v.u_access == Access::kDirectly;
  if (v.kernel() == ScanKernel::kRelayServed) {  // whose slots are few and long
    v.min_blocks = std::min<std::int16_t>(v.min_blocks, 2);
    v.warps = static_cast<std::int16_t>(kCarryWarpsOfSm / v.min_blocks);
  } else {
    // What is moved directly has registers for it: there are no more slots than the scan has warps.
    v.min_blocks = std::min<std::int16_t>(blocks_for_registers(v), is_direct ? v.min_blocks : std::int16_t{16});
  }
  v.served = false;
  v.abreast = v.together = 1;
  v.tabulated = false;
  v.c_order = ProjectionOrder::kConstant;  // nor shared memory
  v.c_access = Access::kVectors;
  v.z_access = v.y_access = Access::kVectors;
  v.has_d = v.has_z = v.has_initial = v.has_final = false;
  v.slice = StateSlice::kAll;
  v.reverse = v.reverse && has_adjacent_steps(v);
  if (!is_direct)
    v.unroll = std::min<std::int16_t>(v.warps > 1 ? 8 : 16, v.tile);  // the scan's: what is read ahead is in registers
  v.stages = v.carry_stages;
  return v;
}

int prepare_steps(const ForwardVariant& v) {
  int steps = 256;
  while (steps > 8 && steps * v.lanes * v.states > 2048) steps /= 2;
  return steps;
}

unsigned ForwardVariant::scan_blocks(const SelectiveScanForwardParams& params) const {
  const int of_block = static_cast<int>(scan_slots());
  if (abreast == 1) return static_cast<unsigned>(ceil_div(params.slots, of_block));
  const int of_group = params.blocks_per_group * std::max(params.slots_per_row, 1);  // slots
  const int blocks = ceil_div(params.blocks_per_group, of_block) * std::max(params.slots_per_row, 1);
  return static_cast<unsigned>(params.slots / of_group * blocks);
}

// ActivationTable in activation_table.cuh.
std::size_t ForwardVariant::table_bytes() const {
  constexpr std::size_t kFunctions = 2, kLines = 1026, kPair = 2 * sizeof(float);
  return tabulated ? kFunctions * kLines * kPair : 0;
}

bool ForwardVariant::serves_by_step() const {
  constexpr int kAdjacent = 8;  // channels
  const auto in_vectors = [&](Access access) {
    return access == Access::kVectors || access == Access::kWindows ||
           (access == Access::kWords && dtype == DType::kFloat32);
  };
  return kernel() == ScanKernel::kRelayServed && !seq_contiguous && in_vectors(u_access) && in_vectors(delta_access) &&
         in_vectors(z_access) && (y_access == Access::kVectors || y_access == Access::kWords) &&
         warp_channels() % kAdjacent == 0 && warp_channels() <= 2 * kAdjacent &&
         tile * warp_channels() % (32 * kAdjacent) == 0;
}

bool ForwardVariant::shares_inputs() const {
  return lanes > 1 && (served || (warps > 1 && !(seq_contiguous && dtype == DType::kFloat32 && lanes <= 4)));
}

bool ForwardVariant::reads_in_place(ProjectionOrder order, Access access) const {
  return dtype == DType::kFloat32 && order == ProjectionOrder::kStates && access == Access::kVectors && lanes == 1 &&
         states == dstate && kernel() == ScanKernel::kForward && !is_complex && !prepared &&
         u_access != Access::kDirectly;
}

std::size_t ForwardVariant::shared_bytes() const {
  const auto aligned = [](int bytes) { return static_cast<std::size_t>((bytes + 15) / 16 * 16); };
  const int element = element_size(dtype), row = tile * (is_complex ? 2 : 1);
  const int padded_steps = (tile * element / 16 | 1) * 16;  // bytes of a row of them
  const auto is_shifted_row = [&](Access access) { return is_unaligned(access) && element == 2; };
  const auto shifted_row = [&](int columns, Access access) {  // kShiftedPitch in warp_tile.cuh
    const int shifts = access == Access::kWindows ? kWindowElements : 2;
    return (columns / shifts + 1) * shifts * element;
  };
  const auto sequence = [&](Access access) {
    const int rows = tile_rows(), columns = tile_columns();
    if (access == Access::kDirectly) return aligned(element);
    if (is_shifted_row(access)) return aligned(rows * shifted_row(columns, access));
    return aligned(rows * (seq_contiguous ? padded_steps : columns * element));
  };
  const auto is_raw = [&](ProjectionOrder order, Access access) {
    return warps > 1 && states == 1 && lanes >= 16 && lanes == dstate && order < ProjectionOrder::kStrided &&
           access == Access::kVectors;
  };
  const auto raw = [&](ProjectionOrder order, Access access) {
    if (order == ProjectionOrder::kConstant) return aligned(element);
    if (order == ProjectionOrder::kSteps && is_raw(order, access)) return aligned(dstate * padded_steps);
    if (!is_shifted_row(access)) return aligned(row * dstate * element);
    return aligned(order == ProjectionOrder::kSteps ? dstate * shifted_row(tile, access)
                                                    : tile * shifted_row(dstate, access));
  };
  const auto expanded = [&](ProjectionOrder order, Access access) {
    const bool is_there = order == ProjectionOrder::kConstant || is_raw(order, access) || reads_in_place(order, access);
    return aligned(is_there ? 4 : row * lanes * states * 4);
  };
  const std::size_t sequences = sequence(u_access) + sequence(delta_access) + (has_z ? sequence(z_access) : 16);
  const std::size_t waiting = y_access == Access::kWindows ? static_cast<std::size_t>(tile_rows()) * kSectorBytes : 0;
  const std::size_t piece = (packed ? 48 : 32) + waiting,
                    of_tile = expanded(b_order, b_access) + expanded(c_order, c_access);
  if (prepared) {
    const bool is_carry = c_order == ProjectionOrder::kConstant;  // which reads the states in another order
    const bool reorders = is_carry && lanes > 1 && states > 1;
    return static_cast<std::size_t>(stages) * (sequences + of_tile) + piece + (reorders ? of_tile : 32);
  }
  const std::size_t of_stage = sequences + raw(b_order, b_access) + raw(c_order, c_access);
  if (kernel() == ScanKernel::kRelayServed)
    return static_cast<std::size_t>(tiles_apart()) * (static_cast<std::size_t>(stages) * of_stage + piece) +
           static_cast<std::size_t>(relay_slots()) * (of_tile + inputs_bytes(*this)) + relay_served_bytes(*this);
  if (served) return static_cast<std::size_t>(stages) * of_stage + piece + 2 * (of_tile + inputs_bytes(*this));
  return static_cast<std::size_t>(stages) * of_stage + piece + of_tile;
}

std::size_t ForwardVariant::dynamic_shared_bytes() const {
  if (served || block_warps() > 1) return table_bytes() + scan_slots() * shared_bytes();
  if (warps == 1) return 0;
  const int owned = channels > lanes ? channels / lanes : 1;
  const int deltas = shares_inputs() || (softplus && lanes > 1) ? owned : channels;
  const int of_lane = 2 * channels * states + (has_bias ? deltas : 0) + (has_d ? owned : 0);
  return static_cast<std::size_t>(warps) *
         (shared_bytes() + 32 * sizeof(float) * static_cast<std::size_t>(of_lane) + inputs_bytes(*this));
}

unsigned ForwardVariant::carry_threads() const { return 32 * static_cast<unsigned>(carry_variant(*this).warps); }

// Besides what each warp has, sums of delta over the tiles of two rounds, the decay rates, and of every lane its
// states.
std::size_t ForwardVariant::carry_shared_bytes() const {
  const ForwardVariant v = carry_variant(*this);
  if (v.warps == 1) return 0;
  const int floats = 2 * v.warp_channels() * (v.warps + 4) + 32 * v.states * (1 + v.warps);
  return static_cast<std::size_t>(v.warps) * v.shared_bytes() + sizeof(float) * static_cast<std::size_t>(floats);
}

// An event, runs of whole vectors, wherever in the first one they begin, then B and C.
std::size_t ForwardVariant::whole_rows_bytes(Index seqlen) const {
  constexpr std::size_t kVector = 16;
  const auto steps = static_cast<std::size_t>(seqlen), element = static_cast<std::size_t>(element_size(dtype));
  const std::size_t run =
      (steps * static_cast<std::size_t>(warp_channels()) * element + 2 * (kVector - element)) / kVector * kVector;
  const std::size_t projection = ceil_div(steps * static_cast<std::size_t>(states) * sizeof(float), kVector) * kVector;
  return kVector + (has_z ? 3 : 2) * run + 2 * projection;
}

std::size_t ForwardVariant::scan_shared_bytes(const SelectiveScanForwardParams& params) const {
  return kernel() == ScanKernel::kWholeRows ? whole_rows_bytes(params.problem.seqlen) : dynamic_shared_bytes();
}

jit::Variant ForwardVariant::scan() const {
  const auto of = [&](const char* source, const char* entry) {
    return make_variant(*this, source, entry, dynamic_shared_bytes());
  };
  switch (kernel()) {
    case ScanKernel::kServed:
      return of("selective_scan/served.cu", "selective_scan_served");
    case ScanKernel::kRelay:
      return of("selective_scan/relay.cu", "selective_scan_relay");
    case ScanKernel::kRelayServed:
      return of("selective_scan/relay_served.cu", "selective_scan_relay_served");
    case ScanKernel::kWholeRows:
      return of("selective_scan/whole_rows.cu", "selective_scan_whole_rows");
    case ScanKernel::kForward:
      break;
  }
  return of("selective_scan/forward.cu", "selective_scan_forward");
}

jit::Variant ForwardVariant::carry() const {
  return make_variant(carry_variant(*this), "selective_scan/carry.cu", "selective_scan_carry", carry_shared_bytes());
}

jit::Variant ForwardVariant::compose() const {
  ForwardVariant v = *this;  // where the carries of which states lie is all that matters
  v.b_order = v.c_order = ProjectionOrder::kConstant;
  v.u_access = v.delta_access = v.z_access = v.y_access = v.b_access = v.c_access = Access::kVectors;
  v.softplus = v.has_bias = v.has_d = v.has_z = v.has_initial = v.has_final = v.reverse = v.packed = false;
  v.prepared = false;
  v.abreast = 1;
  v.slice = StateSlice::kAll;
  return make_variant(v, "selective_scan/compose.cu", "selective_scan_compose");
}

jit::Variant ForwardVariant::prepare() const {
  ForwardVariant v;  // how many states lie in which order is all that matters
  v.dtype = dtype;
  v.dstate = dstate;
  v.lanes = lanes;
  v.states = states;
  v.tile = tile;
  v.channels = 1;
  jit::Variant out = make_variant(v, "selective_scan/prepare.cu", "selective_scan_prepare");
  out.defines.emplace_back("MS_PREPARE_STEPS", std::to_string(prepare_steps(v)));
  return out;
}

}  // namespace mamba_scan::ops
