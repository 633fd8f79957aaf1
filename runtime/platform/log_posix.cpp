#include <cstdio>

#include "platform/log.h"

namespace mamba_scan::platform {

void write_error_stream(const std::string& utf8) {
  std::fwrite(utf8.data(), 1, utf8.size(), stderr);
  std::fflush(stderr);
}

}  // namespace mamba_scan::platform
