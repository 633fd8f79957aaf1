#include <algorithm>
#include <bit>
#include <thread>

#include "platform/processors.h"
#include "platform/win32.h"

namespace mamba_scan::platform {

// A mask speaks of one group of 64 processors: of a process in several groups it is 0.
int usable_processors() {
  DWORD_PTR process = 0, system = 0;
  if (GetProcessAffinityMask(GetCurrentProcess(), &process, &system) != 0 && process != 0 && process != system)
    return std::popcount(process);
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace mamba_scan::platform
