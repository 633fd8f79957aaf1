// Device memory is host memory, so copies move real bytes. Everything happens at once, whatever the stream.
#include <cstring>
#include <new>

#include "fake_state.h"

using namespace mamba_scan::driver;

namespace {

// Whether [address, address + bytes) lies inside one allocation.
bool inside_allocation(const fake::State& s, CUdeviceptr address, std::size_t bytes) {
  auto next = s.allocations.upper_bound(static_cast<std::uintptr_t>(address));
  if (next == s.allocations.begin()) return false;
  --next;
  return address + bytes <= next->first + next->second.bytes;
}

std::string stream_number(const fake::State& s, CUstream stream) {
  const auto found = s.streams.find(stream);
  return std::to_string(found == s.streams.end() ? 0 : found->second->number);
}

bool known_stream(const fake::State& s, CUstream stream) { return stream == nullptr || s.streams.count(stream) != 0; }

void* host(CUdeviceptr address) { return reinterpret_cast<void*>(static_cast<std::uintptr_t>(address)); }

}  // namespace

FAKE_ENTRY cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  FAKE_CALL("cuMemGetInfo", kContext);
  *total = call.s().memory;
  *free = call.s().memory - call.device().used;
  return Result::kSuccess;
}

FAKE_ENTRY cuMemAlloc_v2(CUdeviceptr* address, std::size_t bytes) {
  FAKE_CALL("cuMemAlloc", kContext);
  if (bytes == 0) return Result::kInvalidValue;
  if (call.device().used + bytes > call.s().memory) return Result::kOutOfMemory;
  void* memory = ::operator new(bytes, std::align_val_t(256), std::nothrow);
  if (!memory) return Result::kOutOfMemory;
  std::memset(memory, 0xff, bytes);  // NaN in every type of ours: what is read before it is written shows
  call.device().used += bytes;
  *address = reinterpret_cast<std::uintptr_t>(memory);
  call.s().allocations[reinterpret_cast<std::uintptr_t>(memory)] = {bytes, call.context().device};
  call.note("bytes=" + std::to_string(bytes) + " device=" + std::to_string(call.context().device));
  return Result::kSuccess;
}

FAKE_ENTRY cuMemFree_v2(CUdeviceptr address) {
  FAKE_CALL("cuMemFree", kContext);
  const auto found = call.s().allocations.find(static_cast<std::uintptr_t>(address));
  if (found == call.s().allocations.end()) return call.misuse(Result::kInvalidValue);
  call.s().devices[static_cast<std::size_t>(found->second.device)].used -= found->second.bytes;
  call.s().allocations.erase(found);
  ::operator delete(host(address), std::align_val_t(256));
  call.note("");
  return Result::kSuccess;
}

FAKE_ENTRY cuMemHostAlloc(void** address, std::size_t bytes, unsigned flags) {
  FAKE_CALL("cuMemHostAlloc", kContext);
  if (bytes == 0 || flags > 7) return Result::kInvalidValue;
  *address = ::operator new(bytes, std::align_val_t(4096), std::nothrow);
  if (!*address) return Result::kOutOfMemory;
  call.s().pinned[*address] = bytes;
  call.note("bytes=" + std::to_string(bytes));
  return Result::kSuccess;
}

FAKE_ENTRY cuMemFreeHost(void* address) {
  FAKE_CALL("cuMemFreeHost", kContext);
  if (call.s().pinned.erase(address) == 0) return call.misuse(Result::kInvalidValue);
  ::operator delete(address, std::align_val_t(4096));
  call.note("");
  return Result::kSuccess;
}

FAKE_ENTRY cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t bytes, CUstream stream) {
  FAKE_CALL("cuMemcpyHtoDAsync", kContext);
  if (!known_stream(call.s(), stream)) return call.misuse(Result::kInvalidHandle);
  if (!inside_allocation(call.s(), to, bytes)) return call.misuse(Result::kInvalidValue);
  std::memcpy(host(to), from, bytes);
  call.note("bytes=" + std::to_string(bytes) + " stream=" + stream_number(call.s(), stream));
  return Result::kSuccess;
}

FAKE_ENTRY cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  FAKE_CALL("cuMemcpyDtoHAsync", kContext);
  if (!known_stream(call.s(), stream)) return call.misuse(Result::kInvalidHandle);
  if (!inside_allocation(call.s(), from, bytes)) return call.misuse(Result::kInvalidValue);
  std::memcpy(to, host(from), bytes);
  call.note("bytes=" + std::to_string(bytes) + " stream=" + stream_number(call.s(), stream));
  return Result::kSuccess;
}

FAKE_ENTRY cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  FAKE_CALL("cuMemcpyDtoDAsync", kContext);
  if (!known_stream(call.s(), stream)) return call.misuse(Result::kInvalidHandle);
  if (!inside_allocation(call.s(), to, bytes) || !inside_allocation(call.s(), from, bytes)) {
    return call.misuse(Result::kInvalidValue);
  }
  std::memcpy(host(to), host(from), bytes);
  call.note("bytes=" + std::to_string(bytes) + " stream=" + stream_number(call.s(), stream));
  return Result::kSuccess;
}

FAKE_ENTRY cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t bytes, CUstream stream) {
  FAKE_CALL("cuMemsetD8Async", kContext);
  if (!known_stream(call.s(), stream)) return call.misuse(Result::kInvalidHandle);
  if (!inside_allocation(call.s(), to, bytes)) return call.misuse(Result::kInvalidValue);
  std::memset(host(to), value, bytes);
  call.note("bytes=" + std::to_string(bytes) + " stream=" + stream_number(call.s(), stream));
  return Result::kSuccess;
}
