// How one forward scan is run on a CUDA device: which specialisation of kernels/selective_scan/{forward,carry}.cu, and
// how its rows are dealt out to warps. Depends on the problem's class and the device's size only, so it can be tested
// without a GPU.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "driver/device.h"
#include "jit/variant.h"
#include "platform/export.h"
#include "selective_scan/forward_params.h"

namespace mamba_scan::ops {

// How B or C lies in memory: MS_B_ORDER and MS_C_ORDER.
enum class ProjectionOrder : std::int8_t { kStates = 0, kSteps = 1, kStrided = 2, kConstant = 3 };

// The constants the kernels are specialised with; the head of warp_tile.cuh explains each. Small and comparable: it is
// the key of the table that a call looks its kernel up in.
struct ForwardVariant {
  DType dtype = DType::kFloat32;
  std::int16_t dstate = 16;
  std::int16_t lanes = 2;
  std::int16_t states = 8;
  std::int16_t channels = 4;
  std::int16_t min_blocks = 12;
  std::int16_t tile = 16;
  std::int16_t unroll = 2;
  bool seq_contiguous = false;
  bool u_vectored = true;
  bool delta_vectored = true;
  bool z_vectored = true;
  bool y_vectored = true;
  ProjectionOrder b_order = ProjectionOrder::kStates;
  ProjectionOrder c_order = ProjectionOrder::kStates;
  bool softplus = false;
  bool has_bias = false;
  bool has_d = false;
  bool has_z = false;
  bool has_initial = false;
  bool has_final = false;
  bool cut = false;

  auto operator<=>(const ForwardVariant&) const = default;

  int warp_channels() const { return 32 / lanes * channels; }
  std::size_t shared_bytes() const;  // static, of forward.cu

  jit::Variant forward() const;
  jit::Variant carry() const;  // only when cut
};

constexpr unsigned kForwardBlockThreads = 32;

struct ForwardPlan {
  ForwardVariant variant;
  // params.slots blocks of kForwardBlockThreads. carry_state and carry_delta are null: the launch sets them.
  SelectiveScanForwardParams params;
  std::size_t carry_state_bytes = 0;  // of scratch memory, aligned to 16
  std::size_t carry_delta_bytes = 0;
};

constexpr Index kMaxCudaDState = 256;

// The problem must have passed check(). Throws ArgumentError for what CUDA kernels do not serve (dstate > 256).
MAMBA_SCAN_API ForwardPlan plan_forward(const SelectiveScanProblem& problem, const driver::DeviceReport& device);

// Bytes that must move and exponentials that must be evaluated whatever the kernel: the roof's two terms.
struct Work {
  std::int64_t bytes = 0;
  std::int64_t exps = 0;
};
MAMBA_SCAN_API Work forward_work(const SelectiveScanProblem& problem);

// The variants of the forward kernel that ordinary models use on a device of this compute capability (90 for sm_90):
// compiled ahead by `mamba-scan warm`, and for every architecture by the tests.
MAMBA_SCAN_API std::vector<jit::Variant> shipped_variants(int capability);

}  // namespace mamba_scan::ops
