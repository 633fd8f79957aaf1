// A specialisation of kernels/selective_scan/{forward,served,relay,relay_served,whole_rows,carry,compose,prepare}.cu.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>

#include "jit/variant.h"
#include "ops/memory_layout.h"
#include "selective_scan/forward_params.h"

namespace mamba_scan::ops {

// Which of the states a launch scans: MS_SLICE.
enum class StateSlice : std::int8_t { kAll = 0, kPartial = 1, kLast = 2 };

// Which kernel scans.
enum class ScanKernel : std::int8_t { kForward, kServed, kRelay, kRelayServed, kWholeRows };
constexpr ScanKernel scan_kernel(int warps, bool served, bool whole_rows) {
  if (whole_rows) return ScanKernel::kWholeRows;
  if (warps > 1) return served ? ScanKernel::kRelayServed : ScanKernel::kRelay;
  return served ? ScanKernel::kServed : ScanKernel::kForward;
}

// The constants the kernels are specialised with; the head of warp_tile.cuh explains each. Small and comparable: it is
// the key of the table that a call looks its kernel up in.
struct ForwardVariant {
  DType dtype = DType::kFloat32;
  std::int16_t dstate = 16;
  std::int16_t lanes = 2;
  std::int16_t states = 8;
  std::int16_t channels = 4;
  std::int16_t warps = 1;       // that scan in a block: of relay.cu and relay_served.cu more than one
  bool served = false;          // served.cu, relay_served.cu: others move tiles for the warps that scan
  bool wrapped = false;         // a slot is a range of rows, and goes round (forward_params.h)
  std::int16_t abreast = 1;     // adjacent rows of a block of forward.cu, which go through their tiles in step
  std::int16_t together = 1;    // warps of a block of forward.cu that have nothing to do with each other
  bool tabulated = false;       // whose softplus and gates come from a table that it has in shared memory
  std::int16_t row_vector = 0;  // of whole_rows.cu: elements that rows begin with a multiple of; 0: another kernel
  bool bulk = false;            // whole_rows.cu copies in bulk
  std::int16_t min_blocks = 12;
  std::int16_t tile = 16;
  std::int16_t stages = 2;
  std::int16_t carry_stages = 2;  // of carry.cu
  std::int16_t unroll = 2;
  bool seq_contiguous = false;
  bool reverse = false;
  Access u_access = Access::kVectors;
  Access delta_access = Access::kVectors;
  Access z_access = Access::kVectors;
  Access y_access = Access::kVectors;
  ProjectionOrder b_order = ProjectionOrder::kStates;
  ProjectionOrder c_order = ProjectionOrder::kStates;
  Access b_access = Access::kVectors;
  Access c_access = Access::kVectors;
  bool softplus = false;
  bool has_bias = false;
  bool has_d = false;
  bool has_z = false;
  bool has_initial = false;
  bool has_final = false;
  bool cut = false;  // or, with chunk_invariant, whether a state is handed from one segment to the next
  bool chunk_invariant = false;
  bool packed = false;
  bool is_complex = false;
  bool prepared = false;  // b_order to c_access then stand for nothing, and do not differ
  StateSlice slice = StateSlice::kAll;

  auto operator<=>(const ForwardVariant&) const = default;

  ScanKernel kernel() const { return scan_kernel(warps, served, row_vector > 0); }
  int tiles_apart() const {  // kTilesApart in warp_tile.cuh
    return !served ? warps : warps == 1 ? 1 : warp_channels() >= 16 ? 4 : 2;
  }
  bool is_relay() const { return warps > 1; }            // relay.cu, relay_served.cu
  int relay_slots() const { return 2 * tiles_apart(); }  // kSlots in relay_served.cu
  int warp_channels() const { return 32 / lanes * channels; }
  // Of a tile of u, delta, z or y as it lies in memory, a row being adjacent elements.
  int tile_rows() const { return seq_contiguous ? warp_channels() : tile; }
  int tile_columns() const { return seq_contiguous ? tile : warp_channels(); }
  bool serves_by_step() const;                                      // kByStep in relay_served.cu
  bool shares_inputs() const;                                       // kSharesInputs in tile_values.cuh
  bool reads_in_place(ProjectionOrder order, Access access) const;  // B or C: kReadsInPlace in warp_tile.cuh
  // Of a block of scan(); kPairs in served.cu.
  int block_warps() const { return std::max(abreast, together); }  // of forward.cu: kBlockWarps in warp_tile.cuh
  unsigned scan_slots() const { return is_relay() ? 1 : served ? 4 : static_cast<unsigned>(block_warps()); }
  unsigned scan_threads() const {
    const int serving = served ? tiles_apart() : 0;  // in turns
    return 32 * scan_slots() * static_cast<unsigned>(warps + serving);
  }
  unsigned scan_blocks(const SelectiveScanForwardParams& params) const;
  std::size_t table_bytes() const;           // of a block
  std::size_t shared_bytes() const;          // of a warp, or a pair, or in relay_served.cu a block
  std::size_t dynamic_shared_bytes() const;  // of a block of several warps; 0: all is static
  // The same of what whole_rows.cu has, which depends on the number of steps.
  std::size_t whole_rows_bytes(Index seqlen) const;
  std::size_t scan_shared_bytes(const SelectiveScanForwardParams& params) const;  // dynamic, of whichever kernel

  unsigned carry_threads() const;          // of a block of carry()
  std::size_t carry_shared_bytes() const;  // dynamic

  jit::Variant scan() const;     // the kernel()
  jit::Variant carry() const;    // only when cut
  jit::Variant compose() const;  // only when cut and chunk_invariant
  jit::Variant prepare() const;  // only when prepared
};

constexpr unsigned kForwardBlockThreads = 32;

// The constants of carry.cu. What the carries do not depend on must not make another kernel.
ForwardVariant carry_variant(ForwardVariant v);

// Steps that a block of prepare.cu takes: 2048 elements of one tensor, 8 KB of fp32.
int prepare_steps(const ForwardVariant& v);

}  // namespace mamba_scan::ops
