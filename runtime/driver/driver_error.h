// What the driver layer throws.
#pragma once

#include "driver/cuda_types.h"
#include "platform/error.h"

namespace mamba_scan::driver {

// A driver call failed: what was being done, the driver's name and words for the error, what to do where we know.
class DriverError : public Error {
 public:
  DriverError(Result result, const std::string& message) : Error(message), result_(result) {}
  Result result() const { return result_; }

 private:
  Result result_;
};

// There is no driver to talk to, or it cannot serve us. CPU tensors still work.
class DriverUnavailable : public DriverError {
 public:
  enum class Reason { kNoDriver, kTooOld, kNoDevice, kNoPermission, kBroken };

  DriverUnavailable(Reason reason, Result result, const std::string& message)
      : DriverError(result, message), reason_(reason) {}
  Reason reason() const { return reason_; }

 private:
  Reason reason_;
};

}  // namespace mamba_scan::driver
