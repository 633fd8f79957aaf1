// How one forward scan is run on a CUDA device: which specialisation of kernels/selective_scan/forward.cu, and its
// launch geometry. Depends on the problem's class and the device's size only, so it can be tested without a GPU.
#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "driver/device.h"
#include "jit/variant.h"
#include "platform/export.h"
#include "selective_scan/forward_params.h"

namespace mamba_scan::ops {

// The constants forward.cu is specialised with; its head comment explains each. Small and comparable: it is the key
// of the table that a call looks its kernel up in.
struct ForwardVariant {
  DType dtype = DType::kFloat32;
  std::int16_t dstate = 16;
  std::int16_t lanes = 2;
  std::int16_t states = 8;
  std::int16_t channels = 2;
  std::int16_t threads = 64;
  std::int16_t tile = 16;
  std::int16_t vector = 2;
  bool seq_contiguous = false;
  bool u_vectored = true;
  bool delta_vectored = true;
  bool z_vectored = true;
  bool y_vectored = true;
  bool b_constant = false;
  bool c_constant = false;
  bool softplus = false;
  bool has_bias = false;
  bool has_d = false;
  bool has_z = false;
  bool has_initial = false;
  bool has_final = false;

  auto operator<=>(const ForwardVariant&) const = default;

  int channel_block() const { return threads / lanes * channels; }
  jit::Variant variant() const;
};

struct ForwardPlan {
  ForwardVariant variant;
  SelectiveScanForwardParams params;
  unsigned grid = 0;  // blocks of variant.threads; 0: nothing to launch
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

// One variant of every family of the forward kernel that ordinary models use on a device of this compute capability
// (90 for sm_90): compiled ahead by `mamba-scan warm`, and for every architecture by the tests.
MAMBA_SCAN_API std::vector<jit::Variant> shipped_variants(int capability);

}  // namespace mamba_scan::ops
