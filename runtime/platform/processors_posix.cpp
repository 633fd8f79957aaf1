#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "platform/processors.h"

namespace mamba_scan::platform {

// std::thread::hardware_concurrency() counts all that there are in glibc before 2.37, or all that are on line.
int usable_processors() {
  for (int most = 1024; most <= 1 << 20; most *= 4) {  // the call fails if the kernel knows more than fit
    cpu_set_t* const set = CPU_ALLOC(most);
    if (set == nullptr) break;
    const std::size_t bytes = CPU_ALLOC_SIZE(most);
    const bool known = sched_getaffinity(0, bytes, set) == 0;
    const bool too_small = !known && errno == EINVAL;
    const int count = known ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
    if (!too_small) break;
  }
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace mamba_scan::platform
