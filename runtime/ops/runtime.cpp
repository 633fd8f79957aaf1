#include "ops/runtime.h"

#include <exception>
#include <mutex>
#include <string>

#include "driver/context.h"

namespace mamba_scan::ops {
namespace {

std::size_t free_memory(const driver::Driver& driver, driver::CUcontext context) {
  const driver::ContextGuard guard(driver, context);
  std::size_t free = 0, total = 0;
  return driver.api().cuMemGetInfo(&free, &total) == driver::Result::kSuccess ? free : 0;
}

}  // namespace

// What is made on first use, under one lock: each thing is made once, and none of it is on the path of a call.
// The atomics let a caller see what is there without the lock.
struct Runtime::Impl {
  std::mutex mutex;
  std::unique_ptr<driver::Driver> driver;
  std::exception_ptr driver_failure;
  std::unique_ptr<jit::Builder> builder;
  std::unique_ptr<jit::KernelLibrary> kernels;
  std::vector<std::unique_ptr<driver::PrimaryContext>> contexts;
  std::vector<std::unique_ptr<DeviceContext>> devices;

  std::atomic<driver::Driver*> ready_driver{nullptr};
  std::atomic<jit::Builder*> ready_builder{nullptr};
  std::atomic<jit::KernelLibrary*> ready_kernels{nullptr};

  driver::Driver& get_driver() {
    if (driver_failure) std::rethrow_exception(driver_failure);
    if (!driver) {
      try {
        driver = driver::Driver::load();
      } catch (const driver::DriverUnavailable&) {
        driver_failure = std::current_exception();
        throw;
      }
      if (builder) builder->set_driver_cuda_version(driver->version());
      ready_driver.store(driver.get(), std::memory_order_release);
    }
    return *driver;
  }

  jit::Builder& get_builder(trace::Recorder* recorder) {
    if (!builder) {
      builder = std::make_unique<jit::Builder>();
      if (driver) builder->set_driver_cuda_version(driver->version());
      builder->set_recorder(recorder);
      ready_builder.store(builder.get(), std::memory_order_release);
    }
    return *builder;
  }
};

Runtime::Runtime() : impl_(new Impl) {}

const driver::Driver& Runtime::driver() {
  if (const driver::Driver* ready = impl_->ready_driver.load(std::memory_order_acquire)) return *ready;
  const std::lock_guard lock(impl_->mutex);
  return impl_->get_driver();
}

jit::Builder& Runtime::builder() {
  if (jit::Builder* ready = impl_->ready_builder.load(std::memory_order_acquire)) return *ready;
  const std::lock_guard lock(impl_->mutex);
  return impl_->get_builder(recorder());
}

jit::KernelLibrary& Runtime::kernels() {
  if (jit::KernelLibrary* ready = impl_->ready_kernels.load(std::memory_order_acquire)) return *ready;
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->kernels) {
    driver::Driver& driver = impl_->get_driver();
    impl_->kernels = std::make_unique<jit::KernelLibrary>(driver, impl_->get_builder(recorder()));
    impl_->kernels->set_recorder(recorder());
    impl_->ready_kernels.store(impl_->kernels.get(), std::memory_order_release);
  }
  return *impl_->kernels;
}

const DeviceContext& Runtime::make_device(int ordinal) {
  const std::lock_guard lock(impl_->mutex);
  driver::Driver& driver = impl_->get_driver();
  if (ordinal < 0 || ordinal >= driver.device_count() || ordinal >= kMaxDevices) {
    throw driver::DriverError(driver::Result::kInvalidDevice,
                              "CUDA device " + std::to_string(ordinal) + " was asked for, and the driver shows " +
                                  std::to_string(driver.device_count()) +
                                  " (counted from 0): choose one of those, or check CUDA_VISIBLE_DEVICES.");
  }
  auto& ready = ready_[static_cast<std::size_t>(ordinal)];
  if (const DeviceContext* made = ready.load(std::memory_order_relaxed)) return *made;  // by another thread meanwhile

  auto device = std::make_unique<DeviceContext>();
  device->report = driver::device_report(driver, ordinal);
  auto context = std::make_unique<driver::PrimaryContext>(driver, ordinal);
  device->context = context->get();
  device->driver = &driver;
  device->report.free_memory = free_memory(driver, device->context);
  impl_->contexts.push_back(std::move(context));
  impl_->devices.push_back(std::move(device));
  ready.store(impl_->devices.back().get(), std::memory_order_release);
  return *impl_->devices.back();
}

trace::Recorder* Runtime::exchange_recorder(trace::Recorder* recorder) {
  const std::lock_guard lock(impl_->mutex);
  trace::Recorder* previous = recorder_.exchange(recorder, std::memory_order_acq_rel);
  if (impl_->builder) impl_->builder->set_recorder(recorder);
  if (impl_->kernels) impl_->kernels->set_recorder(recorder);
  return previous;
}

Runtime& runtime() {
  static Runtime* const instance = new Runtime;
  return *instance;
}

}  // namespace mamba_scan::ops
