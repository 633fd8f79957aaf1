// Which kernels are compiled ahead.
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "ops/plan.h"

namespace mamba_scan::ops {
namespace {

// The strides of a problem whose states are complex, of the same sizes, with all parts side by side.
void make_complex(SelectiveScanProblem& p) {
  p.is_complex = true;
  p.A_dim_stride *= 2;
  p.A_state_stride *= 2;
  p.A_imag_stride = 1;
  for (ProjectionTensor* tensor : {&p.B, &p.C}) {
    for (Index* stride : {&tensor->batch_stride, &tensor->seq_stride, &tensor->group_stride, &tensor->state_stride})
      *stride *= 2;
    tensor->imag_stride = 1;
  }
  for (StateTensor* tensor : {&p.initial_state, &p.final_state}) {
    for (Index* stride : {&tensor->batch_stride, &tensor->dim_stride, &tensor->state_stride}) *stride *= 2;
    tensor->imag_stride = 1;
  }
}

// What a multiprocessor of this compute capability holds (CUDA programming guide, "technical specifications").
driver::DeviceReport typical_device(int capability) {
  struct Limits {
    int capability, threads, blocks, shared_kib;
  };
  constexpr Limits kLimits[] = {{61, 2048, 32, 96},   {70, 2048, 32, 96},  {75, 1024, 16, 64},  {80, 2048, 32, 164},
                                {86, 1536, 16, 100},  {87, 1536, 16, 164}, {89, 1536, 24, 100}, {90, 2048, 32, 228},
                                {100, 2048, 32, 228}, {120, 1536, 24, 100}};
  const Limits* limits = kLimits;
  for (const Limits& known : kLimits)
    if (known.capability <= capability) limits = &known;
  driver::DeviceReport device;
  device.major = capability / 10;
  device.minor = capability % 10;
  device.sm_count = 64;
  device.max_blocks_per_sm = limits->blocks;
  device.max_threads_per_sm = limits->threads;
  device.shared_per_sm = static_cast<std::size_t>(limits->shared_kib) << 10;
  const int of_block = capability < 70 ? 48 : capability < 80 ? limits->shared_kib : limits->shared_kib - 1;
  device.shared_per_block_optin = static_cast<std::size_t>(of_block) << 10;
  return device;
}

// The same with no more memory bandwidth than an H100 of as many multiprocessors has. Unlike a device that does not say
// how much it has, it may be held up by that.
driver::DeviceReport with_slow_memory(driver::DeviceReport device) {
  device.clock_khz = 1980000;
  device.memory_clock_khz = 2619000 / 132 * device.sm_count;
  device.memory_bus_bits = 5120;
  return device;
}

}  // namespace

std::vector<jit::Variant> shipped_variants(int capability) {
  const driver::DeviceReport device = typical_device(capability), slow = with_slow_memory(device);

  // Only whether a pointer is null matters to the plan, and its alignment.
  alignas(kSectorBytes) static float somewhere[4], elsewhere[4];
  std::vector<jit::Variant> out;
  std::set<std::string> seen;
  const auto add_once = [&](jit::Variant variant) {
    if (seen.insert(variant.name()).second) out.push_back(std::move(variant));
  };
  const auto add_plan = [&](const ForwardPlan& plan) {
    for (jit::Variant& kernel : kernels_of(plan)) add_once(std::move(kernel));
  };
  struct Kind {
    bool reverse = false, packed = false, chunk_invariant = false, is_complex = false;
  };
  const auto problem_of = [&](DType dtype, bool seq_last, Index dstate, Index batch, Index seqlen, bool full,
                              bool constant_b, Kind kind) {
    SelectiveScanProblem p{};
    p.batch = batch;
    p.seqlen = seqlen;
    p.dim = 2048;
    p.dstate = dstate;
    p.ngroups = 1;
    p.dtype = dtype;
    p.reverse = kind.reverse;
    p.chunk_invariant = kind.chunk_invariant;
    const SequenceTensor tensor{somewhere, p.seqlen * p.dim, seq_last ? 1 : p.dim, seq_last ? p.seqlen : 1};
    p.u = p.delta = p.y = tensor;
    p.B = p.C = {somewhere, p.seqlen * dstate, seq_last ? 1 : dstate, dstate, seq_last ? p.seqlen : 1, false};
    if (constant_b) p.B = {somewhere, 0, 0, dstate, 1, true};
    p.A = somewhere;
    if (full) {
      p.z = tensor;
      p.delta_softplus = true;
      p.D = p.delta_bias = somewhere;
      p.initial_state = {somewhere, p.dim * dstate, dstate, 1};
      p.final_state = {elsewhere, p.dim * dstate, dstate, 1};
    }
    if (kind.packed) {
      p.cu_seqlens = reinterpret_cast<const int*>(somewhere);
      p.sequences = 2;
    }
    if (kind.is_complex) make_complex(p);
    return p;
  };
  const auto add = [&](DType dtype, bool seq_last, Index dstate, Index batch, bool full, bool constant_b,
                       Kind kind = {}) {
    add_plan(plan_forward(problem_of(dtype, seq_last, dstate, batch, 65536, full, constant_b, kind), device));
  };
  const auto add_for_any_memory = [&](const SelectiveScanProblem& problem) {
    for (const auto& some : {device, slow}) add_plan(plan_forward(problem, some));
  };
  // As the layers of Mamba models call it: with everything but states in training, with the last one of a prompt.
  const auto layer_of = [&](DType dtype, bool seq_last, Index batch, Index seqlen, bool is_prompt) {
    auto p = problem_of(dtype, seq_last, 16, batch, seqlen, true, false, {});
    p.initial_state.data = nullptr;
    if (!is_prompt) p.final_state.data = nullptr;
    return p;
  };
  constexpr Index kFew = 1, kFewRows = 8, kMany = 64;  // sequences: cut in time, and whole
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16})
    for (bool seq_last : {false, true}) {
      for (const bool full : {false, true})
        add_for_any_memory(problem_of(dtype, seq_last, 16, kMany, 65536, full, false, {}));
      add_for_any_memory(problem_of(dtype, seq_last, 16, kFew, 65536, true, false, {}));
      add_for_any_memory(layer_of(dtype, seq_last, kMany, 2048, false));
      add_for_any_memory(layer_of(dtype, seq_last, kFew, 65536, true));
    }
  // Bidirectional models; with adjacent channels a reversed scan needs no kernel of its own.
  for (Index batch : {kMany, kFew}) add(DType::kFloat16, true, 16, batch, true, false, {.reverse = true});
  for (bool seq_last : {false, true}) {
    add(DType::kBFloat16, seq_last, 16, kFew, true, false, {.packed = true});
    add(DType::kFloat16, seq_last, 16, kFew, true, false, {.chunk_invariant = true});
  }
  for (Index dstate : {1, 4, 8, 32, 64, 128, 256}) add(DType::kFloat16, false, dstate, kMany, true, false);
  add(DType::kFloat32, true, 64, kMany, true, true);
  for (Index dstate : {1, 16, 32, 64, 200})
    add(DType::kFloat32, false, dstate, kMany, true, false, {.is_complex = true});
  add(DType::kFloat16, true, 16, kMany, true, false, {.is_complex = true});
  add(DType::kBFloat16, false, 32, kMany, false, true, {.is_complex = true});
  add(DType::kFloat16, false, 512, kMany, true, false);
  add(DType::kFloat32, true, 512, kMany, true, false);
  // Rows about as many as schedulers, whose warps are served by others.
  const auto add_served = [&](DType dtype, bool seq_last, Index dstate, std::int16_t lanes, bool full) {
    const PlanChoice served{.lanes = lanes, .served = true};
    add_plan(plan_forward(problem_of(dtype, seq_last, dstate, kFewRows, 2048, full, false, {}), device, &served));
  };
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16})
    for (bool seq_last : {false, true}) add_served(dtype, seq_last, 8, 1, true);
  for (bool full : {false, true}) {
    add_served(DType::kFloat16, false, 4, 1, full);
    add_served(DType::kFloat16, full, 16, 2, full);
  }
  // Rows that are no whole rounds of the multiprocessors, shared out evenly.
  constexpr Index kUneven = 9;
  const auto add_shared_out = [&](const SelectiveScanProblem& problem, std::int16_t lanes, bool served) {
    const PlanChoice choice{.lanes = lanes, .served = served, .wrapped = true};
    add_plan(plan_forward(problem, device, &choice));
  };
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    for (bool seq_last : {false, true}) {
      add_shared_out(layer_of(dtype, seq_last, kUneven, 2048, false), 1, false);
      add_shared_out(problem_of(dtype, seq_last, 16, kUneven, 2048, false, false, {}), 1, false);
    }
    for (bool served : {false, true}) add_shared_out(layer_of(dtype, true, kUneven, 2048, false), 2, served);
  }
  add_shared_out(problem_of(DType::kFloat16, false, 8, kUneven, 2048, true, false, {}), 1, true);
  // Few states of many rows that begin in the middle of a sector: these go abreast, or wait for the rest of it. Where
  // channels are adjacent and begin anywhere, lanes move them directly.
  const auto with_longer_rows = [](SelectiveScanProblem problem, Index elements) {
    for (SequenceTensor* tensor : {&problem.u, &problem.delta, &problem.z, &problem.y})
      (problem.u.seq_stride == 1 ? tensor->dim_stride : tensor->seq_stride) += elements;
    return problem;
  };
  const PlanChoice four_abreast{.lanes = 1, .abreast = 4}, one_lane{.lanes = 1};
  for (DType dtype : {DType::kFloat32, DType::kFloat16}) {
    const auto problem = problem_of(dtype, false, 8, kMany, 65536, true, false, {});
    add_plan(plan_forward(with_longer_rows(problem, 16 / element_size(dtype)), device, &four_abreast));
    add_plan(plan_forward(with_longer_rows(problem_of(dtype, true, 8, kMany, 65536, true, false, {}), 1), device));
  }
  const PlanChoice one_lane_cut{.lanes = 1, .cut = true};
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16})
    for (Index dstate : {1, 8, 16})
      for (bool full : {false, true}) {
        const auto direct = [&](Index batch) {
          return with_longer_rows(problem_of(dtype, false, dstate, batch, 65536, full, false, {}), 1);
        };
        add_plan(plan_forward(direct(kMany), device, &one_lane));
        if (full || dtype == DType::kFloat16) add_plan(plan_forward(direct(kFew), device, &one_lane_cut));
      }
  add_plan(plan_forward(problem_of(DType::kFloat16, false, 4, kMany, 65536, false, false, {}), device, &four_abreast));
  // Short rows that lie side by side, of any length.
  const PlanChoice whole_rows{.lanes = 1, .whole_rows = true};
  for (Index seqlen : {49, 50, 52, 56}) {
    for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16})
      add_plan(plan_forward(problem_of(dtype, true, 1, kMany, seqlen, false, false, {}), device, &whole_rows));
    for (Index dstate : {1, 4, 8, 16})
      add_plan(
          plan_forward(problem_of(DType::kFloat16, true, dstate, kMany, seqlen, true, false, {}), device, &whole_rows));
  }
  // Short sequences, whose warps take turns, served by others or not.
  const auto add_short = [&](DType dtype, bool seq_last, Index dstate, PlanChoice shape, bool full, Kind kind = {}) {
    const auto problem = problem_of(dtype, seq_last, dstate, kFew, 1024, full, false, kind);
    add_plan(plan_forward(problem, device, &shape));
  };
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16})
    for (bool seq_last : {false, true}) {
      for (std::int16_t lanes : {2, 4})
        add_short(dtype, seq_last, 16, {.lanes = lanes, .warps = 8, .served = true}, true);
      add_plan(plan_forward(layer_of(dtype, seq_last, kFew, 1024, true), device));
    }
  // In even shares: rows that are no whole rounds of the multiprocessors. Cut in time: fewer rows than these.
  const auto with_channels = [](SelectiveScanProblem problem, Index dim) {
    problem.dim = dim;  // strides are of no importance to plans
    return problem;
  };
  constexpr Index kNoWholeRounds = 2560, kFewChannels = 256;
  const PlanChoice shares{.lanes = 2, .warps = 8, .served = true, .wrapped = true},
      cut{.lanes = 2, .cut = true, .warps = 8, .served = true}, wide{.lanes = 2, .warps = 8, .served = true};
  const auto add_shares_and_cut = [&](DType dtype, bool seq_last, bool full) {
    const auto problem = problem_of(dtype, seq_last, 16, kFew, 16384, full, false, {});
    add_plan(plan_forward(with_channels(problem, kNoWholeRounds), device, &shares));
    add_plan(plan_forward(with_channels(problem, kFewChannels), device, &cut));
    const auto unaligned = with_channels(with_longer_rows(problem, 1), kFewChannels);
    for (const PlanChoice& choice : {wide, cut}) add_plan(plan_forward(unaligned, device, &choice));
  };
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16})
    for (bool seq_last : {false, true}) add_shares_and_cut(dtype, seq_last, true);
  for (bool seq_last : {false, true}) add_shares_and_cut(DType::kFloat16, seq_last, false);
  add_short(DType::kFloat16, false, 16, {.lanes = 2, .warps = 8, .served = true}, false);
  add_short(DType::kFloat16, true, 16, {.lanes = 4, .warps = 4, .served = true}, true);
  add_short(DType::kFloat16, true, 16, {.lanes = 4, .warps = 8, .served = true}, false);
  for (std::int16_t lanes : {4, 8})
    add_short(DType::kBFloat16, true, 32, {.lanes = lanes, .warps = 8, .served = true}, true);
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16})
    for (bool seq_last : {false, true}) {
      add_short(dtype, seq_last, 16, {.lanes = 4, .warps = 8}, true);
      add_short(dtype, seq_last, 16, {.lanes = 8, .warps = 8}, false);
    }
  for (const PlanChoice& shape :
       {PlanChoice{.lanes = 2, .warps = 16}, PlanChoice{.lanes = 4, .channels = 2, .warps = 8},
        PlanChoice{.lanes = 8, .warps = 16}, PlanChoice{.lanes = 16, .warps = 8}})
    add_short(DType::kFloat16, false, 16, shape, true);
  add_short(DType::kFloat16, true, 16, {.lanes = 8, .warps = 8}, true, {.reverse = true});
  for (Index dstate : {1, 4, 8, 32, 64})
    add_short(DType::kFloat16, false, dstate,
              {.lanes = static_cast<std::int16_t>(dstate < 4 ? 1 : dstate / 4), .warps = 8}, true);
  return out;
}

}  // namespace mamba_scan::ops
