#include <unistd.h>

#include <cstdlib>

#include "platform/environment.h"

namespace mamba_scan::platform {

std::optional<std::string> environment_variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::string(value);
}

void set_environment_variable(const std::string& name, const std::string& value) {
  if (value.empty()) {
    unsetenv(name.c_str());
  } else {
    setenv(name.c_str(), value.c_str(), 1);
  }
}

unsigned long process_id() { return static_cast<unsigned long>(getpid()); }

}  // namespace mamba_scan::platform
