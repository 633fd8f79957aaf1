#include "driver/kernel.h"

#include "driver/driver.h"

namespace mamba_scan::driver {
namespace {

std::string triple(const unsigned (&v)[3]) {
  return "(" + std::to_string(v[0]) + ", " + std::to_string(v[1]) + ", " + std::to_string(v[2]) + ")";
}

// Outside launch(), which stays small: this runs only when something went wrong.
[[noreturn]] void launch_failed(const Driver& driver, Result result, const LaunchConfig& config) {
  driver.fail(result, "Launching a kernel with grid " + triple(config.grid) + ", block " + triple(config.block) +
                          " and " + std::to_string(config.dynamic_shared_bytes) + " bytes of dynamic shared memory");
}

}  // namespace

void Kernel::launch(const LaunchConfig& config, void** arguments) const {
  const DriverTable& api = driver_->api();
  Result result;
  if (api.cuLaunchKernelEx) {
    const LaunchParameters parameters = {config.grid[0],
                                         config.grid[1],
                                         config.grid[2],
                                         config.block[0],
                                         config.block[1],
                                         config.block[2],
                                         config.dynamic_shared_bytes,
                                         config.stream,
                                         nullptr,
                                         0};
    result = api.cuLaunchKernelEx(&parameters, function_, arguments, nullptr);
  } else {
    result =
        api.cuLaunchKernel(function_, config.grid[0], config.grid[1], config.grid[2], config.block[0], config.block[1],
                           config.block[2], config.dynamic_shared_bytes, config.stream, arguments, nullptr);
  }
  if (result != Result::kSuccess) launch_failed(*driver_, result, config);
}

int Kernel::max_active_blocks_per_sm(int block_threads, std::size_t dynamic_shared_bytes) const {
  int blocks = 0;
  driver_->check(driver_->api().cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function_, block_threads,
                                                                            dynamic_shared_bytes),
                 "Asking how many blocks of a kernel fit on a multiprocessor");
  return blocks;
}

void Kernel::allow_dynamic_shared(std::size_t bytes) const {
  const Result result = driver_->api().cuFuncSetAttribute(function_, FunctionAttribute::kMaxDynamicSharedSizeBytes,
                                                          static_cast<int>(bytes));
  if (result != Result::kSuccess) {
    driver_->fail(result, "Allowing a kernel " + std::to_string(bytes) + " bytes of dynamic shared memory");
  }
}

int Kernel::attribute(FunctionAttribute attribute) const {
  int value = 0;
  driver_->check(driver_->api().cuFuncGetAttribute(&value, attribute, function_), "Reading a kernel's attribute");
  return value;
}

}  // namespace mamba_scan::driver
