#include "ops/plan.h"

#include <algorithm>
#include <limits>

#include "platform/error.h"

namespace mamba_scan::ops {
namespace {

int element_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Adjacent along the sequence rather than along the channels? An axis of length 1 is adjacent to anything.
bool is_seq_contiguous(const SelectiveScanProblem& problem) {
  if (problem.seqlen == 1) return false;
  return problem.y.seq_stride == 1 && (problem.y.dim_stride != 1 || problem.dim == 1);
}

// Can `vector` elements along the contiguous axis always be accessed at once?
bool is_vectored(const SequenceTensor& tensor, const SelectiveScanProblem& problem, const ForwardVariant& variant) {
  const Index vector = variant.vector;
  const bool seq = variant.seq_contiguous;
  const Index along = seq ? tensor.seq_stride : tensor.dim_stride;
  const Index across = seq ? tensor.dim_stride : tensor.seq_stride;
  const Index along_extent = seq ? problem.seqlen : problem.dim;
  const Index across_extent = seq ? problem.dim : problem.seqlen;
  if (along != 1 && along_extent > 1) return false;
  if (across % vector != 0 && across_extent > 1) return false;
  if (tensor.batch_stride % vector != 0 && problem.batch > 1) return false;
  // Blocks start at the group's first channel.
  if (!seq && problem.ngroups > 1 && (problem.dim / problem.ngroups) % vector != 0) return false;
  return reinterpret_cast<std::uintptr_t>(tensor.data) % (vector * element_size(problem.dtype)) == 0;
}

int next_power_of_two(int value) {
  int power = 1;
  while (power < value) power *= 2;
  return power;
}

// Lanes per channel, states per lane, channels per lane, block and tile. Eight states and two channels per lane run
// nearest to the exponential unit's rate once the device is full; with fewer channels than that the scan is bound by
// the latency of a step, and more lanes with fewer states each shorten it.
void choose_shape(const SelectiveScanProblem& problem, const driver::DeviceReport& device, ForwardVariant& variant) {
  const int dstate = static_cast<int>(problem.dstate);
  int lanes = std::min(32, next_power_of_two((dstate + 7) / 8));
  int channels = 2;
  const double rows = static_cast<double>(problem.batch) * static_cast<double>(problem.dim);
  const double full = 8.0 * 32 * std::max(device.sm_count, 1);  // lanes that fill the device: 8 warps per SM
  if (rows * lanes / channels < full) channels = 1;
  while (rows * lanes < full && lanes < 16 && lanes < dstate) lanes *= 2;

  variant.lanes = static_cast<std::int16_t>(lanes);
  variant.states = static_cast<std::int16_t>((dstate + lanes - 1) / lanes);
  variant.channels = static_cast<std::int16_t>(channels);
  variant.threads = lanes >= 8 ? 128 : 64;
  // A tile's B and C take 8 * tile * dstate bytes of shared memory.
  variant.tile = dstate > 128 ? 8 : 16;
}

jit::Variant make_variant(const ForwardVariant& v) {
  jit::Variant out;
  out.source = "selective_scan/forward.cu";
  out.entry = "selective_scan_forward";
  const auto define = [&](const char* name, int value) { out.defines.emplace_back(name, std::to_string(value)); };
  define("MS_DTYPE", static_cast<int>(v.dtype));
  define("MS_DSTATE", v.dstate);
  define("MS_LANES", v.lanes);
  define("MS_STATES", v.states);
  define("MS_CHANNELS", v.channels);
  define("MS_THREADS", v.threads);
  define("MS_TILE", v.tile);
  define("MS_VECTOR", v.vector);
  define("MS_SEQ_CONTIGUOUS", v.seq_contiguous);
  define("MS_U_VECTORED", v.u_vectored);
  define("MS_DELTA_VECTORED", v.delta_vectored);
  define("MS_Z_VECTORED", v.z_vectored);
  define("MS_Y_VECTORED", v.y_vectored);
  define("MS_B_CONSTANT", v.b_constant);
  define("MS_C_CONSTANT", v.c_constant);
  define("MS_SOFTPLUS", v.softplus);
  define("MS_HAS_BIAS", v.has_bias);
  define("MS_HAS_D", v.has_d);
  define("MS_HAS_Z", v.has_z);
  define("MS_HAS_INITIAL", v.has_initial);
  define("MS_HAS_FINAL", v.has_final);
  return out;
}

}  // namespace

jit::Variant ForwardVariant::variant() const { return make_variant(*this); }

ForwardPlan plan_forward(const SelectiveScanProblem& problem, const driver::DeviceReport& device) {
  if (problem.dstate > kMaxCudaDState)
    throw ArgumentError("dstate: got " + std::to_string(problem.dstate) + ", the CUDA kernels need at most " +
                        std::to_string(kMaxCudaDState) + "; use CPU tensors for larger states");

  ForwardPlan plan;
  ForwardVariant& v = plan.variant;
  v.dtype = problem.dtype;
  v.dstate = static_cast<std::int16_t>(problem.dstate);
  choose_shape(problem, device, v);
  v.seq_contiguous = is_seq_contiguous(problem);
  // Along the sequence a thread takes 16 bytes of one channel, adjacent threads adjacent channels. Along the channels
  // two elements, so that its two (delta, delta*u) pairs are one 16-byte store to shared memory without bank conflicts.
  v.vector = static_cast<std::int16_t>(v.seq_contiguous ? std::min(16 / element_size(problem.dtype), int{v.tile}) : 2);
  v.u_vectored = is_vectored(problem.u, problem, v);
  v.delta_vectored = is_vectored(problem.delta, problem, v);
  v.z_vectored = problem.z.data == nullptr || is_vectored(problem.z, problem, v);
  v.y_vectored = is_vectored(problem.y, problem, v);
  v.b_constant = problem.B.constant;
  v.c_constant = problem.C.constant;
  v.softplus = problem.delta_softplus;
  v.has_bias = problem.delta_bias != nullptr;
  v.has_d = problem.D != nullptr;
  v.has_z = problem.z.data != nullptr;
  v.has_initial = problem.initial_state.data != nullptr;
  v.has_final = problem.final_state.data != nullptr;

  const Index channels_per_group = problem.dim / std::max<Index>(problem.ngroups, 1);
  const Index blocks_per_group = (channels_per_group + v.channel_block() - 1) / v.channel_block();
  const Index blocks = problem.batch * problem.ngroups * blocks_per_group;
  if (blocks > std::numeric_limits<int>::max())
    throw ArgumentError("batch * dim: got " + std::to_string(problem.batch) + " * " + std::to_string(problem.dim) +
                        ", which needs more than 2^31 - 1 blocks; split the batch");
  plan.params = {problem, static_cast<int>(channels_per_group), static_cast<int>(blocks_per_group)};
  plan.grid = static_cast<unsigned>(blocks);
  return plan;
}

Work forward_work(const SelectiveScanProblem& problem) {
  const Index rows = problem.batch * problem.seqlen;
  const int element = element_size(problem.dtype);
  Work work;
  work.exps = rows * problem.dim * problem.dstate;
  work.bytes = rows * problem.dim * element * (problem.z.data ? 4 : 3);
  for (const ProjectionTensor* tensor : {&problem.B, &problem.C})
    work.bytes += tensor->constant ? problem.dim * problem.dstate * 4 : rows * problem.ngroups * problem.dstate * element;
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
  // Only whether a pointer is null matters to the plan, and its alignment.
  alignas(16) static float somewhere[4];
  std::vector<jit::Variant> out;
  const auto add = [&](DType dtype, bool seq_last, Index dstate, Index rows, bool full, bool constant_b) {
    SelectiveScanProblem p{};
    p.batch = rows / 2048;
    p.seqlen = 4096;
    p.dim = 2048;
    p.dstate = dstate;
    p.ngroups = 1;
    p.dtype = dtype;
    SequenceTensor tensor{somewhere, p.seqlen * p.dim, seq_last ? 1 : p.dim, seq_last ? p.seqlen : 1};
    p.u = p.delta = p.y = tensor;
    p.B = {somewhere, p.seqlen * dstate, dstate, dstate, 1, constant_b};
    p.C = {somewhere, p.seqlen * dstate, dstate, dstate, 1, false};
    p.A = somewhere;
    if (full) {
      p.z = tensor;
      p.delta_softplus = true;
      p.D = p.delta_bias = somewhere;
      p.initial_state = p.final_state = {somewhere, p.dim * dstate, dstate, 1};
    }
    out.push_back(plan_forward(p, device).variant.variant());
  };
  constexpr Index kFew = 2048, kMany = 2048 * 64;
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16})
    for (bool seq_last : {false, true})
      for (Index rows : {kFew, kMany})
        for (bool full : {false, true}) add(dtype, seq_last, 16, rows, full, false);
  for (Index dstate : {1, 4, 8, 32, 64, 128, 256}) add(DType::kFloat16, false, dstate, kMany, true, false);
  add(DType::kFloat32, true, 64, kMany, true, true);
  return out;
}

}  // namespace mamba_scan::ops
