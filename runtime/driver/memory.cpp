#include "driver/memory.h"

#include <utility>

namespace mamba_scan::driver {
namespace {

CUcontext current_context(const Driver& driver) {
  CUcontext context = nullptr;
  driver.check(driver.api().cuCtxGetCurrent(&context), "Asking for the current CUDA context");
  return context;
}

// For destructors: freeing must happen in the context the memory came from and must not throw.
template <class Function>
void in_context(const Driver& driver, CUcontext context, Function&& function) noexcept {
  const DriverTable& api = driver.api();
  CUcontext popped = nullptr;
  if (api.cuCtxPushCurrent(context) != Result::kSuccess) return;  // the driver is shutting down: nothing to free
  function(api);
  api.cuCtxPopCurrent(&popped);
}

}  // namespace

DeviceBuffer::DeviceBuffer(const Driver& driver, std::size_t bytes)
    : driver_(&driver), context_(current_context(driver)), bytes_(bytes) {
  if (bytes == 0) return;  // the driver refuses zero bytes; an empty tensor is nothing wrong
  const Result result = driver.api().cuMemAlloc(&address_, bytes);
  if (result != Result::kSuccess) {
    address_ = 0;
    driver.fail(result, "Allocating " + std::to_string(bytes) + " bytes on the GPU");
  }
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(driver_, other.driver_);
  std::swap(context_, other.context_);
  std::swap(address_, other.address_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

DeviceBuffer::~DeviceBuffer() {
  if (address_ == 0) return;
  in_context(*driver_, context_, [this](const DriverTable& api) { api.cuMemFree(address_); });
}

void DeviceBuffer::upload(const void* from, std::size_t bytes, CUstream stream) const {
  if (bytes == 0) return;
  driver_->check(driver_->api().cuMemcpyHtoDAsync(address_, from, bytes, stream), "Copying to the GPU");
}

void DeviceBuffer::download(void* to, std::size_t bytes, CUstream stream) const {
  if (bytes == 0) return;
  driver_->check(driver_->api().cuMemcpyDtoHAsync(to, address_, bytes, stream), "Copying from the GPU");
}

void DeviceBuffer::fill(unsigned char value, CUstream stream) const {
  if (bytes_ == 0) return;
  driver_->check(driver_->api().cuMemsetD8Async(address_, value, bytes_, stream), "Filling memory of the GPU");
}

PinnedBuffer::PinnedBuffer(const Driver& driver, std::size_t bytes)
    : driver_(&driver), context_(current_context(driver)), bytes_(bytes) {
  if (bytes == 0) return;
  const Result result = driver.api().cuMemHostAlloc(&data_, bytes, kHostAllocPortable);
  if (result != Result::kSuccess) {
    data_ = nullptr;
    driver.fail(result, "Allocating " + std::to_string(bytes) + " bytes of pinned host memory");
  }
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept { *this = std::move(other); }

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(driver_, other.driver_);
  std::swap(context_, other.context_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

PinnedBuffer::~PinnedBuffer() {
  if (!data_) return;
  in_context(*driver_, context_, [this](const DriverTable& api) { api.cuMemFreeHost(data_); });
}

}  // namespace mamba_scan::driver
