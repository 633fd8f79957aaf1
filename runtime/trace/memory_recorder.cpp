#include "trace/memory_recorder.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

namespace mamba_scan::trace {
namespace {

using Json = nlohmann::ordered_json;  // readers look at the first key of the file

constexpr int kFormatVersion = 1;
constexpr int kProcess = 1;
// Host rows of the timeline, a kind of event each.
constexpr int kCallRow = 1;
constexpr int kCompileRow = 2;
constexpr int kCopyRow = 3;
constexpr int kChunkRow = 4;
constexpr int kRows = 4;

// Three decimals, so that no number is ever printed with an exponent.
double microseconds(double value) { return std::round(value * 1000.0) / 1000.0; }

Json event(const char* category, const std::string& name, int row, double start_us, double duration_us, Json args) {
  return {{"ph", "X"},
          {"cat", category},
          {"name", name},
          {"pid", kProcess},
          {"tid", row},
          {"ts", microseconds(start_us)},
          {"dur", microseconds(duration_us)},
          {"args", std::move(args)}};
}

Json row_name(int row, const std::string& name) {
  return {{"ph", "M"}, {"name", "thread_name"}, {"pid", kProcess}, {"tid", row}, {"args", {{"name", name}}}};
}

Json to_event(const KernelLaunch& launch, std::size_t index) {
  Json args = {{"device", launch.device},   {"stream", launch.stream}, {"correlation", index},
               {"grid", launch.grid},       {"block", launch.block},   {"shared memory", launch.shared_bytes},
               {"variant", launch.variant}, {"shape", launch.shape},   {"dtype", launch.dtype},
               {"bytes", launch.bytes},     {"exps", launch.exps},     {"repeats", 1}};
  if (launch.registers >= 0) args["registers per thread"] = launch.registers;
  const bool timed = launch.device_duration_us >= 0;
  args["timing_source"] = timed ? "events" : "host";
  if (timed) args["device_duration_us"] = microseconds(launch.device_duration_us);
  return event("kernel_launch", launch.variant, kCallRow, launch.host_start_us, launch.host_duration_us,
               std::move(args));
}

Json to_event(const Compile& compile) {
  return event("compile", compile.variant, kCompileRow, compile.start_us, compile.duration_us,
               {{"variant", compile.variant},
                {"arch", compile.arch},
                {"outcome", compile.outcome},
                {"key", compile.key},
                {"compile_ms", microseconds(compile.compile_ms)},
                {"log", compile.log}});
}

Json to_event(const Copy& copy) {
  return event("copy", copy.direction, kCopyRow, copy.start_us, copy.duration_us, {{"bytes", copy.bytes}});
}

Json to_event(const Chunk& chunk) {
  return event("chunk", "chunk " + std::to_string(chunk.index), kChunkRow, chunk.start_us, chunk.duration_us,
               {{"chunk", chunk.index}, {"first_step", chunk.first_step}, {"steps", chunk.steps}});
}

// Events on one row must not overlap, and threads that compile or launch side by side do: as many rows as it takes.
void append(std::vector<Json> added, int row, const std::string& name, Json& events) {
  std::stable_sort(added.begin(), added.end(), [](const Json& a, const Json& b) { return a["ts"] < b["ts"]; });
  std::vector<double> ends(1, 0);  // of the last event of each row
  for (Json& event : added) {
    const double start = event["ts"];
    auto free = std::find_if(ends.begin(), ends.end(), [&](double end) { return end <= start; });
    if (free == ends.end()) free = ends.insert(ends.end(), 0);
    *free = start + event["dur"].get<double>();
    event["tid"] = row + kRows * (free - ends.begin());
  }
  for (std::size_t i = 0; i < ends.size(); ++i)
    events.push_back(row_name(row + kRows * static_cast<int>(i), i == 0 ? name : name + ", " + std::to_string(i + 1)));
  for (Json& event : added) events.push_back(std::move(event));
}

template <class Reports>
std::vector<Json> to_events(const Reports& reports) {
  std::vector<Json> events;
  for (const auto& report : reports) events.push_back(to_event(report));
  return events;
}

}  // namespace

MemoryRecorder::MemoryRecorder(bool device_times) : device_times_(device_times) {}

double MemoryRecorder::now_us() const {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start_).count();
}

void MemoryRecorder::kernel_launch(const KernelLaunch& launch) {
  const std::lock_guard lock(mutex_);
  kernel_launches_.push_back(launch);
}

void MemoryRecorder::compile(const Compile& compile) {
  const std::lock_guard lock(mutex_);
  compiles_.push_back(compile);
}

void MemoryRecorder::copy(const Copy& copy) {
  const std::lock_guard lock(mutex_);
  copies_.push_back(copy);
}

void MemoryRecorder::chunk(const Chunk& chunk) {
  const std::lock_guard lock(mutex_);
  chunks_.push_back(chunk);
}

std::vector<KernelLaunch> MemoryRecorder::kernel_launches() const {
  const std::lock_guard lock(mutex_);
  return kernel_launches_;
}

std::vector<Compile> MemoryRecorder::compiles() const {
  const std::lock_guard lock(mutex_);
  return compiles_;
}

std::vector<Copy> MemoryRecorder::copies() const {
  const std::lock_guard lock(mutex_);
  return copies_;
}

std::vector<Chunk> MemoryRecorder::chunks() const {
  const std::lock_guard lock(mutex_);
  return chunks_;
}

void MemoryRecorder::clear() {
  const std::lock_guard lock(mutex_);
  kernel_launches_ = {};
  compiles_ = {};
  copies_ = {};
  chunks_ = {};
}

std::string MemoryRecorder::to_json() const {
  Json events = Json::array();
  {
    const std::lock_guard lock(mutex_);
    std::vector<Json> launches;
    for (std::size_t i = 0; i < kernel_launches_.size(); ++i) launches.push_back(to_event(kernel_launches_[i], i));
    append(to_events(compiles_), kCompileRow, "host: compiles", events);
    append(to_events(copies_), kCopyRow, "host: copies", events);
    append(to_events(chunks_), kChunkRow, "host: streaming chunks", events);
    append(std::move(launches), kCallRow, "host: kernel launches", events);
  }
  Json document;
  document["displayTimeUnit"] = "ms";
  document["traceEvents"] = std::move(events);
  document["mambaScan"] = {{"format_version", kFormatVersion}};
  // Compile logs and device names come from outside: a stray byte must not cost the recording.
  return document.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace mamba_scan::trace
