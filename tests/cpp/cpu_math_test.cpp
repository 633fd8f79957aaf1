// Accuracy of the vector functions and conversions, on every instruction set of this processor.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cpu/instruction_sets.h"
#include "cpu/vector_math.h"
#include "cpu_half.h"
#include "platform/error.h"

namespace {

namespace cpu = mamba_scan::cpu;
using Function = void (*)(const float*, float*, std::size_t);
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class CpuMath : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { cpu::use_instruction_set(GetParam()); }
  void TearDown() override { cpu::use_instruction_set(""); }

  static std::vector<float> apply(Function function, const std::vector<float>& from) {
    std::vector<float> to(from.size(), kNaN);
    function(from.data(), to.data(), from.size());
    return to;
  }
  static float apply(Function function, float from) { return apply(function, std::vector<float>{from})[0]; }

  // An odd count, so that the last vector is a partial one.
  static std::vector<float> between(float low, float high, std::size_t count = 20011) {
    std::mt19937 random(std::random_device{}());
    std::uniform_real_distribution<float> values(low, high);
    std::vector<float> result(count);
    for (float& value : result) value = values(random);
    return result;
  }

  static double worst_relative_error(Function function, const std::vector<float>& from, double (*exact)(double)) {
    const std::vector<float> got = apply(function, from);
    double worst = 0;
    for (std::size_t i = 0; i < from.size(); ++i) {
      const double expected = exact(from[i]);
      if (std::fabs(expected) < 2.5e-38) continue;  // denormals count as zero
      worst = std::max(worst, std::fabs(got[i] - expected) / std::fabs(expected));
    }
    return worst;
  }
};

double exact_softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }
double exact_silu(double x) { return x / (1 + std::exp(-x)); }

TEST_P(CpuMath, Exp2IsAccurateOverItsRange) {
  for (const float range : {0.5f, 8.0f, 125.0f}) {
    const auto exact = [](double x) { return std::exp2(x); };
    EXPECT_LT(worst_relative_error(cpu::exp2, between(-range, range), exact), 2e-7) << range;
  }
}

TEST_P(CpuMath, Exp2KeepsTheDistanceOfADecayFromOne) {
  for (const float x : {-1e-3f, -1e-5f, -3e-7f}) {
    const double expected = std::exp2(static_cast<double>(x));
    EXPECT_NEAR(apply(cpu::exp2, x), expected, 6.1e-8) << x;
  }
  EXPECT_EQ(apply(cpu::exp2, 0.0f), 1.0f);
}

TEST_P(CpuMath, Exp2HandlesWhatLiesOutsideTheRange) {
  EXPECT_EQ(apply(cpu::exp2, {-127.0f, -150.0f, -1e4f, -1e30f, -kInf}), std::vector<float>(5, 0.0f));
  EXPECT_EQ(apply(cpu::exp2, {128.0f, 129.5f, 1e4f, 1e30f, kInf}), std::vector<float>(5, kInf));
  EXPECT_NEAR(apply(cpu::exp2, 127.75f) / std::exp2(127.75), 1.0, 2e-7);
  EXPECT_TRUE(std::isnan(apply(cpu::exp2, kNaN)));
  EXPECT_TRUE(std::isnan(apply(cpu::exp2, -kNaN)));
}

TEST_P(CpuMath, BoundedExp2GivesTheSameBits) {
  std::vector<float> from = between(-125.0f, 125.0f);
  for (int n = -125; n < 125; ++n) from.push_back(static_cast<float>(n) + 0.5f);  // as near to n as to n + 1
  EXPECT_EQ(apply(cpu::exp2, from), apply(cpu::exp2_bounded, from));
}

TEST_P(CpuMath, SoftplusIsAccurateEverywhere) {
  for (const float range : {1.0f, 25.0f, 87.0f}) {
    EXPECT_LT(worst_relative_error(cpu::softplus, between(-range, range), exact_softplus), 1e-6) << range;
  }
}

TEST_P(CpuMath, SoftplusIsTheIdentityAbove20AndZeroFarBelow) {
  const std::vector<float> large = {20.000002f, 88.0f, 1e4f, 3e38f, kInf};
  EXPECT_EQ(apply(cpu::softplus, large), large);
  EXPECT_EQ(apply(cpu::softplus, {-100.0f, -1e30f, -kInf}), std::vector<float>(3, 0.0f));
  EXPECT_TRUE(std::isnan(apply(cpu::softplus, kNaN)));
}

TEST_P(CpuMath, SiluIsAccurateEverywhere) {
  for (const float range : {1.0f, 20.0f, 82.0f}) {
    EXPECT_LT(worst_relative_error(cpu::silu, between(-range, range), exact_silu), 1e-6) << range;
  }
  EXPECT_EQ(apply(cpu::silu, {-1e4f, -1e30f, 0.0f}), std::vector<float>(3, 0.0f));
  EXPECT_EQ(apply(cpu::silu, {3e38f, kInf}), (std::vector<float>{3e38f, kInf}));
  EXPECT_TRUE(std::isnan(apply(cpu::silu, kNaN)));
  EXPECT_TRUE(std::isnan(apply(cpu::silu, -kInf)));  // -inf / inf, as in PyTorch
}

TEST_P(CpuMath, CosineAndSineOfAProductAreAccurateForManyTurns) {
  for (const float range : {0.1f, 3.0f, 1e3f, 1e6f}) {  // radians
    const std::vector<float> x = between(0, 1), rate = between(-range, range);
    std::vector<float> cos(x.size(), kNaN), sin(x.size(), kNaN);
    cpu::cos_sin(x.data(), rate.data(), cos.data(), sin.data(), x.size());
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double angle = static_cast<double>(x[i]) * static_cast<double>(rate[i]);  // exact
      worst = std::max({worst, std::fabs(cos[i] - std::cos(angle)), std::fabs(sin[i] - std::sin(angle))});
    }
    EXPECT_LT(worst, 2e-7) << range;
  }
}

TEST_P(CpuMath, CosineAndSineStayOnTheUnitCircleBeyondAllDigits) {
  const std::vector<float> x = {0.0f, 1.0f, 1e10f, 1e30f, 3e38f, kInf, kNaN}, rate = {5.0f, 0.0f, 1e5f, 7.0f, 1, 1, 1};
  std::vector<float> cos(x.size()), sin(x.size());
  cpu::cos_sin(x.data(), rate.data(), cos.data(), sin.data(), x.size());
  EXPECT_EQ(cos[0], 1.0f);
  EXPECT_EQ(sin[0], 0.0f);
  EXPECT_EQ(cos[1], 1.0f);
  EXPECT_EQ(sin[1], 0.0f);
  for (const std::size_t i : {2, 3, 4}) EXPECT_NEAR(cos[i] * cos[i] + sin[i] * sin[i], 1.0f, 1e-6f) << x[i];
  EXPECT_TRUE(std::isnan(cos[5]) && std::isnan(sin[5]));
  EXPECT_TRUE(std::isnan(cos[6]) && std::isnan(sin[6]));
}

TEST_P(CpuMath, Every16BitValueBecomesTheRightFloat) {
  std::vector<unsigned short> all(65536);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<unsigned short>(i);
  std::vector<float> halves(all.size()), brains(all.size());
  cpu::float16_to_float(all.data(), halves.data(), all.size());
  cpu::bfloat16_to_float(all.data(), brains.data(), all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto expected_half = static_cast<float>(cpu_tests::half_to_double(all[i], cpu_tests::kFloat16Format));
    const auto expected_brain = static_cast<float>(cpu_tests::half_to_double(all[i], cpu_tests::kBFloat16Format));
    const auto same = [](float a, float b) { return std::isnan(a) ? std::isnan(b) : !std::memcmp(&a, &b, 4); };
    ASSERT_TRUE(same(expected_half, halves[i])) << i;
    ASSERT_TRUE(same(expected_brain, brains[i])) << i;
  }
}

TEST_P(CpuMath, FloatsRoundToTheNearest16BitValue) {
  std::vector<float> from = {0.0f, -0.0f, kInf, -kInf, kNaN, 65504.0f, 65519.9f, 65520.0f, 1e30f, 3.4e38f, 1e-30f};
  for (unsigned bits = 0; bits < 0x7C00; bits += 7) {  // neighbours in fp16 and bf16, and the ties between them
    for (const auto format : {cpu_tests::kFloat16Format, cpu_tests::kBFloat16Format}) {
      const double a = cpu_tests::half_to_double(static_cast<std::uint16_t>(bits), format);
      const double b = cpu_tests::half_to_double(static_cast<std::uint16_t>(bits + 1), format);
      const auto tie = static_cast<float>((a + b) / 2);
      if (tie < 1.2e-38f) continue;
      from.insert(from.end(), {tie, -tie, std::nextafter(tie, kInf), std::nextafter(tie, 0.0f)});
    }
  }
  for (const float range : {1e-6f, 1.0f, 1e5f}) {
    const auto more = between(-range, range, 5001);
    from.insert(from.end(), more.begin(), more.end());
  }
  std::vector<unsigned short> halves(from.size()), brains(from.size());
  cpu::float_to_float16(from.data(), halves.data(), from.size());
  cpu::float_to_bfloat16(from.data(), brains.data(), from.size());
  const auto check = [&](const std::vector<unsigned short>& got, cpu_tests::HalfFormat format) {
    for (std::size_t i = 0; i < from.size(); ++i) {
      if (std::isnan(from[i])) {
        ASSERT_TRUE(std::isnan(cpu_tests::half_to_double(got[i], format)));
      } else {
        ASSERT_EQ(got[i], cpu_tests::double_to_half(from[i], format)) << from[i];
      }
    }
  };
  check(halves, cpu_tests::kFloat16Format);
  check(brains, cpu_tests::kBFloat16Format);
}

INSTANTIATE_TEST_SUITE_P(Every, CpuMath, testing::ValuesIn(cpu::supported_instruction_sets()),
                         [](const auto& set) { return set.param; });

TEST(CpuInstructionSets, AnUnknownOneIsRefusedAndTheBestIsTheDefault) {
  EXPECT_THROW(cpu::use_instruction_set("MMX"), mamba_scan::ArgumentError);
  EXPECT_EQ(cpu::instruction_set(), cpu::supported_instruction_sets().front());
}

}  // namespace
