#include "fake_state.h"

using namespace mamba_scan::driver;

FAKE_ENTRY cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  FAKE_CALL("cuDevicePrimaryCtxRetain", kInit);
  const auto index = static_cast<std::size_t>(device);
  if (index >= call.s().devices.size()) return Result::kInvalidDevice;
  ++call.s().devices[index].retained;
  *context = reinterpret_cast<CUcontext>(call.s().contexts[index].get());
  call.note("device=" + std::to_string(device));
  return Result::kSuccess;
}

FAKE_ENTRY cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  FAKE_CALL("cuDevicePrimaryCtxRelease", kInit);
  const auto index = static_cast<std::size_t>(device);
  if (index >= call.s().devices.size() || call.s().devices[index].retained == 0) {
    return call.misuse(Result::kInvalidContext);
  }
  --call.s().devices[index].retained;
  call.note("device=" + std::to_string(device));
  return Result::kSuccess;
}

FAKE_ENTRY cuCtxGetCurrent(CUcontext* context) {
  FAKE_CALL("cuCtxGetCurrent", kInit);
  *context = fake::context_stack().empty() ? nullptr : fake::context_stack().back();
  return Result::kSuccess;
}

FAKE_ENTRY cuCtxPushCurrent_v2(CUcontext context) {
  FAKE_CALL("cuCtxPushCurrent", kInit);
  for (std::size_t i = 0; i < call.s().contexts.size(); ++i) {
    if (reinterpret_cast<CUcontext>(call.s().contexts[i].get()) == context && call.s().devices[i].retained > 0) {
      fake::context_stack().push_back(context);
      return Result::kSuccess;
    }
  }
  return call.misuse(Result::kInvalidContext);
}

FAKE_ENTRY cuCtxPopCurrent_v2(CUcontext* context) {
  FAKE_CALL("cuCtxPopCurrent", kInit);
  if (fake::context_stack().empty()) return call.misuse(Result::kInvalidContext);
  *context = fake::context_stack().back();
  fake::context_stack().pop_back();
  return Result::kSuccess;
}

FAKE_ENTRY cuCtxSynchronize() {
  FAKE_CALL("cuCtxSynchronize", kContext);
  return Result::kSuccess;
}
