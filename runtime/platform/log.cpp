#include "platform/log.h"

#include <mutex>
#include <set>
#include <utility>

#include "platform/environment.h"

namespace mamba_scan::platform {
namespace {

struct LogState {
  std::mutex mutex;
  LogSink sink;
  std::set<std::string> said;
  LogLevel threshold = parse_log_level(environment_variable("MAMBA_SCAN_LOG").value_or(""));
};

// Never destroyed: threads may still speak while the process ends.
LogState& state() {
  static LogState* instance = new LogState;
  return *instance;
}

const char* level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    default:
      return "error";
  }
}

}  // namespace

LogLevel parse_log_level(std::string_view text) {
  if (text == "debug") return LogLevel::kDebug;
  if (text == "info") return LogLevel::kInfo;
  if (text == "error") return LogLevel::kError;
  if (text == "off") return LogLevel::kOff;
  return LogLevel::kWarning;
}

void log(LogLevel level, const std::string& message) {
  LogState& log_state = state();
  LogSink sink;
  {
    std::lock_guard lock(log_state.mutex);
    sink = log_state.sink;  // called outside the lock: a sink may log, or take a lock of its own (Python's)
  }
  if (sink) {
    sink(level, message);
  } else if (level >= log_state.threshold && level != LogLevel::kOff) {
    write_error_stream(std::string("mamba_scan: ") + level_name(level) + ": " + message + "\n");
  }
}

void warn_once(const std::string& key, const std::string& message) {
  {
    std::lock_guard lock(state().mutex);
    if (!state().said.insert(key).second) return;
  }
  log(LogLevel::kWarning, message);
}

LogSink set_log_sink(LogSink sink) {
  std::lock_guard lock(state().mutex);
  state().said.clear();
  return std::exchange(state().sink, std::move(sink));
}

}  // namespace mamba_scan::platform
