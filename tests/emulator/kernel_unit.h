// Turns a kernel's text into an emulated kernel. A unit defines, and then includes this:
//   EMULATED_UNIT    a name for this unit; kernels compiled with other constants live beside it in one program
//   EMULATED_SOURCE  the file below kernels/, as a string
//   EMULATED_ENTRY   the extern "C" kernel in it
//   EMULATED_NAME    jit::Variant::name(), as a string
// and the constants the kernel is specialised with.
#define EMULATED_JOIN2(A, B) A##B
#define EMULATED_JOIN(A, B) EMULATED_JOIN2(A, B)
#define EMULATED_TEXT2(A) #A
#define EMULATED_TEXT(A) EMULATED_TEXT2(A)
#define EMULATED_SHARED_SECTION EMULATED_TEXT(EMULATED_JOIN(emulated_shared_, EMULATED_UNIT))

#include "kernel_invoke.h"

#define MAMBA_SCAN_EMULATOR 1
#define __CUDA_ARCH__ 800

namespace EMULATED_UNIT {
#include EMULATED_SOURCE
// The kernel is found wherever it stands.
namespace mamba_scan {}
using namespace mamba_scan;
}  // namespace EMULATED_UNIT

// The linker names the ends of a section; weak, because a kernel may have no shared memory.
extern "C" {
extern char EMULATED_JOIN(__start_emulated_shared_, EMULATED_UNIT)[] __attribute__((weak));
extern char EMULATED_JOIN(__stop_emulated_shared_, EMULATED_UNIT)[] __attribute__((weak));
}

namespace {
__attribute__((no_sanitize("thread"))) void invoke(void** arguments) {
  emulator::invoke_kernel(&EMULATED_UNIT::EMULATED_ENTRY, arguments);
}
}  // namespace

extern const emulator::KernelImage EMULATED_JOIN(image_, EMULATED_UNIT);
const emulator::KernelImage EMULATED_JOIN(image_, EMULATED_UNIT) = {
    EMULATED_NAME, &invoke, EMULATED_JOIN(__start_emulated_shared_, EMULATED_UNIT),
    EMULATED_JOIN(__stop_emulated_shared_, EMULATED_UNIT)};
