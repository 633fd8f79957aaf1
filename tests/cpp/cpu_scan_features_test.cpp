// Scans from the end, packed sequences, complex states, and sizes beyond what fits in 16 bits, against float64; and
// what must hold bit for bit.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "cpu/instruction_sets.h"
#include "cpu_scan_case.h"

namespace {

using namespace cpu_tests;
namespace cpu = mamba_scan::cpu;

constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr const char* kLayouts[] = {"bld", "bdl", "gaps"};

void run_and_check(const Options& options, int threads = 1) {
  Case scan(options);
  cpu::selective_scan(scan.problem(), threads);
  scan.expect_right();
}

// Cumulative lengths of `count` random sequences, some of them empty, `seqlen` steps together.
std::vector<int> random_sequences(Index seqlen, int count) {
  std::mt19937 random(std::random_device{}());
  std::uniform_int_distribution<int> cut(0, static_cast<int>(seqlen));
  std::vector<int> ends = {0, 0, static_cast<int>(seqlen)};  // the first is empty
  while (static_cast<int>(ends.size()) <= count) ends.push_back(cut(random));
  std::sort(ends.begin(), ends.end());
  return ends;
}

class CpuScanFeatures : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { cpu::use_instruction_set(GetParam()); }
  void TearDown() override { cpu::use_instruction_set(""); }
};

TEST_P(CpuScanFeatures, EveryCombinationMatchesFloat64ForEveryDtypeAndLayout) {
  for (int features = 1; features < 8; ++features) {
    const bool reverse = features & 1, packed = features & 2, is_complex = features & 4;
    for (const DType dtype : kDTypes) {
      for (const char* layout : kLayouts) {
        for (const auto [seqlen, dim, dstate] :
             {std::array<Index, 3>{1, 1, 1}, {7, 3, 5}, {65, 17, 7}, {70, 35, 3}, {80, 18, 8}}) {
          run_and_check({.batch = packed ? 1 : 2,
                         .seqlen = seqlen,
                         .dim = dim,
                         .dstate = dstate,
                         .dtype = dtype,
                         .layout = layout,
                         .reverse = reverse,
                         .is_complex = is_complex,
                         .cu_seqlens = packed ? random_sequences(seqlen, 5) : std::vector<int>{}});
        }
      }
    }
  }
}

TEST_P(CpuScanFeatures, EveryCombinationMatchesFloat64WithGroupsAndConstantProjections) {
  for (int bits = 0; bits < 32; ++bits) {
    const auto on = [&](int bit) { return (bits >> bit & 1) != 0; };
    const bool packed = on(3);
    run_and_check({.batch = packed ? 1 : 2,
                   .seqlen = 90,
                   .dim = 42,
                   .dstate = 6,
                   .ngroups = on(0) && on(1) ? 1 : 3,
                   .dtype = kDTypes[bits % 3],
                   .layout = kLayouts[bits / 3 % 3],
                   .initial = bits % 5 != 0,
                   .constant_b = on(0),
                   .constant_c = on(1),
                   .reverse = on(2),
                   .is_complex = on(4),
                   .cu_seqlens = packed ? random_sequences(90, 9) : std::vector<int>{}});
  }
}

TEST_P(CpuScanFeatures, ComplexMatchesFloat64ForEveryNumberOfStates) {
  for (const Index dstate : {1, 2, 3, 4, 5, 15, 16, 17, 32, 64, 127, 256, 300}) {
    run_and_check(
        {.seqlen = 21, .dim = 19, .dstate = dstate, .layout = dstate % 2 ? "bdl" : "bld", .is_complex = true});
  }
}

TEST_P(CpuScanFeatures, ComplexDecayIsAccurateForManyTurnsInOneStep) {
  // One step, no input: y is twice the real part of exp(dt * A) * h * C, and the state exp(dt * A) * h.
  const Options options{.batch = 1,
                        .seqlen = 1,
                        .dim = 203,
                        .dstate = 8,
                        .softplus = false,
                        .bias = false,
                        .skip = false,
                        .gate = false,
                        .is_complex = true};
  for (const double imag : {0.0, 1.0, 100.0, 1e4, 1e6}) {
    Case scan(options);
    std::mt19937 random(options.seed);
    std::uniform_real_distribution<double> signed_unit(-1, 1);
    scan.u.fill([] { return 0.0; });
    scan.delta.fill([&] { return std::fabs(signed_unit(random)); });
    for (Index d = 0; d < options.dim; ++d) {
      for (Index n = 0; n < options.dstate; ++n) scan.A.set({d, n, 1}, imag * signed_unit(random));
    }
    cpu::selective_scan(scan.problem(), 1);
    double worst = 0;
    for (Index d = 0; d < options.dim; ++d) {
      for (Index n = 0; n < options.dstate; ++n) {
        const auto at = [&](const Array& array, const std::vector<Index>& index) {
          std::vector<Index> imaginary = index;
          imaginary.push_back(1);
          return std::complex<double>(array.get(index), array.get(imaginary));
        };
        const std::complex<double> h = at(scan.initial, {0, d, n});
        const std::complex<double> exact = std::exp(scan.delta.get({0, 0, d}) * at(scan.A, {d, n})) * h;
        worst = std::max(worst, std::abs(at(scan.final_state, {0, d, n}) - exact) / std::abs(exact));
      }
    }
    EXPECT_LT(worst, 1.2e-6) << "imaginary parts up to " << imag << ", seed " << options.seed;
  }
}

TEST_P(CpuScanFeatures, RealNumbersGiveTheSameAsComplexOnesWithoutImaginaryPart) {
  Case scan({.batch = 2, .seqlen = 70, .dim = 20, .dstate = 6, .skip = false, .is_complex = true});
  Options real_options = scan.o;
  real_options.is_complex = false;
  Case real(real_options);
  real.u = scan.u;
  real.delta = scan.delta;
  real.z = scan.z;
  real.bias = scan.bias;
  const auto copy = [&](Array& from, Array& to, const std::vector<Index>& sizes, auto&& self, std::vector<Index> at) {
    if (at.size() == sizes.size()) {
      to.set(at, from.get(at));
      at.push_back(1);
      from.set(at, 0.0);
      return;
    }
    for (Index i = 0; i < sizes[at.size()]; ++i) {
      at.push_back(i);
      self(from, to, sizes, self, at);
      at.pop_back();
    }
  };
  copy(scan.A, real.A, {20, 6}, copy, {});
  copy(scan.B, real.B, {2, 70, 1, 6}, copy, {});
  copy(scan.C, real.C, {2, 70, 1, 6}, copy, {});
  copy(scan.initial, real.initial, {2, 20, 6}, copy, {});
  cpu::selective_scan(scan.problem(), 1);
  cpu::selective_scan(real.problem(), 1);
  for (Index b = 0; b < 2; ++b) {
    for (Index t = 0; t < 70; ++t) {
      for (Index d = 0; d < 20; ++d) {
        ASSERT_NEAR(scan.y.get({b, t, d}), 2 * real.y.get({b, t, d}), 1e-5) << b << ' ' << t << ' ' << d;
      }
    }
    for (Index n = 0; n < 6; ++n) EXPECT_EQ(scan.final_state.get({b, 7, n, 1}), 0.0);
  }
}

TEST_P(CpuScanFeatures, APackedSequenceIsTheSameBitsAsOnItsOwn) {
  for (const bool reverse : {false, true}) {
    for (const char* layout : kLayouts) {
      const Options options{.seqlen = 300,
                            .dim = 37,
                            .dstate = 9,
                            .dtype = DType::kFloat16,
                            .layout = layout,
                            .reverse = reverse,
                            .cu_seqlens = random_sequences(300, 7)};
      Case packed(options);
      Case single(packed);
      for (const int threads : {1, 3}) {
        packed.y.poison();
        packed.final_state.poison();
        cpu::selective_scan(packed.problem(), threads);
        for (std::size_t i = 0; i + 1 < options.cu_seqlens.size(); ++i) {
          SelectiveScanProblem p =
              single.part(options.cu_seqlens[i], options.cu_seqlens[i + 1] - options.cu_seqlens[i], nullptr, nullptr);
          p.cu_seqlens = nullptr;
          p.sequences = 0;
          p.initial_state = single.state(single.initial);
          p.final_state = single.state(single.final_state);
          p.initial_state.data += static_cast<Index>(i) * p.initial_state.batch_stride;
          p.final_state.data += static_cast<Index>(i) * p.final_state.batch_stride;
          cpu::selective_scan(p, 1);
        }
        EXPECT_TRUE(packed.y.same_bytes(single.y)) << describe(options) << " threads " << threads;
        EXPECT_TRUE(packed.final_state.same_bytes(single.final_state)) << describe(options) << " threads " << threads;
      }
    }
  }
}

TEST_P(CpuScanFeatures, ACutAnywhereChangesNoBit) {
  for (const bool is_complex : {false, true}) {
    for (const bool reverse : {false, true}) {
      for (const char* layout : kLayouts) {
        const Options options{.batch = 2,
                              .seqlen = 203,
                              .dim = 21,
                              .dstate = 9,
                              .dtype = DType::kBFloat16,
                              .layout = layout,
                              .reverse = reverse,
                              .is_complex = is_complex};
        Case whole(options), parts(whole);
        cpu::selective_scan(whole.problem(), 1);
        for (const Index cut : {0, 1, 16, 63, 64, 65, 100, 202, 203}) {
          parts.y.poison();
          parts.final_state.poison();
          Array between = parts.final_state;
          const auto before =
              parts.part(0, cut, reverse ? &between : &parts.initial, reverse ? &parts.final_state : &between);
          const auto behind = parts.part(cut, options.seqlen - cut, reverse ? &parts.initial : &between,
                                         reverse ? &between : &parts.final_state);
          cpu::selective_scan(reverse ? behind : before, 1);
          cpu::selective_scan(reverse ? before : behind, 1);
          EXPECT_TRUE(whole.y.same_bytes(parts.y)) << describe(options) << " cut at " << cut;
          EXPECT_TRUE(whole.final_state.same_bytes(parts.final_state)) << describe(options) << " cut at " << cut;
        }
      }
    }
  }
}

TEST_P(CpuScanFeatures, TheNumberOfThreadsChangesNoBit) {
  // Many channels (tiles) and few (states divided over threads); one long sequence among short ones.
  for (const auto [dim, seqlen, dstate] : {std::array<Index, 3>{200, 300, 16}, {3, 20011, 19}, {40, 4000, 13}}) {
    for (int features = 1; features < 8; ++features) {
      const bool packed = features & 2;
      std::vector<int> sequences = packed ? random_sequences(seqlen / 10, 20) : std::vector<int>{};
      if (packed) sequences.push_back(static_cast<int>(seqlen));
      const Options options{.seqlen = seqlen,
                            .dim = dim,
                            .dstate = dstate,
                            .dtype = DType::kBFloat16,
                            .layout = kLayouts[features % 2],
                            .reverse = (features & 1) != 0,
                            .is_complex = (features & 4) != 0,
                            .cu_seqlens = sequences};
      Case one(options);
      cpu::selective_scan(one.problem(), 1);
      Case many(one);
      for (const int threads : {2, 5}) {
        many.y.poison();
        many.final_state.poison();
        cpu::selective_scan(many.problem(), threads);
        EXPECT_TRUE(one.y.same_bytes(many.y)) << describe(options) << " threads " << threads;
        EXPECT_TRUE(one.final_state.same_bytes(many.final_state)) << describe(options) << " threads " << threads;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Every, CpuScanFeatures, testing::ValuesIn(cpu::supported_instruction_sets()),
                         [](const auto& set) { return set.param; });

TEST(CpuScanPacked, MostlyEmptySequencesHandTheirStatesOn) {
  for (const bool reverse : {false, true}) {
    run_and_check({.seqlen = 5, .dim = 18, .dstate = 4, .reverse = reverse, .cu_seqlens = {0, 0, 0, 2, 2, 5, 5}}, 2);
    run_and_check({.seqlen = 0, .dim = 18, .dstate = 4, .reverse = reverse, .cu_seqlens = {0, 0, 0}}, 2);
    run_and_check({.seqlen = 0, .dim = 3, .dstate = 4, .initial = false, .reverse = reverse, .cu_seqlens = {0, 0}}, 2);
  }
}

TEST(CpuScanPacked, ThousandsOfShortSequencesMatchFloat64) {
  std::vector<int> sequences = {0};
  for (int i = 0; i < 2000; ++i) sequences.push_back(sequences.back() + i % 4);
  run_and_check({.seqlen = sequences.back(), .dim = 20, .dstate = 6, .layout = "bdl", .cu_seqlens = sequences}, 4);
}

TEST(CpuScanSizes, ChannelsAndBatchesBeyond65535MatchFloat64) {
  run_and_check({.batch = 1, .seqlen = 2, .dim = 65537, .dstate = 1}, 2);
  run_and_check({.batch = 65537, .seqlen = 1, .dim = 2, .dstate = 1}, 2);
  run_and_check(
      {.batch = 1, .seqlen = 2, .dim = 2, .dstate = 70001, .softplus = false, .delta_low = 0, .delta_high = 1}, 2);
}

}  // namespace
