#include "driver/driver.h"

#include <utility>
#include <vector>

#include "driver/device_nodes.h"
#include "platform/dynamic_library.h"
#include "platform/environment.h"

namespace mamba_scan::driver {
namespace {

using platform::DynamicLibrary;
using Reason = DriverUnavailable::Reason;

constexpr const char* kCpuStillWorks = " CPU tensors still work.";

// cuGetProcAddress as CUDA 11.3 made it, and with the extra answer of 12.0.
using GetProcAddress = Result (*)(const char* symbol, void** function, int version, std::uint64_t flags);
using GetProcAddress2 = Result (*)(const char* symbol, void** function, int version, std::uint64_t flags, int* status);

#ifdef _WIN32
constexpr const char* kLibraryName = "nvcuda.dll";
const std::vector<std::string> kExtraPlaces;
constexpr const char* kInstallDriver = "Install the NVIDIA driver for this GPU from nvidia.com/drivers.";
#else
constexpr const char* kLibraryName = "libcuda.so.1";
// Where the library lies although the loader may not know the folder: Jetson (JetPack 4-5 and newer), WSL.
const std::vector<std::string> kExtraPlaces = {
    "/usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1",
    "/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1",
    "/usr/lib/wsl/lib/libcuda.so.1",
};
constexpr const char* kInstallDriver =
    "Install the NVIDIA driver for this GPU (on Ubuntu: sudo ubuntu-drivers install), or in a container start it with "
    "--gpus all.";
#endif

DynamicLibrary open_library() {
  std::string why;
  if (const auto chosen = platform::environment_variable("MAMBA_SCAN_DRIVER")) {
    if (auto library = DynamicLibrary::try_open(*chosen, &why)) return std::move(*library);
    throw DriverUnavailable(Reason::kNoDriver, Result::kNotFound,
                            "Opening the CUDA driver named by MAMBA_SCAN_DRIVER, " + *chosen + ", failed: " + why +
                                ". Correct the variable or unset it." + kCpuStillWorks);
  }
  if (auto library = DynamicLibrary::try_open_system(kLibraryName, &why)) return std::move(*library);
  std::string places;
  for (const std::string& place : kExtraPlaces) {
    if (auto library = DynamicLibrary::try_open(place, nullptr)) return std::move(*library);
    places += ", " + place;
  }
  throw DriverUnavailable(Reason::kNoDriver, Result::kNotFound,
                          std::string("No NVIDIA driver was found (tried ") + kLibraryName + places + ": " + why +
                              "). " + kInstallDriver + kCpuStillWorks);
}

// Answers from cuGetProcAddress, which returns the entry point for exactly the asked ABI; from the library's exports
// where it is missing (before 11.3) or has nothing to say.
class Resolver {
 public:
  explicit Resolver(const DynamicLibrary& library)
      : library_(library),
        ask2_(library.function<GetProcAddress2>("cuGetProcAddress_v2")),
        ask_(library.function<GetProcAddress>("cuGetProcAddress")) {}

  void* find(const char* name, const char* symbol, int abi) const {
    void* function = nullptr;
    int status = 0;
    if (ask2_) {
      if (ask2_(name, &function, abi, 0, &status) == Result::kSuccess && function) return function;
    } else if (ask_) {
      if (ask_(name, &function, abi, 0) == Result::kSuccess && function) return function;
    }
    return library_.symbol(symbol);
  }

 private:
  const DynamicLibrary& library_;
  GetProcAddress2 ask2_;
  GetProcAddress ask_;
};

DriverUnavailable is_a_stub(const std::string& found, const std::string& error) {
  return {Reason::kBroken, Result::kStubLibrary,
          found + " is the CUDA toolkit's link stub, not a driver: " + error +
              ". Remove the toolkit's stubs folder from LD_LIBRARY_PATH." + kCpuStillWorks};
}

DriverUnavailable init_failure(const Driver& driver, Result result) {
  const std::string found = "The NVIDIA driver (CUDA " + version_text(driver.version()) + ", " + driver.path() + ")";
  const std::string error = driver.describe(result);
  const std::string denied = unreadable_device_node();
  if (!denied.empty() || result == Result::kNotPermitted || result == Result::kOperatingSystem) {
    return {Reason::kNoPermission, result,
            found + " may not use the GPU: " + error + (denied.empty() ? "" : ", " + denied + " is not accessible") +
                ". Give this user access to the GPU's device files (on Jetson: sudo usermod -aG video,render $USER, "
                "then log in again; in a container: --gpus all)." +
                kCpuStillWorks};
  }
  switch (result) {
    case Result::kNoDevice:
      return {Reason::kNoDevice, result,
              found + " shows no CUDA device: " + error +
                  ". Check that CUDA_VISIBLE_DEVICES does not hide it and that the GPU is seated and powered." +
                  kCpuStillWorks};
    case Result::kStubLibrary:
      return is_a_stub(found, error);
    case Result::kSystemDriverMismatch:
    case Result::kCompatNotSupportedOnDevice:
      return {Reason::kBroken, result,
              found + " does not match the kernel driver: " + error +
                  ". Restart the machine after a driver update; otherwise reinstall the driver." + kCpuStillWorks};
    default:
      return {Reason::kBroken, result,
              found + " could not be initialised: " + error +
                  ". Restart the machine; if it stays so, reinstall the NVIDIA driver." + kCpuStillWorks};
  }
}

}  // namespace

struct Driver::Handle {
  DynamicLibrary library;
};

Driver::Driver() = default;
Driver::~Driver() = default;

std::unique_ptr<Driver> Driver::load() {
  std::unique_ptr<Driver> driver(new Driver);
  driver->handle_ = std::make_unique<Handle>();
  DynamicLibrary& library = driver->handle_->library;
  library = open_library();
  library.keep_loaded();  // the driver starts threads of its own and must not be unmapped under them
  driver->path_ = library.path();

  const Resolver resolver(library);
  const auto get_version =
      reinterpret_cast<Result (*)(int*)>(resolver.find("cuDriverGetVersion", "cuDriverGetVersion", 2020));
  if (!get_version)
    throw DriverUnavailable(
        Reason::kBroken, Result::kNotFound,
        driver->path_ + " is not a CUDA driver: it has no function cuDriverGetVersion." + kCpuStillWorks);
  const Result asked = get_version(&driver->version_);  // allowed before cuInit
  if (asked == Result::kStubLibrary) throw is_a_stub(driver->path_, "CUDA_ERROR_STUB_LIBRARY (34)");
  if (asked != Result::kSuccess)
    throw DriverUnavailable(Reason::kBroken, asked,
                            "The NVIDIA driver (" + driver->path_ + ") does not say which CUDA it serves: error " +
                                std::to_string(static_cast<int>(asked)) +
                                ". Restart the machine; if it stays so, reinstall the NVIDIA driver." + kCpuStillWorks);
  if (driver->version_ < kMinimumVersion) {
    throw DriverUnavailable(Reason::kTooOld, Result::kNotSupported,
                            "The NVIDIA driver (" + driver->path_ + ") serves CUDA " + version_text(driver->version_) +
                                " and mamba_scan needs " + version_text(kMinimumVersion) +
                                " or newer: update the NVIDIA driver." + kCpuStillWorks);
  }

  enum Need { kRequired, kOptional };
  std::string missing;
  DriverTable& table = driver->table_;
#define DRIVER_ENTRY(name, symbol, abi, minimum, need, arguments)                           \
  if (driver->version_ >= (minimum)) {                                                      \
    table.name = reinterpret_cast<decltype(table.name)>(resolver.find(#name, symbol, abi)); \
  }                                                                                         \
  if (!table.name && (need) == kRequired) missing += std::string(missing.empty() ? "" : ", ") + #name;
#include "driver/driver_table.def"
#undef DRIVER_ENTRY
  if (!missing.empty()) {
    throw DriverUnavailable(Reason::kBroken, Result::kNotFound,
                            "The NVIDIA driver (CUDA " + version_text(driver->version_) + ", " + driver->path_ +
                                ") lacks " + missing + ": reinstall or update the NVIDIA driver." + kCpuStillWorks);
  }

  Result result = table.cuInit(0);
  if (result == Result::kSuccess) {
    result = table.cuDeviceGetCount(&driver->device_count_);
    if (result == Result::kSuccess && driver->device_count_ == 0) result = Result::kNoDevice;
  }
  if (result != Result::kSuccess) throw init_failure(*driver, result);
  return driver;
}

std::string Driver::describe(Result result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (table_.cuGetErrorName(result, &name) != Result::kSuccess || !name) name = "unknown CUDA error";
  if (table_.cuGetErrorString(result, &text) != Result::kSuccess || !text) text = "the driver has no words for it";
  return std::string(name) + " (" + std::to_string(static_cast<int>(result)) + "): " + text;
}

void Driver::fail(Result result, const std::string& action) const {
  std::string message = action + " failed: " + describe(result) + ".";
  switch (result) {
    case Result::kOutOfMemory:
      message += " Free GPU memory, or use smaller chunks.";
      break;
    case Result::kLaunchTimeout:
      message += " The display driver stops kernels that run for about 2 s.";
      break;
    case Result::kIllegalAddress:
    case Result::kLaunchFailed:
      message +=
          " An earlier kernel of this process may be the culprit, and the process cannot use the GPU any more: "
          "restart it; compute-sanitizer names the kernel.";
      break;
    default:
      break;
  }
  throw DriverError(result, message);
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace mamba_scan::driver
