#include <unistd.h>

#include "driver/device_nodes.h"

namespace mamba_scan::driver {

std::string unreadable_device_node() {
  for (const char* node : {"/dev/nvidiactl", "/dev/nvidia0", "/dev/nvmap", "/dev/nvhost-gpu", "/dev/dxg"}) {
    if (access(node, F_OK) == 0 && access(node, R_OK | W_OK) != 0) return node;
  }
  return "";
}

}  // namespace mamba_scan::driver
