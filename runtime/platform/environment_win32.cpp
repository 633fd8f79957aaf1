#include "platform/environment.h"
#include "platform/win32.h"

namespace mamba_scan::platform {

std::optional<std::string> environment_variable(const std::string& name) {
  const std::wstring wide_name = to_wide(name);
  std::wstring value(256, L'\0');
  for (;;) {
    const DWORD length = GetEnvironmentVariableW(wide_name.c_str(), value.data(), static_cast<DWORD>(value.size()));
    if (length == 0) return std::nullopt;
    if (length < value.size()) {
      value.resize(length);
      return from_wide(value);
    }
    value.resize(length);
  }
}

void set_environment_variable(const std::string& name, const std::string& value) {
  const std::wstring wide_value = to_wide(value);
  SetEnvironmentVariableW(to_wide(name).c_str(), value.empty() ? nullptr : wide_value.c_str());
}

unsigned long process_id() { return GetCurrentProcessId(); }

}  // namespace mamba_scan::platform
