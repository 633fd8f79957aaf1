#include "driver/context.h"

namespace mamba_scan::driver {

PrimaryContext::PrimaryContext(const Driver& driver, int ordinal) : driver_(&driver) {
  const std::string device = "CUDA device " + std::to_string(ordinal);
  driver.check(driver.api().cuDeviceGet(&device_, ordinal), ("Opening " + device).c_str());
  driver.check(driver.api().cuDevicePrimaryCtxRetain(&context_, device_), ("Making the context of " + device).c_str());
}

PrimaryContext::PrimaryContext(PrimaryContext&& other) noexcept
    : driver_(other.driver_), device_(other.device_), context_(other.context_) {
  other.context_ = nullptr;
}

PrimaryContext::~PrimaryContext() {
  if (context_) driver_->api().cuDevicePrimaryCtxRelease(device_);
}

}  // namespace mamba_scan::driver
