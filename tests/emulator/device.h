// The emulated GPU: its memory, and launches on it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "access_checker.h"
#include "fiber.h"
#include "kernel_image.h"
#include "launch.h"

namespace emulator {

// Whether kernels were compiled with instrumented accesses, so that races and stray accesses are seen as they happen.
bool sees_accesses();

class Device {
 public:
  Device() = default;
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // `count` poisoned elements between guards, aligned to 256 bytes plus `offset` elements. Host code may always write.
  template <class T>
  T* allocate(const std::string& name, std::size_t count, Access access = Access::kReadWrite, std::size_t offset = 0) {
    return reinterpret_cast<T*>(allocate_bytes(name, count * sizeof(T), offset * sizeof(T), access));
  }
  void free(const void* memory);

  // Runs the whole grid. Throws EmulationError at the first thing a GPU would not forgive.
  // arguments[i] points at the kernel's i-th parameter.
  void launch(const KernelImage& kernel, const Launch& launch, void** arguments);

  // Throws EmulationError naming a buffer whose guard was overwritten. launch() calls it, too.
  void check_guards();

 private:
  struct Buffer {
    std::string name;
    std::unique_ptr<char[]> storage;
    char* begin;
    std::size_t bytes;
  };
  char* allocate_bytes(const std::string& name, std::size_t bytes, std::size_t offset, Access access);
  static void set_guards_accessible(Buffer& buffer, bool accessible);

  AccessChecker checker_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Buffer> buffers_;
};

}  // namespace emulator
