// A few words for the user, on the error stream unless someone listens. MAMBA_SCAN_LOG chooses how many:
// debug, info, warning (the default), error, off.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "platform/export.h"

namespace mamba_scan::platform {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

using LogSink = std::function<void(LogLevel, const std::string& message)>;

MAMBA_SCAN_API void log(LogLevel level, const std::string& message);

// Once per process and key.
MAMBA_SCAN_API void warn_once(const std::string& key, const std::string& message);

// Returns the previous sink; an empty one stands for the error stream. The sink receives every level, whatever
// MAMBA_SCAN_LOG says, and what warn_once has said before is forgotten.
MAMBA_SCAN_API LogSink set_log_sink(LogSink sink);

// "debug" ... "off"; anything else: the default.
LogLevel parse_log_level(std::string_view text);

// To the error stream, as text the terminal can show. (log_posix.cpp, log_win32.cpp)
void write_error_stream(const std::string& utf8);

}  // namespace mamba_scan::platform
