#include "driver/device_nodes.h"

namespace mamba_scan::driver {

std::string unreadable_device_node() { return ""; }  // Windows guards the GPU by other means

}  // namespace mamba_scan::driver
