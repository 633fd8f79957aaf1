// Environment variables as UTF-8.
#pragma once

#include <optional>
#include <string>

#include "platform/export.h"

namespace mamba_scan::platform {

// Unset and empty are the same: nothing.
MAMBA_SCAN_API std::optional<std::string> environment_variable(const std::string& name);

// For tests and for programs that pass settings on; an empty value removes the variable. Not thread safe.
MAMBA_SCAN_API void set_environment_variable(const std::string& name, const std::string& value);

MAMBA_SCAN_API unsigned long process_id();

}  // namespace mamba_scan::platform
