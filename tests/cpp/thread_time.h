// Time spent computing.
#pragma once

#if defined(_WIN32)
#include <windows.h>
#else
#include <time.h>
#endif

namespace mamba_scan::test {

#if defined(_WIN32)

// Of GetThreadTimes() or GetProcessTimes().
template <class Function, class Handle>
double cpu_ms(Function times_of, Handle handle) {
  FILETIME created, ended, kernel, user;
  if (!times_of(handle, &created, &ended, &kernel, &user)) return 0;
  const auto ticks = [](const FILETIME& time) {  // of 100 ns
    return 4294967296.0 * time.dwHighDateTime + time.dwLowDateTime;
  };
  return (ticks(kernel) + ticks(user)) * 1e-4;
}

inline double thread_cpu_ms() { return cpu_ms(GetThreadTimes, GetCurrentThread()); }
inline double process_cpu_ms() { return cpu_ms(GetProcessTimes, GetCurrentProcess()); }

#else

inline double cpu_ms(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

inline double thread_cpu_ms() { return cpu_ms(CLOCK_THREAD_CPUTIME_ID); }
inline double process_cpu_ms() { return cpu_ms(CLOCK_PROCESS_CPUTIME_ID); }

#endif

}  // namespace mamba_scan::test
