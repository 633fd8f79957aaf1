// How a scan of few and short sequences is run on a CUDA device: by kernels/selective_scan/team.cu, where that is
// faster than what plan.h has. Depends on the problem's class and the device's size only.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "driver/device.h"
#include "jit/variant.h"
#include "platform/export.h"
#include "selective_scan/team_params.h"

namespace mamba_scan::ops {

// The constants the kernel is specialised with; the head of team.cu explains each. The key of a table, as
// ForwardVariant.
struct TeamVariant {
  DType dtype = DType::kFloat32;
  std::int16_t dstate = 16;
  std::int16_t lanes = 8;
  std::int16_t states = 2;
  std::int16_t warps = 4;
  std::int16_t helpers = 4;
  std::int16_t segments = 1;
  std::int16_t tile = 16;
  std::int16_t unroll = 4;
  std::int16_t depth = 4;
  bool seq_contiguous = false;
  bool softplus = false;
  bool has_bias = false;
  bool has_d = false;
  bool has_z = false;
  bool has_initial = false;
  bool has_final = false;

  auto operator<=>(const TeamVariant&) const = default;

  int channels() const { return warps / segments * (32 / lanes); }  // of a block
  unsigned block_threads() const { return static_cast<unsigned>(32 * (warps + helpers)); }
  MAMBA_SCAN_API std::size_t shared_bytes() const;  // dynamic

  MAMBA_SCAN_API jit::Variant team() const;
};

// The choices that decide how much of a device a problem fills. 0: as many as suit the others.
struct TeamShape {
  int states = 2;    // per lane
  int segments = 1;  // of time: 1, 2, 4, 8 or 16
  int tile = 0;      // steps: 8, 16 or 32
  int depth = 0;     // tiles under way, at least 2
  int helpers = 0;   // warps, 16 at most
};

struct TeamPlan {
  TeamVariant variant;
  SelectiveScanTeamParams params;  // the problem in the order of scanning
  unsigned blocks = 0;
  double clocks = 0;  // that it is expected to take, where every block has a multiprocessor of its own
};

// Nothing where the kernel does not serve the problem in that shape: the problem's kind, its strides and alignment, the
// device's shared memory. The problem must have passed check().
MAMBA_SCAN_API std::optional<TeamPlan> plan_team_as(const SelectiveScanProblem& problem,
                                                    const driver::DeviceReport& device, TeamShape shape);

// The best shape; nothing where plan_forward() is expected to be as fast.
MAMBA_SCAN_API std::optional<TeamPlan> plan_team(const SelectiveScanProblem& problem,
                                                 const driver::DeviceReport& device);

// The variants that ordinary models use on a device of this compute capability; part of shipped_variants().
std::vector<TeamVariant> shipped_team_variants(int capability);

}  // namespace mamba_scan::ops
