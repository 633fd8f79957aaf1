// Loading binaries and launching kernels. The fake reads which GPU a binary is for and which kernels it holds, so that
// it refuses what a real driver would; launches are recorded, and run the test's own function if there is one.
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>

#include "fake_state.h"

using namespace mamba_scan::driver;

namespace {

constexpr std::size_t kHeaderBytes = 64;  // of a 64-bit ELF file

bool is_elf(const std::string& image) {
  return image.size() >= kHeaderBytes && image.compare(0, 4,
                                                       "\x7f"
                                                       "ELF") == 0;
}

// The images come without a length: a PTX text and a test's own "FAKE sm_90 entries=a,b" end with a zero byte, a cubin
// ends where its section headers end.
std::string read_image(const void* data) {
  const char* bytes = static_cast<const char*>(data);
  if (std::memcmp(bytes,
                  "\x7f"
                  "ELF",
                  4) != 0)
    return bytes;
  std::uint64_t section_offset = 0;
  std::uint16_t section_bytes = 0, section_count = 0;
  std::memcpy(&section_offset, bytes + 40, 8);
  std::memcpy(&section_bytes, bytes + 58, 2);
  std::memcpy(&section_count, bytes + 60, 2);
  std::uint64_t end = section_offset + std::uint64_t{section_bytes} * section_count;
  for (unsigned i = 0; i < section_count; ++i) {
    const char* section = bytes + section_offset + std::uint64_t{section_bytes} * i;
    std::uint32_t type = 0;
    std::uint64_t offset = 0, size = 0;
    std::memcpy(&type, section + 4, 4);
    std::memcpy(&offset, section + 24, 8);
    std::memcpy(&size, section + 32, 8);
    constexpr std::uint32_t kNoBits = 8;
    if (type != kNoBits && offset + size > end) end = offset + size;
  }
  return std::string(bytes, static_cast<std::size_t>(end));
}

// Number after `marker`, or 0.
int number_after(const std::string& text, const char* marker) {
  const std::size_t at = text.find(marker);
  return at == std::string::npos ? 0 : std::atoi(text.c_str() + at + std::strlen(marker));
}

Result accept(const std::string& image, int capability) {
  if (is_elf(image)) {
    std::uint32_t flags = 0;
    std::memcpy(&flags, image.data() + 48, 4);
    constexpr int kNewLayout = 8;  // ELF ABI version from CUDA 13 on: the architecture moved up one byte
    const int arch = static_cast<int>(image[8] >= kNewLayout ? flags >> 8 & 0xff : flags & 0xff);
    const bool fits = arch / 10 == capability / 10 && arch <= capability;
    return fits ? Result::kSuccess : Result::kNoBinaryForGpu;
  }
  if (image.rfind("FAKE sm_", 0) == 0) {
    return number_after(image, "FAKE sm_") == capability ? Result::kSuccess : Result::kNoBinaryForGpu;
  }
  if (image.find(".version") != std::string::npos) {
    return number_after(image, ".target sm_") <= capability ? Result::kSuccess : Result::kInvalidPtx;
  }
  return Result::kInvalidImage;
}

bool holds_kernel(const std::string& image, const std::string& name) {
  if (is_elf(image)) return image.find(".text." + name + '\0') != std::string::npos;
  const std::string marker = image.rfind("FAKE", 0) == 0 ? "entries=" : ".entry ";
  for (std::size_t at = image.find(marker); at != std::string::npos; at = image.find(marker, at + 1)) {
    const std::size_t found = image.find(name, at);
    if (found != std::string::npos && !std::isalnum(static_cast<unsigned char>(image[found + name.size()])))
      return true;
  }
  return false;
}

Result load(fake::Call& call, void** handle, const void* code, unsigned option_count, JitOption* options, void** values,
            bool library) {
  std::string image = read_image(code);
  const int device = call.context().device;
  const Result result = accept(image, call.device().capability);
  if (result != Result::kSuccess) {
    for (unsigned i = 0; i < option_count; ++i) {
      if (options[i] == JitOption::kErrorLogBuffer) {
        std::strcpy(static_cast<char*>(values[i]), "ptxas fatal : fake driver says the target is not this GPU");
      }
    }
    return result;
  }
  auto loaded = std::make_unique<fake::Image>(fake::Image{library, library ? -1 : device, std::move(image)});
  *handle = loaded.get();
  call.note("bytes=" + std::to_string(loaded->bytes.size()) + " device=" + std::to_string(device));
  call.s().images[*handle] = std::move(loaded);
  return Result::kSuccess;
}

Result unload(fake::Call& call, void* handle) {
  return call.s().images.erase(handle) ? Result::kSuccess : call.misuse(Result::kInvalidHandle);
}

// One object per (image, name): asking twice gives the same.
Result find(fake::Call& call, void** out, void* handle, const char* name, int device) {
  const auto image = call.s().images.find(handle);
  if (image == call.s().images.end()) return call.misuse(Result::kInvalidHandle);
  if (!holds_kernel(image->second->bytes, name)) return Result::kNotFound;
  auto made = std::make_unique<fake::Function>();
  made->name = name;
  made->device = device;
  *out = made.get();
  call.s().functions[*out] = std::move(made);
  return Result::kSuccess;
}

fake::Function* find_function(fake::State& s, CUfunction function) {
  const auto found = s.functions.find(function);
  return found == s.functions.end() ? nullptr : found->second.get();
}

std::string numbers(unsigned x, unsigned y, unsigned z) {
  return std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z);
}

Result launch(fake::Call& call, const LaunchParameters& p, CUfunction handle, void** arguments) {
  fake::State& s = call.s();
  fake::Function* function = find_function(s, handle);
  const auto stream = s.streams.find(p.stream);
  const bool default_stream = p.stream == nullptr;
  if (!function || (!default_stream && stream == s.streams.end())) return call.misuse(Result::kInvalidHandle);
  if (function->device != call.context().device) return call.misuse(Result::kInvalidContext);
  if (!default_stream && stream->second->context != &call.context()) return call.misuse(Result::kInvalidHandle);
  const std::uint64_t threads = std::uint64_t{p.block_x} * p.block_y * p.block_z;
  if (threads == 0 || threads > 1024 || p.grid_x == 0 || p.grid_y == 0 || p.grid_z == 0 || p.grid_x > 0x7fffffffu ||
      p.grid_y > 65535 || p.grid_z > 65535 || static_cast<int>(p.shared_bytes) > function->max_dynamic_shared) {
    return Result::kInvalidValue;
  }
  call.note(function->name + " grid=" + numbers(p.grid_x, p.grid_y, p.grid_z) +
            " block=" + numbers(p.block_x, p.block_y, p.block_z) + " shared=" + std::to_string(p.shared_bytes) +
            " stream=" + std::to_string(default_stream ? 0 : stream->second->number) +
            " device=" + std::to_string(function->device));
  const FakeCudaKernel kernel = s.on_launch;
  const std::string name = function->name;
  s.clock_us += 1;
  call.unlock();
  if (kernel) kernel(name.c_str(), arguments);
  return Result::kSuccess;
}

}  // namespace

FAKE_ENTRY cuLibraryLoadData(CUlibrary* library, const void* code, JitOption* options, void** values,
                             unsigned option_count, int*, void**, unsigned) {
  FAKE_CALL("cuLibraryLoadData", kContext);
  return load(call, reinterpret_cast<void**>(library), code, option_count, options, values, true);
}

FAKE_ENTRY cuLibraryUnload(CUlibrary library) {
  FAKE_CALL("cuLibraryUnload", kInit);
  return unload(call, library);
}

FAKE_ENTRY cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
  FAKE_CALL("cuLibraryGetKernel", kInit);
  return find(call, reinterpret_cast<void**>(kernel), library, name, -1);
}

FAKE_ENTRY cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  FAKE_CALL("cuKernelGetFunction", kContext);
  const auto found = call.s().functions.find(kernel);
  if (found == call.s().functions.end()) return call.misuse(Result::kInvalidHandle);
  auto made = std::make_unique<fake::Function>(*found->second);
  made->device = call.context().device;
  *function = reinterpret_cast<CUfunction>(made.get());
  call.s().functions[*function] = std::move(made);
  return Result::kSuccess;
}

FAKE_ENTRY cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned option_count, JitOption* options,
                              void** values) {
  FAKE_CALL("cuModuleLoadDataEx", kContext);
  return load(call, reinterpret_cast<void**>(module), image, option_count, options, values, false);
}

FAKE_ENTRY cuModuleUnload(CUmodule module) {
  FAKE_CALL("cuModuleUnload", kInit);
  return unload(call, module);
}

FAKE_ENTRY cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  FAKE_CALL("cuModuleGetFunction", kContext);
  return find(call, reinterpret_cast<void**>(function), module, name, call.context().device);
}

FAKE_ENTRY cuFuncGetAttribute(int* value, FunctionAttribute attribute, CUfunction function) {
  FAKE_CALL("cuFuncGetAttribute", kInit);
  const fake::Function* found = find_function(call.s(), function);
  if (!found) return call.misuse(Result::kInvalidHandle);
  switch (attribute) {
    case FunctionAttribute::kMaxThreadsPerBlock:
      *value = 1024;
      break;
    case FunctionAttribute::kNumRegs:
      *value = 40;
      break;
    case FunctionAttribute::kMaxDynamicSharedSizeBytes:
      *value = found->max_dynamic_shared;
      break;
    default:
      *value = 0;
      break;
  }
  return Result::kSuccess;
}

FAKE_ENTRY cuFuncSetAttribute(CUfunction function, FunctionAttribute attribute, int value) {
  FAKE_CALL("cuFuncSetAttribute", kInit);
  fake::Function* found = find_function(call.s(), function);
  if (!found) return call.misuse(Result::kInvalidHandle);
  if (attribute != FunctionAttribute::kMaxDynamicSharedSizeBytes || value > 227 * 1024) return Result::kInvalidValue;
  found->max_dynamic_shared = value;
  return Result::kSuccess;
}

FAKE_ENTRY cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int block_threads,
                                                       std::size_t dynamic_shared_bytes) {
  FAKE_CALL("cuOccupancyMaxActiveBlocksPerMultiprocessor", kContext);
  if (!find_function(call.s(), function)) return call.misuse(Result::kInvalidHandle);
  *blocks = 2048 / block_threads;
  if (dynamic_shared_bytes) *blocks = std::min(*blocks, static_cast<int>((228 * 1024) / dynamic_shared_bytes));
  return Result::kSuccess;
}

FAKE_ENTRY cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                          unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void** arguments,
                          void**) {
  FAKE_CALL("cuLaunchKernel", kContext);
  return launch(call, {grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream, nullptr, 0}, function,
                arguments);
}

FAKE_ENTRY cuLaunchKernelEx(const LaunchParameters* config, CUfunction function, void** arguments, void**) {
  FAKE_CALL("cuLaunchKernelEx", kContext);
  return launch(call, *config, function, arguments);
}
