// A loaded kernel binary.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "driver/driver.h"
#include "driver/kernel.h"

namespace mamba_scan::driver {

// Unloads what it loaded. The process-wide runtime never destroys its libraries: at exit the driver may be gone.
class Library {
 public:
  // A cubin or PTX text. `what` names it in errors. The context of the device that will run it must be current.
  // Throws DriverError; for PTX with the log of the driver's compiler.
  Library(const Driver& driver, std::span<const char> image, bool is_ptx, const std::string& what);
  ~Library();
  Library(Library&& other) noexcept;
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  Library& operator=(Library&&) = delete;

  // For the device whose context is current.
  Kernel kernel(const std::string& entry) const;

 private:
  const Driver* driver_;
  std::string what_;
  CUlibrary library_ = nullptr;  // driver 12.0 and newer
  CUmodule module_ = nullptr;    // older
};

}  // namespace mamba_scan::driver
