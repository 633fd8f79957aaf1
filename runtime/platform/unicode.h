// UTF-8 is the runtime's only text encoding; UTF-16 exists at the Win32 calls alone.
#pragma once

#include <string>
#include <string_view>

#include "platform/export.h"

namespace mamba_scan::platform {

// What is not valid text becomes U+FFFD, one per offending byte or unit.
MAMBA_SCAN_API std::u16string to_utf16(std::string_view utf8);
MAMBA_SCAN_API std::string to_utf8(std::u16string_view utf16);

}  // namespace mamba_scan::platform
