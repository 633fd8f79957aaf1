// Speed of the CPU scan against its roof: the rate of its own vector exponential over data in the L1 cache, measured
// in the same run and interleaved with it, because other programs may be using the machine. Every figure is the
// best of several rounds. Two exponentials: `exp` serves any argument, `bounded` is the scan's own without the range
// check. Two threads can only be faster than one where two cores are free.
//
//   cpu_bench [--rounds N] [--threads N] [--json]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu/instruction_sets.h"
#include "cpu/selective_scan.h"
#include "cpu/vector_math.h"

namespace {

using mamba_scan::DType;
using mamba_scan::Index;
using mamba_scan::SelectiveScanProblem;

struct Shape {
  const char* dtype;
  const char* layout;
  Index batch, seqlen, dim, dstate;
  bool gate;  // z, softplus, bias and D
};

// The first three fit the L2 cache of a core; the others stream from memory.
constexpr Shape kShapes[] = {
    {"fp32", "bld", 1, 256, 256, 16, false},   {"fp16", "bdl", 1, 256, 256, 16, false},
    {"fp32", "bld", 1, 256, 256, 16, true},    {"fp32", "bld", 1, 4096, 256, 16, false},
    {"fp32", "bld", 1, 1024, 1024, 16, false}, {"fp32", "bld", 1, 512, 2048, 16, false},
    {"fp32", "bdl", 1, 4096, 256, 16, false},  {"fp16", "bld", 1, 4096, 256, 16, false},
    {"fp16", "bdl", 1, 1024, 1024, 16, false}, {"bf16", "bld", 1, 4096, 256, 16, false},
    {"bf16", "bdl", 1, 1024, 1024, 16, false}, {"fp32", "bld", 1, 4096, 256, 16, true},
    {"bf16", "bdl", 8, 512, 256, 16, true},    {"fp32", "bld", 1, 1024, 256, 64, false},
    {"fp32", "bld", 1, 8192, 256, 4, false},   {"fp32", "bld", 1, 65536, 16, 16, false},
    {"fp32", "bld", 1, 16384, 64, 16, false},
};

double seconds_of(const auto& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Random tensors of one shape and the problem over them.
class Workload {
 public:
  explicit Workload(const Shape& shape) {
    const bool fp32 = !std::strcmp(shape.dtype, "fp32");
    dtype_ = fp32 ? DType::kFloat32 : !std::strcmp(shape.dtype, "fp16") ? DType::kFloat16 : DType::kBFloat16;
    const Index batch = shape.batch, seqlen = shape.seqlen, dim = shape.dim, n = shape.dstate;
    const auto sequence = [&](float low, float high) {
      const bool dims_inside = !std::strcmp(shape.layout, "bld");
      return mamba_scan::SequenceTensor{fill(batch * seqlen * dim, low, high), seqlen * dim, dims_inside ? dim : 1,
                                        dims_inside ? 1 : seqlen};
    };
    const auto projection = [&] {
      const bool states_inside = !std::strcmp(shape.layout, "bld");
      return mamba_scan::ProjectionTensor{fill(batch * seqlen * n, -1, 1), seqlen * n,
                                          states_inside ? n : 1,           seqlen * n,
                                          states_inside ? 1 : seqlen,      false};
    };
    problem = {};
    problem.batch = batch;
    problem.seqlen = seqlen;
    problem.dim = dim;
    problem.dstate = n;
    problem.ngroups = 1;
    problem.dtype = dtype_;
    problem.u = sequence(-1, 1);
    problem.delta = shape.gate ? sequence(-4, 0) : sequence(0.001f, 0.1f);
    problem.y = sequence(0, 0);
    problem.B = projection();
    problem.C = projection();
    problem.A = floats(dim * n, -16, -1);
    problem.A_dim_stride = n;
    problem.A_state_stride = 1;
    if (shape.gate) {
      problem.z = sequence(-3, 3);
      problem.delta_softplus = true;
      problem.D = floats(dim, -1, 1);
      problem.delta_bias = floats(dim, -1, 1);
    }
  }

  SelectiveScanProblem problem;

 private:
  float* floats(Index count, float low, float high) {
    memory_.emplace_back(static_cast<std::size_t>(count));
    std::uniform_real_distribution<float> values(low, high);
    for (float& value : memory_.back()) value = values(random_);
    return memory_.back().data();
  }
  void* fill(Index count, float low, float high) {
    float* values = floats(count, low, high);
    if (dtype_ == DType::kFloat32) return values;
    halves_.emplace_back(static_cast<std::size_t>(count));
    const auto convert =
        dtype_ == DType::kFloat16 ? mamba_scan::cpu::float_to_float16 : mamba_scan::cpu::float_to_bfloat16;
    convert(values, halves_.back().data(), halves_.back().size());
    return halves_.back().data();
  }

  DType dtype_;
  std::mt19937 random_{1};
  std::vector<std::vector<float>> memory_;
  std::vector<std::vector<unsigned short>> halves_;
};

// Exponentials per second on one thread, 8 KB in and 8 KB out.
double exp_rate(void (*function)(const float*, float*, std::size_t)) {
  constexpr std::size_t kCount = 2048;
  constexpr int kRepeats = 2000;
  alignas(64) static float from[kCount];
  alignas(64) static float to[kCount];
  for (std::size_t i = 0; i < kCount; ++i) from[i] = -20.0f * static_cast<float>(i) / kCount;
  const double seconds = seconds_of([&] {
    for (int i = 0; i < kRepeats; ++i) function(from, to, kCount);
  });
  return kCount * static_cast<double>(kRepeats) / seconds;
}

struct Result {
  double exp = 0, exp_bounded = 0, one = 0, many = 0;
  double ratio() const { return one / exp; }
  double ratio_bounded() const { return one / exp_bounded; }
};

Result measure(const Shape& shape, int rounds, int threads) {
  const Workload workload(shape);
  const auto exponentials = static_cast<double>(shape.batch * shape.seqlen * shape.dim * shape.dstate);
  Result best;
  for (int round = 0; round < rounds; ++round) {
    const auto scan_rate = [&](int count) {
      return exponentials / seconds_of([&] { mamba_scan::cpu::selective_scan(workload.problem, count); });
    };
    best.exp = std::max(best.exp, exp_rate(mamba_scan::cpu::exp2));
    best.exp_bounded = std::max(best.exp_bounded, exp_rate(mamba_scan::cpu::exp2_bounded));
    best.one = std::max(best.one, scan_rate(1));
    best.many = std::max(best.many, scan_rate(threads));
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  int rounds = 10, threads = 2;
  bool json = false;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--json") {
      json = true;
    } else if (i + 1 < argc && option == "--rounds") {
      rounds = std::max(1, std::atoi(argv[++i]));
    } else if (i + 1 < argc && option == "--threads") {
      threads = std::max(1, std::atoi(argv[++i]));
    } else {
      std::fprintf(stderr, "cpu_bench: %s is not an option; usage: cpu_bench [--rounds N] [--threads N] [--json]\n",
                   argv[i]);
      return 2;
    }
  }
  const std::string target = mamba_scan::cpu::instruction_set();
  if (json) {
    std::printf(
        "{\"instruction_set\": \"%s\", \"rounds\": %d, \"threads\": %d, \"unit\": \"exponentials/s\", "
        "\"results\": [",
        target.c_str(), rounds, threads);
  } else {
    std::printf(
        "%s, best of %d rounds; rates in 1e9 exponentials/s; ratio = scan / exp, strict = scan / bounded, one thread\n"
        "dtype layout  batch x seqlen x dim x dstate  gate |  exp   bounded |  scan 1   scan %d | ratio strict "
        "speedup\n",
        target.c_str(), rounds, threads);
  }
  bool first = true;
  for (const Shape& shape : kShapes) {
    const Result result = measure(shape, rounds, threads);
    if (json) {
      std::printf(
          "%s\n  {\"dtype\": \"%s\", \"layout\": \"%s\", \"batch\": %lld, \"seqlen\": %lld, \"dim\": %lld, "
          "\"dstate\": %lld, \"gate\": %s, \"exp\": %.4g, \"exp_bounded\": %.4g, \"scan_one_thread\": %.4g, "
          "\"scan_threads\": %.4g, \"ratio\": %.3f, \"ratio_bounded\": %.3f, \"speedup\": %.3f}",
          first ? "" : ",", shape.dtype, shape.layout, shape.batch, shape.seqlen, shape.dim, shape.dstate,
          shape.gate ? "true" : "false", result.exp, result.exp_bounded, result.one, result.many, result.ratio(),
          result.ratio_bounded(), result.many / result.one);
    } else {
      std::printf(
          "%-5s %-6s  %5lld x %6lld x %4lld x %3lld     %-4s | %6.3f %6.3f  | %6.3f   %6.3f  | %5.3f %5.3f %5.2f\n",
          shape.dtype, shape.layout, shape.batch, shape.seqlen, shape.dim, shape.dstate, shape.gate ? "yes" : "no",
          result.exp / 1e9, result.exp_bounded / 1e9, result.one / 1e9, result.many / 1e9, result.ratio(),
          result.ratio_bounded(), result.many / result.one);
    }
    std::fflush(stdout);
    first = false;
  }
  if (json) std::printf("\n]}\n");
  return 0;
}
