// How a test runs a kernel on the host.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace emulator {

// Every byte of fresh memory and of shared memory at a block's start: a NaN as fp32, fp16 and bf16.
constexpr unsigned char kPoison = 0xff;

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  std::size_t volume() const { return std::size_t{x} * y * z; }
};

// In which order the threads of a block, and the blocks, get their turn. A correct kernel does not care. Turns end
// where a thread waits for others; of the orders by warps, those of one warp go on until all of it waits for other
// warps.
enum class Order { kForward, kReverse, kShuffled, kFirstWarpAlone, kLastWarpAlone };
inline bool is_by_warps(Order order) { return order == Order::kFirstWarpAlone || order == Order::kLastWarpAlone; }
inline bool is_backward(Order order) { return order == Order::kReverse || order == Order::kLastWarpAlone; }

struct Launch {
  unsigned char poison = kPoison;  // of shared memory
  Dim3 grid;
  Dim3 block;
  std::size_t dynamic_shared_bytes = 0;
  Order order = Order::kForward;
  unsigned seed = 1;             // of kShuffled
  bool blocks_in_order = false;  // whatever the order of threads: they wait for those before, which a GPU starts first
};

// The kernel did what a GPU would not forgive; the message says which threads did it and where.
class EmulationError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace emulator
