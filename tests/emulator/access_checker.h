// Knows every piece of memory a kernel may touch, and checks each access to it: inside a buffer, aligned, and, by
// vector clocks, ordered after every conflicting access of another thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
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

  // What a thread has done or knows to be done is ordered before what a thread does next that follows the flag, be it
  // of the same block or another. What it knows of a third block is not: nothing here needs that.
  void publish(unsigned thread, const void* flag);
  void follow(unsigned thread, const void* flag);

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
  // The last access of its kind by a thread of any block within the present launch.
  struct Touch {
    unsigned block;
    std::uint64_t generation;
    Record record;
    bool write;
  };
  struct Cell {  // four bytes
    std::uint64_t generation = 0;
    std::uint64_t launch = 0;
    std::vector<Record> reads, writes;
    std::vector<Touch> touches;  // shared memory has none
    std::uint8_t written = 0;    // which of its bytes, by any launch
  };
  struct Published {  // what the thread of a block knew that set a flag
    unsigned block;
    Past past;
  };
  struct Followed {  // by which access of the present block, in which generation
    Published what;
    std::uint64_t generation;
    Record by;
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

  Region* find(const void* address);
  bool ordered(const Record& earlier, unsigned thread) const;
  bool knows(unsigned thread, const Touch& of_other_block) const;
  std::uint32_t clock_of(unsigned thread) const { return clocks_[std::size_t{thread} * threads_ + thread]; }
  std::optional<std::string> check_threads(Region&, Cell&, std::size_t offset, const Record& access, bool write);
  std::optional<std::string> check_blocks(Region&, Cell&, std::size_t offset, const Record& access, bool write);

  std::vector<std::unique_ptr<Region>> regions_;  // sorted by address
  Region* last_ = nullptr;
  std::uint64_t generation_ = 0;
  std::uint64_t launch_ = 0;
  unsigned block_ = 0;
  std::map<const void*, Published> published_;  // by flag, in the present launch
  std::vector<Followed> followed_;              // by threads of the present block
  unsigned threads_ = 0;
  bool clocks_used_ = false;
  std::vector<std::uint32_t> clocks_;  // (threads, threads): what each thread knows of every other
};

}  // namespace emulator
