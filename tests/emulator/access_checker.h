// Knows every piece of memory a kernel may touch, and checks each access to it: inside a buffer, aligned, and, by
// vector clocks, ordered after every conflicting access of another thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace emulator {

enum class AccessKind { kRead, kWrite, kAtomic };

// Scratch: what kernels read there, kernels have written.
enum class Access { kReadOnly, kReadWrite, kScratch };

class AccessChecker {
 public:
  // A buffer or a piece of shared memory. Accesses to the guard bytes on either side are errors that name it.
  void add_region(const std::string& name, char* begin, std::size_t bytes, std::size_t guard, Access access,
                  bool shared);
  void remove_region(const char* begin);

  void begin_launch();
  void begin_block(unsigned block, unsigned threads);

  // Everything the threads did before is ordered before everything they do next.
  void full_barrier();
  // What the contributors did before is ordered before what the receivers do next.
  void partial_barrier(const std::vector<unsigned>& contributors, const std::vector<unsigned>& receivers);

  // What threads have done before, as others may come to know it later.
  struct Past {
    std::uint64_t generation = 0;
    std::vector<std::uint32_t> clocks;
  };
  void release(unsigned thread, Past& to);  // besides what is there
  void acquire(unsigned thread, const Past& from);

  // What the present block has done so far is ordered before what blocks do that follow the flag from then on.
  void publish(const void* flag) { publishers_[flag] = block_; }
  void follow(const void* flag) { known_.insert(publishers_.at(flag)); }

  // Says what is wrong with the access, if anything is. `code` is the return address of the accessing code.
  std::optional<std::string> check(unsigned thread, const void* address, std::size_t bytes, AccessKind kind,
                                   const void* code);

 private:
  // One access within the present generation, that is since the last barrier of the whole block.
  struct Record {
    std::uint32_t thread;
    std::uint32_t clock;
    std::uint8_t bytes;  // which of the four
    bool atomic;
    const void* code;
  };
  struct Cell {  // four bytes
    std::uint64_t generation = 0;
    std::uint64_t launch = 0;
    std::vector<Record> reads, writes;
    // Blocks (plus one) that touched each byte in this launch; kSeveral: more than one. Shared memory has none.
    std::uint32_t reader[4] = {}, writer[4] = {};
    bool atomic_writer = false;
    std::uint8_t written = 0;  // which of its bytes, by any launch
  };
  struct Region {
    std::string name;
    char* begin;
    char* end;
    std::size_t guard;
    Access access;
    bool shared;
    std::vector<Cell> cells;
  };
  static constexpr std::uint32_t kSeveral = 0xffffffffu;

  Region* find(const void* address);
  bool ordered(const Record& earlier, unsigned thread) const;
  std::optional<std::string> check_threads(Region&, Cell&, std::size_t offset, const Record& access, bool write);
  std::optional<std::string> check_blocks(Region&, Cell&, std::size_t offset, const Record& access, bool write);

  std::vector<std::unique_ptr<Region>> regions_;  // sorted by address
  Region* last_ = nullptr;
  std::uint64_t generation_ = 0;
  std::uint64_t launch_ = 0;
  unsigned block_ = 0;
  std::map<const void*, unsigned> publishers_;  // of the launch: the block that has set a flag
  std::set<unsigned> known_;                    // blocks that the present one has followed
  unsigned threads_ = 0;
  bool clocks_used_ = false;
  std::vector<std::uint32_t> clocks_;  // (threads, threads): what each thread knows of every other
};

}  // namespace emulator
