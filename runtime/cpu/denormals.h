// Treats denormal floats as zero for the lifetime of an object, in this thread. A state that decays towards zero
// spends thousands of steps among the denormals, where some x86 processors are a hundred times slower. Arm
// processors are not, so nothing changes there.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace mamba_scan::cpu {

class DenormalsAreZero {
 public:
#if defined(__x86_64__) || defined(_M_X64)
  DenormalsAreZero() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | kFlushToZero | kDenormalsAreZero); }
  ~DenormalsAreZero() { _mm_setcsr(saved_); }
#else
  DenormalsAreZero() {}
  ~DenormalsAreZero() {}
#endif
  DenormalsAreZero(const DenormalsAreZero&) = delete;
  DenormalsAreZero& operator=(const DenormalsAreZero&) = delete;

#if defined(__x86_64__) || defined(_M_X64)
 private:
  static constexpr unsigned kFlushToZero = 0x8000;
  static constexpr unsigned kDenormalsAreZero = 0x0040;
  unsigned saved_;
#endif
};

}  // namespace mamba_scan::cpu
