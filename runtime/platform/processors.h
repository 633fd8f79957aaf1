// How many threads make sense.
#pragma once

#include "platform/export.h"

namespace mamba_scan::platform {

// Processors that this process may run on (taskset, cpuset of a container, start /affinity), at least 1.
MAMBA_SCAN_API int usable_processors();

}  // namespace mamba_scan::platform
