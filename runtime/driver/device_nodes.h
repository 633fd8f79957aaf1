// The operating system's files that stand for the GPU.
#pragma once

#include <string>

namespace mamba_scan::driver {

// A file of the GPU that exists but that this user may not open, e.g. "/dev/nvidiactl"; empty when there is none.
std::string unreadable_device_node();

}  // namespace mamba_scan::driver
