// The CPU scan against float64 over shapes, layouts, dtypes and options, and what must hold bit for bit.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <string>

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

class CpuScan : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { cpu::use_instruction_set(GetParam()); }
  void TearDown() override { cpu::use_instruction_set(""); }
};

TEST_P(CpuScan, MatchesFloat64ForEveryDtypeAndLayoutAtOddSizes) {
  for (const DType dtype : kDTypes) {
    for (const char* layout : kLayouts) {
      for (const auto [batch, seqlen, dim] : {std::array<Index, 3>{1, 1, 1},
                                              {2, 7, 3},
                                              {1, 65, 17},
                                              {3, 33, 16},
                                              {1, 131, 67},
                                              {2, 64, 64},
                                              {1, 1, 129}}) {
        run_and_check({.batch = batch, .seqlen = seqlen, .dim = dim, .dstate = 16, .dtype = dtype, .layout = layout});
      }
    }
  }
}

TEST_P(CpuScan, MatchesFloat64ForEveryNumberOfStates) {
  for (const Index dstate : {1, 2, 3, 4, 5, 6, 7, 8, 13, 15, 17, 31, 32, 64, 100, 127, 255, 256, 300}) {
    run_and_check({.seqlen = 21, .dim = 19, .dstate = dstate, .layout = dstate % 2 ? "bdl" : "bld"});
    run_and_check({.seqlen = 37, .dim = 5, .dstate = dstate, .dtype = DType::kFloat16, .layout = "gaps"});
  }
}

TEST_P(CpuScan, MatchesFloat64WithGroupsAndConstantProjections) {
  for (const char* layout : kLayouts) {
    for (const bool constant_b : {false, true}) {
      for (const bool constant_c : {false, true}) {
        for (const Index ngroups : {1, 2, 6}) {
          if (constant_b && constant_c && ngroups > 1) continue;
          run_and_check({.batch = 2,
                         .seqlen = 35,
                         .dim = 42,
                         .dstate = 6,
                         .ngroups = ngroups,
                         .dtype = DType::kBFloat16,
                         .layout = layout,
                         .constant_b = constant_b,
                         .constant_c = constant_c});
        }
      }
    }
  }
}

TEST_P(CpuScan, MatchesFloat64ForEveryCombinationOfOptions) {
  for (int bits = 0; bits < 64; ++bits) {
    const auto on = [&](int bit) { return (bits >> bit & 1) != 0; };
    const bool softplus = on(0);
    run_and_check({.seqlen = 70,
                   .dim = 18,
                   .dstate = 5,
                   .layout = kLayouts[bits % 3],
                   .softplus = softplus,
                   .bias = on(1),
                   .skip = on(2),
                   .gate = on(3),
                   .initial = on(4),
                   .final_state = on(5),
                   .delta_low = softplus ? -3.0f : 1.001f,
                   .delta_high = softplus ? 1.0f : 1.5f});
  }
}

TEST_P(CpuScan, MatchesFloat64ForExtremeSteps) {
  for (const float delta : {0.0f, 1e-8f, 50.0f, 3e4f}) {
    run_and_check({.seqlen = 40,
                   .dim = 18,
                   .dstate = 8,
                   .softplus = false,
                   .bias = false,
                   .delta_low = delta,
                   .delta_high = std::nextafter(delta, 1e9f)});
  }
  for (const float delta : {-80.0f, -30.0f, 19.0f, 21.0f, 1000.0f}) {
    run_and_check({.seqlen = 40, .dim = 18, .dstate = 8, .bias = false, .delta_low = delta, .delta_high = delta + 1});
  }
}

TEST_P(CpuScan, GrowingStatesReachInfinityAndNotGarbage) {
  Case scan({.seqlen = 40, .dim = 3, .dstate = 4, .softplus = false, .bias = false, .skip = false, .gate = false});
  scan.A.fill([] { return 30.0; });
  scan.delta.fill([] { return 1.0; });
  for (Array* array : {&scan.u, &scan.B, &scan.C, &scan.initial}) array->fill([] { return 1.0; });
  cpu::selective_scan(scan.problem(), 1);
  EXPECT_NEAR(scan.y.get({0, 0, 1}) / (4 * (std::exp(30.0) + 1)), 1.0, 1e-5);
  for (Index t = 3; t < 40; ++t) EXPECT_EQ(scan.y.get({0, t, 1}), std::numeric_limits<double>::infinity()) << t;
}

TEST_P(CpuScan, NotANumberStaysInItsChannelAndAfterItsStep) {
  for (const double poison : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                              -std::numeric_limits<double>::infinity()}) {
    for (const char* input : {"u", "delta"}) {
      const Options options{.batch = 2, .seqlen = 150, .dim = 37, .dstate = 7, .layout = kLayouts[*input % 3]};
      Case clean(options), dirty(clean);
      (*input == 'u' ? dirty.u : dirty.delta).set({1, 77, 20}, poison);
      cpu::selective_scan(clean.problem(), 1);
      cpu::selective_scan(dirty.problem(), 1);
      for (Index b = 0; b < 2; ++b) {
        for (Index t = 0; t < 150; ++t) {
          for (Index d = 0; d < 37; ++d) {
            if (b != 1 || d != 20 || t < 77) {
              ASSERT_EQ(clean.y.get({b, t, d}), dirty.y.get({b, t, d})) << input << b << ' ' << t << ' ' << d;
            }
          }
        }
      }
      // A step of -infinity becomes 0 by softplus and changes nothing but its own step.
      const bool harmless = *input == 'd' && poison < 0;
      EXPECT_EQ(std::isfinite(dirty.y.get({1, 77, 20})), harmless) << input << poison;
      if (std::isnan(poison)) {
        EXPECT_TRUE(std::isnan(dirty.y.get({1, 149, 20})));
        EXPECT_TRUE(std::isnan(dirty.final_state.get({1, 20, 6})));
      }
    }
  }
}

TEST_P(CpuScan, ACutAnywhereChangesNoBit) {
  for (const char* layout : kLayouts) {
    for (const DType dtype : kDTypes) {
      const Options options{.batch = 2, .seqlen = 203, .dim = 21, .dstate = 9, .dtype = dtype, .layout = layout};
      Case whole(options), parts(whole);
      cpu::selective_scan(whole.problem(), 1);
      for (const Index cut : {0, 1, 16, 63, 64, 65, 100, 202, 203}) {
        parts.y.poison();
        parts.final_state.poison();
        Array between = parts.final_state;
        cpu::selective_scan(parts.part(0, cut, &parts.initial, &between), 1);
        cpu::selective_scan(parts.part(cut, options.seqlen - cut, &between, &parts.final_state), 1);
        EXPECT_TRUE(whole.y.same_bytes(parts.y)) << describe(options) << " cut at " << cut;
        EXPECT_TRUE(whole.final_state.same_bytes(parts.final_state)) << describe(options) << " cut at " << cut;
      }
    }
  }
}

TEST_P(CpuScan, TheStateMayBeUpdatedInPlace) {
  const Options options{.batch = 2, .seqlen = 90, .dim = 35, .dstate = 6};
  Case apart(options), in_place(apart);
  cpu::selective_scan(apart.problem(), 1);
  cpu::selective_scan(in_place.part(0, options.seqlen, &in_place.initial, &in_place.initial), 1);
  EXPECT_TRUE(apart.y.same_bytes(in_place.y));
  EXPECT_TRUE(apart.final_state.same_bytes(in_place.initial));
}

TEST_P(CpuScan, TheNumberOfThreadsChangesNoBit) {
  // Many channels (tiles), few channels (states divided over threads), and uneven ones.
  for (const auto [dim, seqlen, dstate] :
       {std::array<Index, 3>{200, 300, 16}, {3, 20011, 19}, {17, 9001, 16}, {40, 4000, 13}, {5, 8192, 256}}) {
    for (const char* layout : {"bld", "bdl"}) {
      const Options options{
          .seqlen = seqlen, .dim = dim, .dstate = dstate, .dtype = DType::kBFloat16, .layout = layout};
      Case one(options);
      cpu::selective_scan(one.problem(), 1);
      Case many(one);
      for (const int threads : {2, 3, 4, 5}) {
        many.y.poison();
        many.final_state.poison();
        cpu::selective_scan(many.problem(), threads);
        EXPECT_TRUE(one.y.same_bytes(many.y)) << describe(options) << " threads " << threads;
        EXPECT_TRUE(one.final_state.same_bytes(many.final_state)) << describe(options) << " threads " << threads;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Every, CpuScan, testing::ValuesIn(cpu::supported_instruction_sets()),
                         [](const auto& set) { return set.param; });

TEST(CpuScanSplit, DividedStatesMatchFloat64) {
  run_and_check({.batch = 1, .seqlen = 16385, .dim = 5, .dstate = 16, .layout = "bdl"}, 4);
  run_and_check({.batch = 2, .seqlen = 9000, .dim = 6, .dstate = 18, .ngroups = 3, .dtype = DType::kFloat16}, 7);
  run_and_check({.batch = 1, .seqlen = 8000, .dim = 9, .dstate = 20, .constant_b = true, .constant_c = true}, 3);
}

TEST(CpuScanEmpty, NoStepsHandTheStateOn) {
  Case with_state({.batch = 2, .seqlen = 0, .dim = 20, .dstate = 5});
  cpu::selective_scan(with_state.problem());
  EXPECT_TRUE(with_state.initial.same_bytes(with_state.final_state));
  Case without_state({.batch = 2, .seqlen = 0, .dim = 20, .dstate = 5, .initial = false});
  cpu::selective_scan(without_state.problem());
  for (Index d = 0; d < 20; ++d) EXPECT_EQ(without_state.final_state.get({1, d, 4}), 0.0);
}

TEST(CpuScanEmpty, NoBatchAndNoChannelsWriteNothing) {
  for (const auto [batch, dim] : {std::array<Index, 2>{0, 4}, {3, 0}}) {
    Case scan({.batch = batch, .seqlen = 10, .dim = dim, .dstate = 3});
    const Array before = scan.y;
    cpu::selective_scan(scan.problem());
    EXPECT_TRUE(before.same_bytes(scan.y));
  }
}

TEST(CpuScanStrides, NegativeStridesScanFromTheEnd) {
  for (const char* layout : kLayouts) {
    const Options options{.batch = 1, .seqlen = 75, .dim = 20, .dstate = 6, .layout = layout};
    Case backward(options), forward(backward);
    for (Index t = 0; t < 75; ++t) {
      const Index from = 74 - t;
      for (Index d = 0; d < 20; ++d) {
        forward.u.set({0, t, d}, backward.u.get({0, from, d}));
        forward.delta.set({0, t, d}, backward.delta.get({0, from, d}));
        forward.z.set({0, t, d}, backward.z.get({0, from, d}));
      }
      for (Index n = 0; n < 6; ++n) {
        forward.B.set({0, t, 0, n}, backward.B.get({0, from, 0, n}));
        forward.C.set({0, t, 0, n}, backward.C.get({0, from, 0, n}));
      }
    }
    SelectiveScanProblem p = backward.problem();
    for (SequenceTensor* tensor : {&p.u, &p.delta, &p.z, &p.y}) {
      tensor->data = static_cast<float*>(tensor->data) + 74 * tensor->seq_stride;
      tensor->seq_stride = -tensor->seq_stride;
    }
    for (ProjectionTensor* tensor : {&p.B, &p.C}) {
      tensor->data = static_cast<float*>(tensor->data) + 74 * tensor->seq_stride;
      tensor->seq_stride = -tensor->seq_stride;
    }
    cpu::selective_scan(p, 1);
    cpu::selective_scan(forward.problem(), 1);
    for (Index t = 0; t < 75; ++t) {
      for (Index d = 0; d < 20; ++d) EXPECT_EQ(forward.y.get({0, t, d}), backward.y.get({0, 74 - t, d}));
    }
    EXPECT_TRUE(forward.final_state.same_bytes(backward.final_state));
  }
}

}  // namespace
