// Reads what ptxas says with -v.
#pragma once

#include <string>
#include <string_view>

#include "jit/binary.h"

namespace mamba_scan::jit {

// Fills registers, shared_bytes, local_bytes and the spills of `info` from the log; what the log does not say stays
// -1. Registers, shared memory and stack are those of the kernel; spills are summed over the functions compiled
// for it too, since a device function that was not inlined spills under its own name.
void read_compile_log(std::string_view log, std::string_view entry, BinaryInfo* info);

}  // namespace mamba_scan::jit
