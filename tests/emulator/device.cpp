#include "device.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>

#include "block.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {
namespace {

constexpr std::size_t kGuard = 256;
constexpr std::size_t kAlignment = 256;  // of cuMemAlloc

// A region that exists for the length of a launch.
class SharedRegion {
 public:
  SharedRegion(AccessChecker& checker, const char* name, char* begin, std::size_t bytes, std::size_t guard)
      : checker_(checker), begin_(begin), bytes_(bytes) {
    if (bytes_ != 0) checker_.add_region(name, begin, bytes, guard, Access::kReadWrite, true);
  }
  ~SharedRegion() {
    if (bytes_ != 0) checker_.remove_region(begin_);
  }
  SharedRegion(const SharedRegion&) = delete;
  SharedRegion& operator=(const SharedRegion&) = delete;

  void poison(unsigned char byte) {
    if (bytes_ != 0) std::memset(begin_, byte, bytes_);
  }

 private:
  AccessChecker& checker_;
  char* begin_;
  std::size_t bytes_;
};

}  // namespace

bool sees_accesses() {
#if defined(__SANITIZE_ADDRESS__)
  return false;
#else
  return true;
#endif
}

Device::~Device() {
  for (Buffer& buffer : buffers_) set_guards_accessible(buffer, true);
}

void Device::set_guards_accessible([[maybe_unused]] Buffer& buffer, [[maybe_unused]] bool accessible) {
#if defined(__SANITIZE_ADDRESS__)
  for (char* guard : {buffer.begin - kGuard, buffer.begin + buffer.bytes}) {
    if (accessible) {
      __asan_unpoison_memory_region(guard, kGuard);
    } else {
      __asan_poison_memory_region(guard, kGuard);
    }
  }
#endif
}

char* Device::allocate_bytes(const std::string& name, std::size_t bytes, std::size_t offset, Access access) {
  const std::size_t total = bytes + offset + 2 * kGuard + kAlignment;
  Buffer buffer{name, std::unique_ptr<char[]>(new char[total]), nullptr, bytes};
  std::memset(buffer.storage.get(), kPoison, total);
  const auto start = reinterpret_cast<std::uintptr_t>(buffer.storage.get()) + kGuard;
  buffer.begin = buffer.storage.get() + kGuard + ((start + kAlignment - 1) / kAlignment * kAlignment - start) + offset;
  checker_.add_region(name, buffer.begin, bytes, kGuard, access, false);
  set_guards_accessible(buffer, false);
  buffers_.push_back(std::move(buffer));
  return buffers_.back().begin;
}

void Device::free(const void* memory) {
  checker_.remove_region(static_cast<const char*>(memory));
  std::erase_if(buffers_, [&](Buffer& buffer) {
    if (buffer.begin != memory) return false;
    set_guards_accessible(buffer, true);
    return true;
  });
}

void Device::check_guards() {
  const auto intact = [](const char* guard) {
    return std::all_of(guard, guard + kGuard, [](char byte) { return static_cast<unsigned char>(byte) == kPoison; });
  };
  for (Buffer& buffer : buffers_) {
    set_guards_accessible(buffer, true);
    const bool before = intact(buffer.begin - kGuard), after = intact(buffer.begin + buffer.bytes);
    set_guards_accessible(buffer, false);
    if (!before || !after)
      throw EmulationError("written " + std::string(before ? "behind the end" : "before the start") + " of " +
                           buffer.name);
  }
}

void Device::launch(const KernelImage& kernel, const Launch& launch, void** arguments) {
  const std::size_t threads = launch.block.volume(), blocks = launch.grid.volume();
  if (threads == 0 || threads > 1024 || blocks == 0) {
    throw EmulationError(std::string(kernel.name) + ": a launch of " + std::to_string(blocks) + " blocks of " +
                         std::to_string(threads) + " threads; needs at least one of each and at most 1024 threads");
  }
  while (fibers_.size() < threads) fibers_.push_back(std::make_unique<Fiber>());

  SharedRegion static_shared(checker_, "static shared memory", kernel.shared_begin,
                             static_cast<std::size_t>(kernel.shared_end - kernel.shared_begin), 0);
  std::vector<char> dynamic(launch.dynamic_shared_bytes + 2 * kGuard + kAlignment);
  const auto start = reinterpret_cast<std::uintptr_t>(dynamic.data()) + kGuard;
  char* dynamic_begin = dynamic.data() + kGuard + ((start + kAlignment - 1) / kAlignment * kAlignment - start);
  SharedRegion dynamic_shared(checker_, "dynamic shared memory", dynamic_begin, launch.dynamic_shared_bytes, kGuard);

  std::vector<std::size_t> order(blocks);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(launch.seed);
  if (!launch.blocks_in_order) {
    if (is_backward(launch.order)) std::reverse(order.begin(), order.end());
    if (launch.order == Order::kShuffled) std::shuffle(order.begin(), order.end(), random);
  }

  checker_.begin_launch();
  for (std::size_t b : order) {
    static_shared.poison(launch.poison);
    dynamic_shared.poison(launch.poison);
    checker_.begin_block(static_cast<unsigned>(b), static_cast<unsigned>(threads));
    const auto x = static_cast<unsigned>(b % launch.grid.x),
               y = static_cast<unsigned>(b / launch.grid.x % launch.grid.y),
               z = static_cast<unsigned>(b / launch.grid.x / launch.grid.y);
    Block(kernel, launch, {x, y, z}, arguments, dynamic_begin, fibers_, checker_).run();
  }
  check_guards();
}

}  // namespace emulator
