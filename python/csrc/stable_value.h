// Freeing what torch allocated to pass an optional argument.
#pragma once

#include <cstdint>

namespace mamba_scan::binding {

// torch makes the box with its own operator new, so it must go back to torch's heap, which on Windows need not be
// the heap of this library: torch uses the UCRT, a MinGW build msvcrt.
void free_stable_value(std::uint64_t* boxed);

}  // namespace mamba_scan::binding
