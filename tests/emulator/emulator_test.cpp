// The emulator itself: correct kernels give the right results, and each planted mistake is found and named.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "device.h"
#include "float16.h"
#include "planted_kernels.h"

namespace emulator {
namespace {

constexpr Order kOrders[] = {Order::kForward, Order::kReverse, Order::kShuffled, Order::kFirstWarpAlone,
                             Order::kLastWarpAlone};

Launch geometry(Dim3 grid, Dim3 block, std::size_t dynamic_shared = 0, Order order = Order::kForward) {
  Launch launch;
  launch.grid = grid, launch.block = block, launch.dynamic_shared_bytes = dynamic_shared, launch.order = order;
  return launch;
}

// Empty when the launch went well.
template <class... Arguments>
std::string error_of(Device& device, const KernelImage& kernel, const Launch& launch, Arguments... arguments) {
  void* pointers[] = {&arguments...};
  try {
    device.launch(kernel, launch, pointers);
  } catch (const EmulationError& error) {
    return error.what();
  }
  return "";
}

testing::AssertionResult mentions(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* word : words)
    if (text.find(word) == std::string::npos)
      return testing::AssertionFailure() << "'" << word << "' is missing in: " << text;
  return testing::AssertionSuccess();
}

#define NEEDS_INSTRUMENTED_ACCESSES \
  if (!sees_accesses()) GTEST_SKIP() << "this build checks memory with AddressSanitizer, which ends the process"

// Of numbers that 16 bits hold, the finest of which are fp16's: both functions are near enough that rounding to 16 bits
// hides it, everywhere, at the ends of lines and of the table, too.
TEST(ActivationTable, IsWithinAFractionOfWhat16BitsRound) {
  constexpr int kAll = 0xfc00 + 1;  // with both infinities, and one NaN
  constexpr double kInf = std::numeric_limits<double>::infinity();
  Device device;
  auto* in = device.allocate<float>("in", kAll, Access::kReadOnly);
  auto* softplus = device.allocate<float>("softplus", kAll);
  auto* sigmoid = device.allocate<float>("sigmoid", kAll);
  int count = 0;
  for (int bits = 0; bits <= 0xfc00; ++bits)
    if (const double x = float16_value(static_cast<unsigned short>(bits)); !std::isnan(x))
      in[count++] = static_cast<float>(x);
  ASSERT_EQ(count, 2 * 0x7c01);
  in[count++] = std::numeric_limits<float>::quiet_NaN();
  ASSERT_EQ(error_of(device, kTabulate, geometry({1}, {96}), in, softplus, sigmoid, count), "");
  double worst_softplus = 0, worst_sigmoid = 0;
  for (int i = 0; i < count; ++i) {
    const double x = in[i];
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(softplus[i]));
      EXPECT_EQ(sigmoid[i], 0.0f);
      continue;
    }
    if (x == -kInf) {
      EXPECT_EQ(softplus[i], 0.0f);
      continue;
    }
    if (x == kInf) {
      EXPECT_EQ(softplus[i], static_cast<float>(kInf));
      EXPECT_EQ(sigmoid[i], 1.0f);
      continue;
    }
    if (x < -21.9) {
      EXPECT_LT(std::fabs(softplus[i]), 4e-10) << x;
      EXPECT_LT(std::fabs(sigmoid[i]), 4e-10) << x;
      continue;
    }
    const double exact_softplus = std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x)));
    worst_softplus = std::max(worst_softplus, std::fabs(softplus[i] / exact_softplus - 1));
    worst_sigmoid = std::max(worst_sigmoid, std::fabs(sigmoid[i] * (1 + std::exp(-x)) - 1));
  }
  EXPECT_LT(worst_softplus, 7e-5);
  EXPECT_LT(worst_sigmoid, 7e-5);
}

TEST(Emulator, SumsOverABlockInEveryOrder) {
  for (const Order order : kOrders) {
    Device device;
    float* in = device.allocate<float>("in", 512, Access::kReadOnly);
    float* out = device.allocate<float>("out", 2);
    std::iota(in, in + 512, 0.0f);
    ASSERT_EQ(error_of(device, kBlockSum, geometry({2}, {256}, 0, order), in, out), "");
    EXPECT_EQ(out[0], 255 * 256 / 2);
    EXPECT_EQ(out[1], 255 * 256 / 2 + 256 * 256);
  }
}

TEST(Emulator, TransposesWithRaggedTiles) {
  Device device;
  constexpr int kRows = 19, kColumns = 37;
  float* in = device.allocate<float>("in", kRows * kColumns, Access::kReadOnly);
  float* out = device.allocate<float>("out", kRows * kColumns);
  std::iota(in, in + kRows * kColumns, 0.0f);
  ASSERT_EQ(error_of(device, kTranspose, geometry({3, 2}, {16, 16}, 0, Order::kShuffled), in, out, kRows, kColumns),
            "");
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kColumns; ++c) ASSERT_EQ(out[c * kRows + r], in[r * kColumns + c]);
}

TEST(Emulator, ButterfliesMoveDoubles) {
  Device device;
  double* in = device.allocate<double>("in", 96, Access::kReadOnly);
  double* out = device.allocate<double>("out", 3);
  for (int i = 0; i < 96; ++i) in[i] = i + 0.25;
  ASSERT_EQ(error_of(device, kWarpSums, geometry({1}, {96}, 0, Order::kReverse), in, out), "");
  EXPECT_EQ(out[0], 31 * 16 + 8.0);
  EXPECT_EQ(out[1], 31 * 16 + 32 * 32 + 8.0);
  EXPECT_EQ(out[2], 31 * 16 + 64 * 32 + 8.0);
}

TEST(Emulator, ShufflesFollowTheirSegments) {
  Device device;
  int* out = device.allocate<int>("out", 160);
  ASSERT_EQ(error_of(device, kShuffles, geometry({1}, {32}, 0, Order::kShuffled), out), "");
  for (int lane = 0; lane < 32; ++lane) {
    EXPECT_EQ(out[lane], 5);
    EXPECT_EQ(out[32 + lane], lane % 8 >= 3 ? lane - 3 : lane);
    EXPECT_EQ(out[64 + lane], lane % 8 < 5 ? lane + 3 : lane);
    EXPECT_EQ(out[96 + lane], (lane ^ 9) < lane / 8 * 8 + 8 ? lane ^ 9 : lane);
    EXPECT_EQ(out[128 + lane], lane % 2 == 0 ? 30 : 31);
  }
}

TEST(Emulator, VotesCountTheMaskOnly) {
  Device device;
  unsigned* out = device.allocate<unsigned>("out", 7);
  ASSERT_EQ(error_of(device, kVotes, geometry({1}, {32}), out), "");
  EXPECT_EQ(out[0], 0x00249249u);
  EXPECT_EQ(out[1], 1u);
  EXPECT_EQ(out[2], 0u);
  EXPECT_EQ(out[3], 1u);
  EXPECT_EQ(out[4], 0u);
  EXPECT_EQ(out[5], 0x0000ff00u);
  EXPECT_EQ(out[6], 23u * 24 / 2);
}

TEST(Emulator, AtomicsOfManyBlocksAddUp) {
  Device device;
  int* in = device.allocate<int>("in", 256, Access::kReadOnly);
  int* counts = device.allocate<int>("counts", 7);
  float* total = device.allocate<float>("total", 1);
  auto* first = device.allocate<unsigned long long>("first", 1);
  for (int i = 0; i < 256; ++i) in[i] = i % 7;
  std::fill(counts, counts + 7, 0);
  total[0] = 0;
  ASSERT_EQ(error_of(device, kHistogram, geometry({4}, {64}), in, counts, total, first), "");
  for (int i = 0; i < 7; ++i) EXPECT_EQ(counts[i], 256 / 7 + (i < 256 % 7));
  EXPECT_EQ(total[0], 128.0f);
  EXPECT_EQ(first[0], 7u);
}

TEST(Emulator, DynamicSharedMemoryHasTheSizeAskedFor) {
  Device device;
  int* data = device.allocate<int>("data", 96);
  std::iota(data, data + 96, 0);
  ASSERT_EQ(error_of(device, kDynamicReverse, geometry({1}, {96}, 96 * sizeof(int)), data), "");
  for (int i = 0; i < 96; ++i) EXPECT_EQ(data[i], 95 - i);
  EXPECT_EQ(error_of(device, kDynamicOverflow, geometry({1}, {96}, 97 * sizeof(int)), data), "");
}

TEST(Emulator, NamedBarriersOrderOnlyTheirThreads) {
  for (const Order order : kOrders) {
    Device device;
    int* out = device.allocate<int>("out", 192);
    ASSERT_EQ(error_of(device, kNamedBarriers, geometry({1}, {128}, 0, order), out), "");
    for (int i = 0; i < 192; ++i) EXPECT_EQ(out[i], i % 96 / 32 * 100 + 31 - i % 32);
  }
}

TEST(Emulator, EventsOrderThoseThatSignalBeforeThoseThatWait) {
  for (const Order order : kOrders) {
    Device device;
    int* out = device.allocate<int>("out", 320);
    ASSERT_EQ(error_of(device, kEvents, geometry({1}, {96}, 0, order), out), "");
    for (int i = 0; i < 320; ++i) EXPECT_EQ(out[i], i % 160 / 32 * 100 + 31 - i % 32);
  }
}

TEST(Emulator, BulkCopiesArriveWithTheirEvent) {
  for (const Order order : kOrders) {
    Device device;
    int* in = device.allocate<int>("in", 64, Access::kReadOnly);
    int* out = device.allocate<int>("out", 64);
    std::iota(in, in + 64, 0);
    ASSERT_EQ(error_of(device, kBulkCopies, geometry({1}, {64}, 0, order), in, out), "");
    for (int i = 0; i < 64; ++i) EXPECT_EQ(out[i], i + 1);
  }
}

TEST(Emulator, WaitingLoopsLetOthersRun) {
  for (const Order order : kOrders) {
    Device device;
    int* flag = device.allocate<int>("flag", 1);
    int* out = device.allocate<int>("out", 1);
    flag[0] = 0;
    ASSERT_EQ(error_of(device, kWaitForFlag, geometry({1}, {64}, 0, order), flag, out), "");
    EXPECT_EQ(out[0], 1);
  }
}

// What came of it: numbers that the first of two warps, of so many blocks, hands to the second.
std::string error_of_hand_over(unsigned blocks, Order order, int mistake, std::vector<int>& numbers) {
  Device device;
  auto* flag = device.allocate<unsigned>("flag", 1);
  int* between = device.allocate<int>("numbers", 32);
  int* out = device.allocate<int>("out", 32);
  flag[0] = 0;
  Launch launch = geometry({blocks}, {64 / blocks}, 0, order);
  launch.blocks_in_order = true;
  std::string error = error_of(device, kHandOver, launch, flag, between, out, mistake);
  numbers.assign(out, out + 32);
  return error;
}

TEST(Emulator, WarpsHandOverByAFlag) {
  for (const unsigned blocks : {1u, 2u})
    for (const Order order : kOrders) {
      std::vector<int> numbers;
      ASSERT_EQ(error_of_hand_over(blocks, order, 0, numbers), "");
      for (int i = 0; i < 32; ++i) EXPECT_EQ(numbers[static_cast<std::size_t>(i)], 3 * (31 - i));
    }
}

TEST(Emulator, NumbersThreadsAndBlocksInThreeDimensions) {
  Device device;
  int* out = device.allocate<int>("out", 2 * 3 * 2 * 4 * 3 * 2);
  ASSERT_EQ(error_of(device, kIndices, geometry({2, 3, 2}, {4, 3, 2}), out), "");
  for (int block = 0; block < 12; ++block)
    for (int thread = 0; thread < 24; ++thread) EXPECT_EQ(out[block * 24 + thread], block * 1000 + thread);
}

TEST(Emulator, OneBarrierPerTileIsEnoughForADoubleBuffer) {
  Device device;
  int* in = device.allocate<int>("in", 5 * 64, Access::kReadOnly);
  int* out = device.allocate<int>("out", 5 * 64);
  std::iota(in, in + 5 * 64, 0);
  ASSERT_EQ(error_of(device, kPipeline, geometry({1}, {64}, 0, Order::kShuffled), in, out, 5), "");
  for (int i = 0; i < 5 * 64; ++i) EXPECT_EQ(out[i], i / 64 * 64 + 63 - i % 64);
}

TEST(Emulator, UnwrittenSharedMemoryIsNotANumber) {
  Device device;
  float* out = device.allocate<float>("out", 64);
  std::fill(out, out + 64, 0.0f);
  ASSERT_EQ(error_of(device, kReadsPoison, geometry({1}, {64}), out), "");
  for (int i = 0; i < 64; ++i) EXPECT_TRUE(std::isnan(out[i]));
}

TEST(Emulator, AsynchronousCopiesArriveWhenWaitedFor) {
  for (const Order order : kOrders) {
    Device device;
    float* in = device.allocate<float>("in", 5 * 128, Access::kReadOnly);
    float* out = device.allocate<float>("out", 5 * 128);
    std::iota(in, in + 5 * 128, 0.0f);
    ASSERT_EQ(error_of(device, kAsyncCopies, geometry({1}, {32}, 0, order), in, out, 5, 0), "");
    for (int i = 0; i < 5 * 128; ++i) ASSERT_EQ(out[i], static_cast<float>(i / 128 * 128 + 127 - i % 128));
  }
}

// 65536 patterns each way: all 16-bit numbers; random fp32 patterns, and all numbers halfway between two fp16 ones.
TEST(Emulator, ConversionsRoundToNearestEven) {
  constexpr unsigned kCount = 65536;
  Device device;
  auto* bits = device.allocate<unsigned short>("bits", kCount, Access::kReadOnly);
  auto* values = device.allocate<float>("values", kCount, Access::kReadOnly);
  auto* from_half = device.allocate<float>("from_half", kCount);
  auto* from_bfloat = device.allocate<float>("from_bfloat", kCount);
  auto* to_half = device.allocate<unsigned short>("to_half", kCount);
  auto* to_bfloat = device.allocate<unsigned short>("to_bfloat", kCount);
  std::mt19937 random(5);
  const auto same = [](double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); };
  for (const bool halfway : {false, true}) {
    for (unsigned i = 0; i < kCount; ++i) {
      bits[i] = static_cast<unsigned short>(i);
      const auto half = [](unsigned pattern) { return float16_value(static_cast<unsigned short>(pattern)); };
      const auto pattern = static_cast<unsigned>(random());
      std::memcpy(&values[i], &pattern, 4);
      if (halfway) values[i] = static_cast<float>((half(i) + half(i + (i % 0x8000u < 0x7bffu))) / 2);
    }
    ASSERT_EQ(error_of(device, kConvert, geometry({kCount / 256}, {256}), bits, from_half, from_bfloat, values, to_half,
                       to_bfloat),
              "");
    for (unsigned i = 0; i < kCount; ++i) {
      ASSERT_TRUE(same(from_half[i], float16_value(bits[i]))) << i;
      ASSERT_TRUE(same(from_bfloat[i], bfloat16_value(bits[i]))) << i;
      if (std::isnan(values[i])) {
        ASSERT_TRUE(std::isnan(float16_value(to_half[i])) && std::isnan(bfloat16_value(to_bfloat[i]))) << i;
        continue;
      }
      ASSERT_EQ(to_half[i], nearest_float16(values[i])) << values[i];
      ASSERT_EQ(to_bfloat[i], nearest_bfloat16(values[i])) << values[i];
    }
  }
}

TEST(PlantedMistake, MissingBarrierIsFoundInEveryOrder) {
  std::vector<float> results[std::size(kOrders)];
  for (const Order order : kOrders) {
    Device device;
    float* out = device.allocate<float>("out", 64);
    const std::string error = error_of(device, kMissingBarrier, geometry({1}, {64}, 0, order), out);
    results[static_cast<int>(order)].assign(out, out + 64);
    if (!sees_accesses()) continue;
    EXPECT_TRUE(mentions(error, {"missing_barrier", "race in static shared memory", "no barrier between"}));
  }
  // Without instrumentation the results give it away.
  if (sees_accesses()) return;
  EXPECT_NE(0, std::memcmp(results[0].data(), results[1].data(), 64 * sizeof(float)));
}

TEST(PlantedMistake, ShuffleInPlaceOfWarpBarrierIsARace) {
  NEEDS_INSTRUMENTED_ACCESSES;
  Device device;
  int* out = device.allocate<int>("out", 32);
  EXPECT_TRUE(
      mentions(error_of(device, kMissingWarpBarrier, geometry({1}, {32}), out), {"race in static shared memory"}));
}

TEST(PlantedMistake, TwoBlocksWritingOneElementIsARace) {
  NEEDS_INSTRUMENTED_ACCESSES;
  Device device;
  int* out = device.allocate<int>("out", 1);
  EXPECT_TRUE(mentions(error_of(device, kBlocksRace, geometry({2}, {32}), out),
                       {"race in out at byte 0", "block 0 wrote it", "block 1 writes it"}));
  EXPECT_EQ(error_of(device, kBlocksRace, geometry({1}, {32}), out), "");
}

TEST(PlantedMistake, AtomicBesidePlainWriteIsARace) {
  NEEDS_INSTRUMENTED_ACCESSES;
  Device device;
  int* out = device.allocate<int>("out", 1);
  EXPECT_TRUE(
      mentions(error_of(device, kAtomicAndPlain, geometry({1}, {32}), out), {"race in out", "thread 0 wrote it"}));
}

TEST(PlantedMistake, LeavingBeforeABarrierIsDivergence) {
  Device device;
  int* out = device.allocate<int>("out", 32);
  EXPECT_TRUE(mentions(
      error_of(device, kLeavesBeforeBarrier, geometry({1}, {32}), out),
      {"divergence", "thread 7 left the kernel", "threads 0-6,8-31 waits at barrier 0", "planted_kernels.cpp:"}));
}

TEST(PlantedMistake, WaitingAtAnotherBarrierIsDivergence) {
  Device device;
  int* out = device.allocate<int>("out", 64);
  EXPECT_TRUE(mentions(error_of(device, kTwoBarriers, geometry({1}, {64}), out),
                       {"thread 32: barrier divergence", "thread 0 waits at planted_kernels.cpp:"}));
}

TEST(PlantedMistake, BarrierCountsMustAgree) {
  Device device;
  int* out = device.allocate<int>("out", 1);
  EXPECT_TRUE(mentions(error_of(device, kBarrierCounts, geometry({1}, {96}), out), {"for 96 threads", "for 64"}));
}

TEST(PlantedMistake, ArrivingTwiceIsFoundWhereAWarpRunsAhead) {
  Device device;
  int* out = device.allocate<int>("out", 32);
  EXPECT_TRUE(mentions(error_of(device, kArrivesTwice, geometry({1}, {64}, 0, Order::kFirstWarpAlone), out),
                       {"arrives at barrier 1", "a second time before the 64 threads have come"}));
}

TEST(PlantedMistake, NotWaitingForAnEventIsARace) {
  NEEDS_INSTRUMENTED_ACCESSES;
  Device device;
  int* out = device.allocate<int>("out", 32);
  EXPECT_TRUE(
      mentions(error_of(device, kEventNotWaitedFor, geometry({1}, {64}), out), {"race in static shared memory"}));
}

TEST(PlantedMistake, WaitingForAnEventThatNeverHappensEnds) {
  Device device;
  int* out = device.allocate<int>("out", 32);
  EXPECT_TRUE(mentions(error_of(device, kEventNeverHappens, geometry({1}, {32}), out),
                       {"wait in a loop for ever", "waits for an event at planted_kernels.cpp:"}));
}

TEST(PlantedMistake, ReadingScratchMemoryThatNobodyHasWrittenIsNamed) {
  NEEDS_INSTRUMENTED_ACCESSES;
  Device device;
  float* in = device.allocate<float>("sums", 512, Access::kScratch);
  float* out = device.allocate<float>("out", 2, Access::kScratch);
  EXPECT_TRUE(mentions(error_of(device, kBlockSum, geometry({2}, {256}), in, out),
                       {"read of 4 bytes in sums at byte 0, which nobody has written"}));
}

TEST(Emulator, ScratchMemoryThatWasWrittenCanBeRead) {
  Device device;
  float* in = device.allocate<float>("in", 512, Access::kReadOnly);
  float* sums = device.allocate<float>("sums", 256, Access::kScratch);
  float* out = device.allocate<float>("out", 1, Access::kScratch);
  std::iota(in, in + 512, 0.0f);
  for (int i = 0; i < 256; ++i) ASSERT_EQ(error_of(device, kBlockSum, geometry({1}, {2}), in + 2 * i, sums + i), "");
  ASSERT_EQ(error_of(device, kBlockSum, geometry({1}, {256}), sums, out), "");
  EXPECT_EQ(out[0], 511 * 512 / 2);
}

TEST(PlantedMistake, BulkCopiesNotWaitedForAreNotThere) {
  Device device;
  int* in = device.allocate<int>("in", 32, Access::kReadOnly);
  int* out = device.allocate<int>("out", 32);
  std::iota(in, in + 32, 0);
  ASSERT_EQ(error_of(device, kBulkCopyNotWaitedFor, geometry({1}, {32}), in, out), "");
  for (int i = 0; i < 32; ++i) EXPECT_NE(out[i], in[i]);
}

TEST(PlantedMistake, BulkCopiesOfTooFewBytesAreWaitedForForEver) {
  Device device;
  int* in = device.allocate<int>("in", 32, Access::kReadOnly);
  int* out = device.allocate<int>("out", 32);
  EXPECT_TRUE(mentions(error_of(device, kBulkCopyOfTooFewBytes, geometry({1}, {32}), in, out),
                       {"wait in a loop for ever", "waits for an event at planted_kernels.cpp:"}));
}

TEST(PlantedMistake, WritingWhatABulkStoreStillReadsIsARace) {
  NEEDS_INSTRUMENTED_ACCESSES;
  Device device;
  int* in = device.allocate<int>("in", 32, Access::kReadOnly);
  int* out = device.allocate<int>("out", 32);
  EXPECT_TRUE(
      mentions(error_of(device, kBulkStoreOvertaken, geometry({1}, {32}), in, out), {"race in static shared memory"}));
}

TEST(PlantedMistake, WhatIsNoEventIsNamed) {
  Device device;
  int* out = device.allocate<int>("out", 1);
  EXPECT_TRUE(mentions(error_of(device, kNotAnEvent, geometry({1}, {1}), out),
                       {"uses what is not an event at planted_kernels.cpp:"}));
}

TEST(PlantedMistake, LanesOfTheMaskThatDoNotComeAreNamed) {
  Device device;
  int* out = device.allocate<int>("out", 32);
  EXPECT_TRUE(
      mentions(error_of(device, kLaneMissing, geometry({1}, {32}), out),
               {"threads 0-15 waits in __shfl_xor_sync", "mask 0xffffffff", "threads 16-31 waits at barrier 0"}));
  EXPECT_TRUE(mentions(error_of(device, kLaneLeft, geometry({1}, {32}, 0, Order::kReverse), out),
                       {"names lane 31, which has left the kernel"}));
  EXPECT_TRUE(mentions(error_of(device, kShuffles, geometry({1}, {16}), out), {"names lane 16, which does not exist"}));
}

TEST(PlantedMistake, MasksMustHoldTheLaneAndItsSource) {
  Device device;
  int* out = device.allocate<int>("out", 32);
  EXPECT_TRUE(mentions(error_of(device, kNotInOwnMask, geometry({1}, {32}, 0, Order::kReverse), out),
                       {"lane 31 is not in its own mask 0x0000ffff"}));
  EXPECT_TRUE(mentions(error_of(device, kReadsOutsideMask, geometry({1}, {32}), out),
                       {"reads lane 20, which is not in mask 0x0000ffff"}));
}

TEST(PlantedMistake, StrayAccessesNameTheBuffer) {
  NEEDS_INSTRUMENTED_ACCESSES;
  Device device;
  int* out = device.allocate<int>("out", 5);
  int* in = device.allocate<int>("in", 5, Access::kReadOnly);
  std::fill(in, in + 5, 3);
  const Launch one = geometry({1}, {1});
  EXPECT_TRUE(
      mentions(error_of(device, kOutOfBounds, one, out, in, 5, 0), {"write of 4 bytes outside out: at byte 20 of 20"}));
  EXPECT_TRUE(
      mentions(error_of(device, kOutOfBounds, one, out, in, 5, 1), {"read of 4 bytes outside in: at byte -4 of 20"}));
  EXPECT_TRUE(mentions(error_of(device, kOutOfBounds, one, out, in, 5, 2), {"in at byte 0, which is read-only"}));
  EXPECT_EQ(in[0], 3);
}

TEST(PlantedMistake, OverflowOfDynamicSharedMemoryIsFound) {
  NEEDS_INSTRUMENTED_ACCESSES;
  Device device;
  int* out = device.allocate<int>("out", 96);
  EXPECT_TRUE(mentions(error_of(device, kDynamicOverflow, geometry({1}, {96}, 96 * sizeof(int)), out),
                       {"outside dynamic shared memory: at byte 384 of 384"}));
}

TEST(PlantedMistake, WildPointerIsFoundBeforeItIsFollowed) {
  NEEDS_INSTRUMENTED_ACCESSES;
  Device device;
  int* out = device.allocate<int>("out", 1);
  int** pointers = device.allocate<int*>("pointers", 1);
  pointers[0] = reinterpret_cast<int*>(std::uintptr_t{4096});
  EXPECT_TRUE(mentions(error_of(device, kWildPointer, geometry({1}, {1}), pointers, out),
                       {"0x1000, which is in no buffer and no shared memory"}));
}

TEST(PlantedMistake, LocalVariablesAreNotShared) {
  NEEDS_INSTRUMENTED_ACCESSES;
  Device device;
  int* out = device.allocate<int>("out", 32);
  EXPECT_TRUE(
      mentions(error_of(device, kOthersLocal, geometry({1}, {32}), out), {"touches a local variable of thread"}));
}

TEST(PlantedMistake, MisalignedVectorIsFound) {
  Device device;
  float* in = device.allocate<float>("in", 8, Access::kReadOnly);
  float* out = device.allocate<float>("out", 4);
  EXPECT_TRUE(mentions(error_of(device, kMisaligned, geometry({1}, {1}), in, out), {"16 bytes is not aligned"}));
}

TEST(PlantedMistake, CopyNotWaitedForHasNotArrived) {
  Device device;
  float* in = device.allocate<float>("in", 128, Access::kReadOnly);
  float* out = device.allocate<float>("out", 128);
  std::iota(in, in + 128, 0.0f);
  ASSERT_EQ(error_of(device, kAsyncCopies, geometry({1}, {32}), in, out, 1, 1), "");
  for (int i = 0; i < 128; ++i) EXPECT_TRUE(std::isnan(out[i]));
}

TEST(PlantedMistake, CopyOfAnotherThreadNeedsABarrierOnBothSides) {
  for (const int mistake : {2, 3}) {
    Device device;
    float* in = device.allocate<float>("in", 3 * 128, Access::kReadOnly);
    float* out = device.allocate<float>("out", 3 * 128);
    NEEDS_INSTRUMENTED_ACCESSES;
    EXPECT_TRUE(mentions(error_of(device, kAsyncCopies, geometry({1}, {32}), in, out, 3, mistake),
                         {"race in static shared memory"}));
  }
}

TEST(PlantedMistake, FlagNeedsTheNumbersBeforeAndABarrierOnBothSides) {
  NEEDS_INSTRUMENTED_ACCESSES;
  for (const int mistake : {1, 2, 3})
    for (const Order order : kOrders) {
      std::vector<int> numbers;
      EXPECT_TRUE(mentions(error_of_hand_over(2, order, mistake, numbers),
                           {"race in numbers", "block 0 wrote it", "block 1 reads it"}))
          << "mistake " << mistake << ", order " << static_cast<int>(order);
      EXPECT_TRUE(mentions(error_of_hand_over(1, order, mistake, numbers), {"race in numbers", "with no barrier"}))
          << "mistake " << mistake << ", order " << static_cast<int>(order) << ", in one block";
    }
}

TEST(PlantedMistake, EndlessWaitEnds) {
  Device device;
  int* flag = device.allocate<int>("flag", 1);
  flag[0] = 0;
  EXPECT_TRUE(mentions(error_of(device, kWaitsForEver, geometry({1}, {1}), flag), {"wait in a loop for ever"}));
}

TEST(PlantedMistake, TrapNamesThreadAndBlock) {
  Device device;
  int* out = device.allocate<int>("out", 1);
  out[0] = 0;
  EXPECT_TRUE(
      mentions(error_of(device, kTrap, geometry({1}, {1}), out), {"trap, block (0, 0, 0): thread 0", "__trap()"}));
}

TEST(Device, RefusesLaunchesThatNoGpuTakes) {
  Device device;
  int* out = device.allocate<int>("out", 1);
  EXPECT_TRUE(mentions(error_of(device, kTrap, geometry({1}, {1025}), out), {"1025 threads"}));
  EXPECT_TRUE(mentions(error_of(device, kTrap, geometry({0}, {32}), out), {"0 blocks"}));
}

TEST(Device, FindsGuardsThatTheHostOverwrote) {
  NEEDS_INSTRUMENTED_ACCESSES;
  Device device;
  int* data = device.allocate<int>("some buffer", 3);
  data[3] = 0;
  EXPECT_THROW(device.check_guards(), EmulationError);
  device.free(data);
  EXPECT_NO_THROW(device.check_guards());
}

}  // namespace
}  // namespace emulator
