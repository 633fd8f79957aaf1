// The in-memory recorder and its JSON.
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "trace/memory_recorder.h"
#include "trace/scoped_recording.h"

namespace mamba_scan::trace {
namespace {

using Json = nlohmann::json;

KernelLaunch example_launch() {
  KernelLaunch launch;
  launch.variant = "selective_scan_forward[MS_DTYPE=1]";
  launch.shape = "batch=1 seqlen=2048 dim=1536 dstate=16";
  launch.dtype = "float16";
  launch.device = 1;
  launch.stream = 7;
  launch.grid[0] = 96;
  launch.block[0] = 128;
  launch.shared_bytes = 4096;
  launch.registers = 40;
  launch.bytes = 1LL << 40;
  launch.exps = 123456789012;
  launch.host_start_us = 1234.56789;
  launch.host_duration_us = 0.00001;
  return launch;
}

Json first_of(const Json& document, const std::string& category) {
  for (const Json& event : document.at("traceEvents")) {
    if (event.value("cat", "") == category) return event;
  }
  throw std::runtime_error("no event of category " + category);
}

TEST(MemoryRecorder, KernelEventsCarryTheAgreedFieldNames) {
  MemoryRecorder recorder;
  recorder.kernel_launch(example_launch());
  const Json event = first_of(Json::parse(recorder.to_json()), "kernel_launch");
  const Json& args = event.at("args");
  EXPECT_EQ(event.at("ph"), "X");
  EXPECT_EQ(args.at("grid"), Json::parse("[96,1,1]"));
  EXPECT_EQ(args.at("block"), Json::parse("[128,1,1]"));
  EXPECT_EQ(args.at("registers per thread"), 40);
  EXPECT_EQ(args.at("shared memory"), 4096);
  EXPECT_EQ(args.at("stream"), 7);
  EXPECT_EQ(args.at("device"), 1);
  EXPECT_EQ(args.at("variant"), "selective_scan_forward[MS_DTYPE=1]");
  EXPECT_EQ(args.at("shape"), "batch=1 seqlen=2048 dim=1536 dstate=16");
  EXPECT_EQ(args.at("dtype"), "float16");
  EXPECT_EQ(args.at("bytes"), 1LL << 40);
  EXPECT_EQ(args.at("exps"), 123456789012);
  EXPECT_EQ(args.at("repeats"), 1);
  EXPECT_EQ(args.at("timing_source"), "host");
  EXPECT_EQ(args.at("correlation"), 0);
}

TEST(MemoryRecorder, WhatIsNotKnownIsAbsentNotMinusOne) {
  MemoryRecorder recorder;
  KernelLaunch launch = example_launch();
  launch.registers = -1;
  recorder.kernel_launch(launch);
  launch.device_duration_us = 12.5;
  recorder.kernel_launch(launch);
  const Json document = Json::parse(recorder.to_json());
  const Json& args = first_of(document, "kernel_launch").at("args");
  EXPECT_FALSE(args.contains("registers per thread"));
  EXPECT_FALSE(args.contains("device_duration_us"));
  const Json& timed = document.at("traceEvents").back().at("args");
  EXPECT_EQ(timed.at("device_duration_us"), 12.5);
  EXPECT_EQ(timed.at("timing_source"), "events");
}

TEST(MemoryRecorder, TheFileStartsAsTraceViewersExpect) {
  MemoryRecorder recorder;
  recorder.chunk({3, 6144, 2048, 10.0, 20.0});
  const std::string json = recorder.to_json();
  EXPECT_EQ(json.rfind("{\"displayTimeUnit\":", 0), 0u) << json.substr(0, 60);
  EXPECT_LT(json.find("\"traceEvents\""), json.find("\"mambaScan\""));
}

TEST(MemoryRecorder, TimesHaveThreeDecimalsAndNoExponent) {
  MemoryRecorder recorder;
  recorder.kernel_launch(example_launch());           // 1234.56789 us, 0.00001 us
  recorder.copy({"host_to_device", 1, 3.6e9, 1e-9});  // an hour in
  const std::string json = recorder.to_json();
  EXPECT_NE(json.find("\"ts\":1234.568"), std::string::npos) << json;
  EXPECT_NE(json.find("\"dur\":0.0"), std::string::npos) << json;
  EXPECT_NE(json.find("\"ts\":3600000000.0"), std::string::npos) << json;
  EXPECT_EQ(json.find("e-"), std::string::npos) << json;
  EXPECT_EQ(json.find("e+"), std::string::npos) << json;
}

TEST(MemoryRecorder, EveryKindOfReportIsKeptAndWritten) {
  MemoryRecorder recorder;
  recorder.compile({"v", "sm_90", "compiled", "abc123", 1, 2, 321.5, "ptxas info"});
  recorder.copy({"device_to_host", 4096, 5, 6});
  recorder.chunk({2, 4096, 2048, 7, 8});
  EXPECT_EQ(recorder.compiles().at(0).key, "abc123");
  EXPECT_EQ(recorder.copies().at(0).bytes, 4096);
  EXPECT_EQ(recorder.chunks().at(0).first_step, 4096);
  const Json document = Json::parse(recorder.to_json());
  EXPECT_EQ(first_of(document, "compile").at("args").at("outcome"), "compiled");
  EXPECT_EQ(first_of(document, "compile").at("args").at("compile_ms"), 321.5);
  EXPECT_EQ(first_of(document, "copy").at("name"), "device_to_host");
  EXPECT_EQ(first_of(document, "chunk").at("args").at("chunk"), 2);
}

TEST(MemoryRecorder, EventsThatOverlapAreOnRowsOfTheirOwn) {
  MemoryRecorder recorder;
  for (const auto& [start, duration] : {std::pair{10.0, 5.0}, {0.0, 12.0}, {1.0, 2.0}, {4.0, 3.0}, {12.0, 1.0}})
    recorder.compile({"v", "sm_90", "compiled", "abc123", start, duration, 1, ""});
  std::map<double, int> rows;  // by start
  std::map<int, std::string> names;
  const Json document = Json::parse(recorder.to_json());
  for (const Json& event : document.at("traceEvents")) {
    if (event.value("cat", "") == "compile") rows[event.at("ts")] = event.at("tid");
    if (event.at("ph") == "M") names[event.at("tid")] = event.at("args").at("name");
  }
  EXPECT_EQ(rows[0], rows[12]);
  EXPECT_EQ(rows[1], rows[4]);
  EXPECT_EQ(rows[1], rows[10]);
  EXPECT_NE(rows[0], rows[1]);
  EXPECT_EQ(names[rows[0]], "host: compiles");
  EXPECT_EQ(names[rows[1]], "host: compiles, 2");
  EXPECT_EQ(names.size(), 5u) << "rows of other kinds are others";
}

TEST(MemoryRecorder, AStrayByteInALogDoesNotCostTheRecording) {
  MemoryRecorder recorder;
  recorder.compile({"v", "sm_90", "failed", "", 0, 0, 0, "caf\xe9 \"quoted\"\n"});
  EXPECT_TRUE(Json::accept(recorder.to_json()));
}

TEST(MemoryRecorder, ReportsFromManyThreadsAllArrive) {
  MemoryRecorder recorder;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&recorder, t] {
      for (int i = 0; i < 500; ++i) {
        KernelLaunch launch;
        launch.device = t;
        launch.stream = static_cast<std::uintptr_t>(i);
        recorder.kernel_launch(launch);
        if (i % 250 == 0) {
          EXPECT_TRUE(Json::accept(recorder.to_json()));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<int> per_thread(4, 0);
  for (const KernelLaunch& launch : recorder.kernel_launches()) ++per_thread[static_cast<std::size_t>(launch.device)];
  EXPECT_EQ(per_thread, std::vector<int>(4, 500));
}

TEST(MemoryRecorder, ItsClockRunsForwardFromZero) {
  const MemoryRecorder recorder(true);
  EXPECT_TRUE(recorder.wants_device_times());
  EXPECT_FALSE(MemoryRecorder().wants_device_times());
  const double first = recorder.now_us();
  EXPECT_GE(first, 0.0);
  EXPECT_LT(first, 1e6);
  EXPECT_GE(recorder.now_us(), first);
}

struct Host {
  Recorder* recorder = nullptr;
  Recorder* exchange_recorder(Recorder* next) { return std::exchange(recorder, next); }
};

TEST(ScopedRecording, ThePreviousRecorderComesBackAlsoAfterAnException) {
  Host host;
  MemoryRecorder outer, inner;
  const ScopedRecording<Host> keep(host, outer);
  try {
    const ScopedRecording<Host> scope(host, inner);
    EXPECT_EQ(host.recorder, &inner);
    throw std::runtime_error("stop");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(host.recorder, &outer);
}

}  // namespace
}  // namespace mamba_scan::trace
