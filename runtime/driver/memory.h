// Memory of the device, and memory of the host that the device copies from and to without a detour.
#pragma once

#include <cstddef>

#include "driver/driver.h"

namespace mamba_scan::driver {

// The device's context must be current when it is made. Freed in that context, whichever is current by then.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(const Driver& driver, std::size_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  CUdeviceptr address() const { return address_; }
  void* pointer() const { return reinterpret_cast<void*>(static_cast<std::uintptr_t>(address_)); }
  std::size_t size() const { return bytes_; }

  // Enqueued; the host memory must live until the stream got there.
  void upload(const void* from, std::size_t bytes, CUstream stream) const;
  void download(void* to, std::size_t bytes, CUstream stream) const;
  void fill(unsigned char value, CUstream stream) const;

 private:
  const Driver* driver_ = nullptr;
  CUcontext context_ = nullptr;
  CUdeviceptr address_ = 0;  // 0 for an empty buffer
  std::size_t bytes_ = 0;
};

// Page-locked for every context.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(const Driver& driver, std::size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  void* data() const { return data_; }
  std::size_t size() const { return bytes_; }

 private:
  const Driver* driver_ = nullptr;
  CUcontext context_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace mamba_scan::driver
