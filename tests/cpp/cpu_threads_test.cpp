// The thread pool, and the scan used from several threads, from a forked process and beyond 2^31 elements.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

#include "cpu/thread_pool.h"
#include "cpu_scan_case.h"
#include "jit_test_support.h"
#include "platform/environment.h"
#include "thread_time.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace {

using namespace cpu_tests;
namespace cpu = mamba_scan::cpu;
using cpu::ThreadPool;

TEST(CpuThreadPool, EveryTaskRunsOnceAndSlotsAreNotShared) {
  for (const int threads : {1, 2, 3, 8}) {
    std::vector<std::atomic<int>> runs(1000), in_slot(static_cast<std::size_t>(threads));
    std::atomic<bool> shared{false};
    ThreadPool::shared().run(1000, threads, [&](long long task, int slot) {
      ASSERT_LT(slot, threads);
      if (in_slot[static_cast<std::size_t>(slot)]++ != 0) shared = true;
      ++runs[static_cast<std::size_t>(task)];
      --in_slot[static_cast<std::size_t>(slot)];
    });
    EXPECT_FALSE(shared);
    for (const auto& count : runs) EXPECT_EQ(count, 1);
  }
}

TEST(CpuThreadPool, TasksRunOnAsManyThreadsAsAskedFor) {
  std::atomic<int> arrived{0};
  ThreadPool::shared().run(4, 4, [&](long long, int) {  // returns only if four threads are in it at once
    ++arrived;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (arrived < 4 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(arrived, 4);
  });
}

TEST(CpuThreadPool, AnExceptionReachesTheCallerAndThePoolGoesOn) {
  for (const int threads : {1, 3}) {
    EXPECT_THROW(ThreadPool::shared().run(100, threads,
                                          [](long long task, int) {
                                            if (task == 17) throw std::runtime_error("task 17");
                                          }),
                 std::runtime_error);
    std::atomic<int> count{0};
    ThreadPool::shared().run(50, threads, [&](long long, int) { ++count; });
    EXPECT_EQ(count, 50);
  }
}

TEST(CpuThreadPool, NestedAndConcurrentRunsDoNotWaitForEachOther) {
  std::atomic<int> count{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 6; ++i) {
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 20; ++repeat) {
        ThreadPool::shared().run(
            5, 3, [&](long long, int) { ThreadPool::shared().run(4, 3, [&](long long, int) { ++count; }); });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(count, 6 * 20 * 5 * 4);
}

TEST(CpuThreadPool, TheEnvironmentLimitsThreadsAndNonsenseDoesNot) {
  const std::string name = "MAMBA_SCAN_NUM_THREADS";
  mamba_scan::platform::set_environment_variable(name, "");
  const int processors = cpu::thread_limit(0);
  EXPECT_GE(processors, 1);
  mamba_scan::platform::set_environment_variable(name, std::to_string(processors + 2));
  EXPECT_EQ(cpu::thread_limit(0), processors + 2);
  EXPECT_EQ(cpu::thread_limit(7), 7);
  for (const char* nonsense : {"0", "-3", "many", "2x", "99999999999"}) {
    const mamba_scan::test::LogCapture log;
    mamba_scan::platform::set_environment_variable(name, nonsense);
    EXPECT_EQ(cpu::thread_limit(0), processors) << nonsense;
    const auto warnings = log.at(mamba_scan::platform::LogLevel::kWarning);
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_NE(warnings[0].find(nonsense), std::string::npos) << warnings[0];
  }
  mamba_scan::platform::set_environment_variable(name, "");
}

TEST(CpuScanThreads, SeveralCallersAtOnceGetTheirOwnResults) {
  std::vector<Case> cases;
  for (int i = 0; i < 4; ++i) {
    // Both ways of dividing the work: over tiles of channels and over states.
    cases.emplace_back(Options{.seqlen = i % 2 ? 5000 : 200, .dim = i % 2 ? 6 : 150, .dstate = 16});
  }
  std::vector<Case> alone = cases;
  for (Case& scan : alone) cpu::selective_scan(scan.problem(), 1);
  std::vector<std::thread> callers;
  for (Case& scan : cases) {
    callers.emplace_back([&scan] {
      for (int repeat = 0; repeat < 5; ++repeat) cpu::selective_scan(scan.problem(), 3);
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (std::size_t i = 0; i < cases.size(); ++i) EXPECT_TRUE(alone[i].y.same_bytes(cases[i].y)) << i;
}

// Of the computing that scans on `threads` threads take, the share of the calling one; the smallest of some attempts,
// because a busy machine may give the others no time. Of many scans together: some systems count in steps of 16 ms.
double share_of_caller(Case& scan, int threads) {
  double share = 1;
  for (int attempt = 0; attempt < 10 && share > 0.8; ++attempt) {
    const double caller = mamba_scan::test::thread_cpu_ms(), all = mamba_scan::test::process_cpu_ms();
    for (int i = 0; i < 20; ++i) cpu::selective_scan(scan.problem(), threads);
    share = std::min(share, (mamba_scan::test::thread_cpu_ms() - caller) / (mamba_scan::test::process_cpu_ms() - all));
  }
  return share;
}

TEST(CpuScanThreads, PackedSequencesAreSharedOutWhateverTheirLengths) {
  const auto short_ones = [](int count) {
    std::vector<int> ends = {0};
    for (int i = 0; i < count; ++i) ends.push_back(ends.back() + 1 + i % 40);
    return ends;
  };
  Case many({.seqlen = short_ones(4000).back(), .dim = 16, .dstate = 16, .cu_seqlens = short_ones(4000)});
  EXPECT_LT(share_of_caller(many, 4), 0.8);
  std::vector<int> ends = short_ones(100);
  ends.push_back(ends.back() + 80000);  // and one that is nearly everything
  Case one({.seqlen = ends.back(), .dim = 16, .dstate = 16, .cu_seqlens = ends});
  EXPECT_LT(share_of_caller(one, 4), 0.8);
}

#if defined(__linux__)
TEST(CpuScanThreads, AForkedProcessScansToo) {
  Case scan({.seqlen = 300, .dim = 150, .dstate = 16});
  cpu::selective_scan(scan.problem(), 3);
  Case again(scan);
  again.y.poison();
  const pid_t child = fork();
  if (child == 0) {
    alarm(120);  // a deadlock ends the child with a signal
    cpu::selective_scan(again.problem(), 3);
    _exit(again.y.same_bytes(scan.y) ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(CpuScanOffsets, ElementsBeyond2To31AreReached) {
  // Two steps 2^31 + 64 elements apart: address space only, a few pages of it used.
  const Index stride = (Index{1} << 31) + 64;
  const std::size_t bytes = static_cast<std::size_t>(stride + 64) * 4;
  std::vector<float*> memory;
  for (int i = 0; i < 3; ++i) {
    void* block = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block == MAP_FAILED) GTEST_SKIP() << "no 26 GB of address space";
    memory.push_back(static_cast<float*>(block));
  }
  Case near({.seqlen = 2, .dim = 20, .dstate = 4, .softplus = true, .gate = false});
  cpu::selective_scan(near.problem(), 1);
  for (Index t = 0; t < 2; ++t) {
    for (Index d = 0; d < 20; ++d) {
      memory[0][t * stride + d] = static_cast<float>(near.u.get({0, t, d}));
      memory[1][t * stride + d] = static_cast<float>(near.delta.get({0, t, d}));
    }
  }
  SelectiveScanProblem far = near.problem();
  far.u = {memory[0], 0, stride, 1};
  far.delta = {memory[1], 0, stride, 1};
  far.y = {memory[2], 0, stride, 1};
  cpu::selective_scan(far, 1);
  for (Index t = 0; t < 2; ++t) {
    for (Index d = 0; d < 20; ++d) EXPECT_EQ(memory[2][t * stride + d], near.y.get({0, t, d}));
  }
  for (float* block : memory) munmap(block, bytes);
}
#endif

}  // namespace
