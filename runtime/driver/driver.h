// The CUDA driver library, opened at run time, with every entry point of driver_table.def.
#pragma once

#include <memory>
#include <string>

#include "driver/cuda_types.h"
#include "driver/driver_error.h"

namespace mamba_scan::driver {

struct DriverTable {
#define DRIVER_ENTRY(name, symbol, abi, minimum, need, arguments) Result(*name) arguments = nullptr;
#include "driver/driver_table.def"
#undef DRIVER_ENTRY
};

class Driver {
 public:
  // CUDA 11.4: JetPack 5, the oldest driver that anything here is meant for.
  static constexpr int kMinimumVersion = 11040;

  // Opens and initialises the driver. MAMBA_SCAN_DRIVER names another library file. Throws DriverUnavailable with one
  // sentence that says what is wrong and what to do.
  static std::unique_ptr<Driver> load();

  ~Driver();
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  // The newest CUDA version the driver serves, as the driver writes it: 13000 is 13.0.
  int version() const { return version_; }
  const std::string& path() const { return path_; }
  const DriverTable& api() const { return table_; }
  int device_count() const { return device_count_; }

  // Throws DriverError saying that `action` failed. The test is inline: it runs after every call.
  void check(Result result, const char* action) const {
    if (result != Result::kSuccess) fail(result, action);
  }
  [[noreturn]] void fail(Result result, const std::string& action) const;
  // "CUDA_ERROR_OUT_OF_MEMORY (2): out of memory"
  std::string describe(Result result) const;

 private:
  struct Handle;
  Driver();

  std::unique_ptr<Handle> handle_;
  DriverTable table_;
  std::string path_;
  int version_ = 0;
  int device_count_ = 0;
};

// "13.0" for 13000
std::string version_text(int version);

}  // namespace mamba_scan::driver
