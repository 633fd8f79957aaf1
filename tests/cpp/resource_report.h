// The table of what kernels take of a GPU and what that leaves, in Markdown.
#pragma once

#include <cstdio>
#include <ostream>
#include <string>
#include <vector>

#include "gpu_limits.h"
#include "jit/binary.h"
#include "jit/variant.h"
#include "ops/plan.h"

namespace mamba_scan::test {

// One kernel on one architecture.
struct KernelRow {
  jit::Variant variant;
  jit::BinaryInfo info;
  int capability = 0;
};

// All that a plan's scan launches.
inline Index warps_of(const ops::ForwardPlan& plan) {
  return Index{plan.variant.scan_blocks(plan.params)} * (plan.variant.scan_threads() / 32);
}

// One scan on one GPU: its plan, the kernel that the plan asks for, and how far from the roof it should end.
struct PlanRow {
  const GpuModel* gpu = nullptr;
  SelectiveScanProblem problem{};
  ops::ForwardPlan plan;
  jit::BinaryInfo info;

  Occupancy occupancy() const {
    const ops::ForwardVariant& v = plan.variant;
    const auto shared = info.shared_bytes + static_cast<std::int64_t>(v.scan_shared_bytes(plan.params));
    return occupancy_of(info.registers, shared, static_cast<int>(v.scan_threads()), *sm_limits_of(gpu->capability));
  }
  // Of the launch that has most, on all schedulers of the GPU.
  double warps_per_scheduler() const {
    const auto warps = static_cast<double>(warps_of(plan));
    const double resident = static_cast<double>(occupancy().warps()) * gpu->sm_count;
    return std::min(warps, resident) / (4.0 * gpu->sm_count);
  }
  double exp_us() const { return static_cast<double>(ops::forward_work(problem).exps) / gpu->exps_per_s() * 1e6; }
  double memory_us() const {
    return static_cast<double>(ops::forward_work(problem).bytes) / (gpu->gb_per_s * 1e9) * 1e6;
  }
  double roof_us() const { return std::max(exp_us(), memory_us()); }
  // The plan's model counts clocks of the exponential unit and of instructions; memory may take longer.
  double expected_us() const { return std::max(plan.clocks / (gpu->ghz * 1e3), memory_us()); }
};

inline std::string define_of(const jit::Variant& variant, const std::string& name) {
  for (const auto& [key, value] : variant.defines)
    if (key == name) return value;
  return "";
}

// Threads of a block, and its shared memory, dynamic where a block is several warps.
inline int block_threads_of(const jit::Variant& variant) {
  if (variant.entry == "selective_scan_prepare") return kPrepareThreads;
  const auto number = [&](const char* name) { return static_cast<std::int16_t>(std::stoi(define_of(variant, name))); };
  const std::int16_t together = define_of(variant, "MS_TOGETHER").empty() ? std::int16_t{1} : number("MS_TOGETHER");
  const ops::ForwardVariant v{.lanes = number("MS_LANES"),
                              .channels = number("MS_CHANNELS"),
                              .warps = number("MS_WARPS"),
                              .served = number("MS_SERVED") != 0,
                              .abreast = number("MS_ABREAST"),
                              .together = together};
  return static_cast<int>(v.scan_threads());
}

inline std::int64_t shared_bytes_of(const jit::Variant& variant, const jit::BinaryInfo& info) {
  const std::string dynamic = define_of(variant, "MS_SHARED_BYTES");
  return info.shared_bytes + (dynamic.empty() ? 0 : std::stoi(dynamic));
}

// The switches that are on, without MS_ and the _ACCESS of vectors, which aligned tensors have anyway.
inline std::string switches_of(const jit::Variant& variant) {
  std::string out;
  for (const auto& [key, value] : variant.defines) {
    const bool sized = key == "MS_DTYPE" || key == "MS_DSTATE" || key == "MS_LANES" || key == "MS_STATES" ||
                       key == "MS_CHANNELS" || key == "MS_TILE" || key == "MS_UNROLL" || key == "MS_MIN_BLOCKS" ||
                       key == "MS_SHARED_BYTES" || ((key == "MS_WARPS" || key == "MS_ABREAST") && value == "1");
    const bool vectors = key.ends_with("_ACCESS") && value == std::to_string(static_cast<int>(ops::Access::kVectors));
    if (sized || value == "0" || vectors) continue;
    out += (out.empty() ? "" : " ") + key.substr(3) + (value == "1" ? "" : "=" + value);
  }
  return out;
}

inline std::string dtype_of(const jit::Variant& variant) {
  const std::string code = define_of(variant, "MS_DTYPE");
  return code == "0" ? "fp32" : code == "1" ? "fp16" : "bf16";
}

inline std::string cell(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

inline void write_kernels(std::ostream& out, const std::vector<KernelRow>& rows) {
  out << "# What the kernels take\n\n"
         "From the compiler's own figures and the limits of each architecture. Blocks are of "
      << ops::kForwardBlockThreads
      << " threads, those of rows that go ABREAST or TOGETHER and of selective_scan_served, selective_scan_relay, "
         "selective_scan_relay_served and selective_scan_prepare of more; \"bound by\" says what keeps a further one "
         "off the SM. The shared memory of selective_scan_whole_rows depends on the number of steps and is left "
         "out.\n\n"
         "| arch | kernel | dtype | N | lanes x states x channels | tile | registers | spilled bytes | shared bytes | "
         "blocks/SM | warps/SM | bound by | switches |\n"
         "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const KernelRow& row : rows) {
    const jit::Variant& v = row.variant;
    const Occupancy occupancy = occupancy_of(row.info.registers, shared_bytes_of(v, row.info), block_threads_of(v),
                                             *sm_limits_of(row.capability));
    const char* cells[] = {"MS_LANES", "MS_STATES", "MS_CHANNELS"};
    out << "| sm_" << row.capability << " | " << v.entry << " | " << dtype_of(v) << " | " << define_of(v, "MS_DSTATE")
        << " | " << define_of(v, cells[0]) << " x " << define_of(v, cells[1]) << " x " << define_of(v, cells[2])
        << " | " << define_of(v, "MS_TILE") << " | " << row.info.registers << " | "
        << row.info.spill_store_bytes + row.info.spill_load_bytes << " | " << shared_bytes_of(v, row.info) << " | "
        << occupancy.blocks() << " | " << occupancy.warps() << " | " << occupancy.limit() << " | " << switches_of(v)
        << " |\n";
  }
}

inline void write_plans(std::ostream& out, const std::vector<PlanRow>& rows) {
  out << "\n# What the plans make of it\n\n"
         "The roof is of the GPU's data sheet: 16 exponentials per clock and SM, and its memory rate. \"Expected\" is "
         "the "
         "plan's model of the kernel, or the memory's time where that is longer; nobody has measured it there.\n\n"
         "| GPU | batch, seqlen, dim, N | warps launched | warps per scheduler | registers | blocks/SM | bound by | "
         "roof "
         "us | expected us | multiple |\n"
         "|---|---|---|---|---|---|---|---|---|---|\n";
  for (const PlanRow& row : rows) {
    const SelectiveScanProblem& p = row.problem;
    out << "| " << row.gpu->name << " | " << p.batch << ", " << p.seqlen << ", " << p.dim << ", " << p.dstate << " | "
        << warps_of(row.plan) << " | " << cell(row.warps_per_scheduler(), 2) << " | " << row.info.registers << " | "
        << row.occupancy().blocks() << " | " << (row.exp_us() >= row.memory_us() ? "exponentials" : "memory") << " | "
        << cell(row.roof_us(), 1) << " | " << cell(row.expected_us(), 1) << " | "
        << cell(row.expected_us() / row.roof_us(), 2) << " |\n";
  }
}

}  // namespace mamba_scan::test
