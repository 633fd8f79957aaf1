// Time that the calling thread has spent computing.
#pragma once

#if defined(_WIN32)
#include <windows.h>
#else
#include <time.h>
#endif

namespace mamba_scan::test {

inline double thread_cpu_ms() {
#if defined(_WIN32)
  FILETIME created, ended, kernel, user;
  if (!GetThreadTimes(GetCurrentThread(), &created, &ended, &kernel, &user)) return 0;
  const auto ticks = [](const FILETIME& time) {  // of 100 ns
    return 4294967296.0 * time.dwHighDateTime + time.dwLowDateTime;
  };
  return (ticks(kernel) + ticks(user)) * 1e-4;
#else
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
#endif
}

}  // namespace mamba_scan::test
