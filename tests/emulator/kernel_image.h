// What one compiled kernel variant hands to the emulator.
#pragma once

namespace emulator {

struct KernelImage {
  const char* name;                  // as jit::Variant::name() writes it: "entry[MS_A=1,MS_B=2]"
  void (*invoke)(void** arguments);  // runs the kernel once, as the thread that the emulator has made current
  char* shared_begin;                // its static shared memory
  char* shared_end;
};

}  // namespace emulator
