#include "access_checker.h"

#include <algorithm>
#include <functional>
#include <sstream>

// The program's own image, by the names that GNU linkers give: constant tables of the kernel lie in it.
extern "C" {
extern char __executable_start[];
extern char _end[];
}

namespace emulator {
namespace {

std::string hex(std::uintptr_t value) {
  std::ostringstream text;
  text << "0x" << std::hex << value;
  return text.str();
}

// For addr2line, whatever address the program was loaded at.
std::string code_text(const void* code) {
  if (code == nullptr) return "";
  const auto offset = reinterpret_cast<std::uintptr_t>(code) - reinterpret_cast<std::uintptr_t>(__executable_start);
  return " (code " + hex(offset - 1) + ")";
}

bool in_program(const void* address) {
  const std::less<const void*> before;
  return !before(address, __executable_start) && before(address, _end);
}

}  // namespace

void AccessChecker::add_region(const std::string& name, char* begin, std::size_t bytes, std::size_t guard,
                               Access access, bool shared) {
  auto region = std::make_unique<Region>();
  region->name = name;
  region->begin = begin;
  region->end = begin + bytes;
  region->guard = guard;
  region->access = access;
  region->shared = shared;
  // Offsets are counted from the enclosing multiple of four.
  region->cells.resize(bytes / 4 + 2);
  const auto position = std::upper_bound(regions_.begin(), regions_.end(), begin, [](const char* at, const auto& r) {
    return std::less<const char*>()(at, r->begin);
  });
  regions_.insert(position, std::move(region));
}

void AccessChecker::remove_region(const char* begin) {
  last_ = nullptr;
  std::erase_if(regions_, [&](const auto& region) { return region->begin == begin; });
}

void AccessChecker::begin_launch() {
  ++launch_;
  published_.clear();
}

void AccessChecker::begin_block(unsigned block, unsigned threads) {
  block_ = block;
  threads_ = threads;
  clocks_.assign(std::size_t{threads} * threads, 0);
  for (unsigned t = 0; t < threads; ++t) clocks_[std::size_t{t} * threads + t] = 1;
  clocks_used_ = false;
  followed_.clear();
  ++generation_;
}

void AccessChecker::full_barrier() {
  ++generation_;
  if (!clocks_used_) return;
  std::fill(clocks_.begin(), clocks_.end(), 0);
  for (unsigned t = 0; t < threads_; ++t) clocks_[std::size_t{t} * threads_ + t] = 1;
  clocks_used_ = false;
}

void AccessChecker::partial_barrier(const std::vector<unsigned>& contributors, const std::vector<unsigned>& receivers) {
  Past past;
  for (unsigned t : contributors) release(t, past);
  for (unsigned t : receivers) acquire(t, past);
}

void AccessChecker::release(unsigned thread, Past& to) {
  clocks_used_ = true;
  if (to.generation != generation_) to = {generation_, std::vector<std::uint32_t>(threads_, 0)};
  std::uint32_t* known = &clocks_[std::size_t{thread} * threads_];
  for (unsigned k = 0; k < threads_; ++k) to.clocks[k] = std::max(to.clocks[k], known[k]);
  ++known[thread];
}

void AccessChecker::acquire(unsigned thread, const Past& from) {
  if (from.generation != generation_) return;  // a barrier of the whole block has come since
  clocks_used_ = true;
  std::uint32_t* known = &clocks_[std::size_t{thread} * threads_];
  for (unsigned k = 0; k < threads_; ++k) known[k] = std::max(known[k], from.clocks[k]);
}

void AccessChecker::publish(unsigned thread, const void* flag) {
  Published& to = published_[flag];
  to = {block_, {}};
  release(thread, to.past);
}

void AccessChecker::follow(unsigned thread, const void* flag) {
  const Published& published = published_.at(flag);
  if (published.block == block_) return acquire(thread, published.past);
  clocks_used_ = true;  // others of the block know nothing of it before they have synchronized with the thread
  followed_.push_back({published, generation_, {thread, clock_of(thread), 0, false, nullptr}});
}

AccessChecker::Region* AccessChecker::find(const void* address) {
  const std::less<const void*> before;
  const auto holds = [&](const Region& region) {
    return !before(address, region.begin - region.guard) && before(address, region.end + region.guard);
  };
  if (last_ != nullptr && holds(*last_)) return last_;
  const auto after = std::upper_bound(regions_.begin(), regions_.end(), address,
                                      [&](const void* at, const auto& r) { return before(at, r->begin - r->guard); });
  if (after == regions_.begin() || !holds(**std::prev(after))) return nullptr;
  last_ = std::prev(after)->get();
  return last_;
}

bool AccessChecker::ordered(const Record& earlier, unsigned thread) const {
  return earlier.thread == thread || clocks_[std::size_t{thread} * threads_ + earlier.thread] >= earlier.clock;
}

std::optional<std::string> AccessChecker::check_threads(Region& region, Cell& cell, std::size_t offset,
                                                        const Record& access, bool write) {
  const auto race = [&](const Record& earlier, const char* earlier_verb) {
    return "race in " + region.name + " at byte " + std::to_string(offset) + ": thread " +
           std::to_string(earlier.thread) + " " + earlier_verb + " it" + code_text(earlier.code) + " and thread " +
           std::to_string(access.thread) + (write ? " writes" : " reads") + " it" + code_text(access.code) +
           " with no barrier between";
  };
  if (cell.generation != generation_) {
    cell.generation = generation_;
    cell.reads.clear();
    cell.writes.clear();
  }
  for (const Record& earlier : cell.writes) {
    if ((earlier.bytes & access.bytes) != 0 && !(earlier.atomic && access.atomic) && !ordered(earlier, access.thread))
      return race(earlier, "wrote");
  }
  if (!write) {
    cell.reads.push_back(access);
    if (cell.reads.size() > 4 * std::size_t{threads_} + 16) {  // a thread's last read stands for its earlier ones
      std::vector<Record> latest;
      for (auto read = cell.reads.rbegin(); read != cell.reads.rend(); ++read) {
        const bool known = std::any_of(latest.begin(), latest.end(), [&](const Record& other) {
          return other.thread == read->thread && (read->bytes & ~other.bytes) == 0;
        });
        if (!known) latest.push_back(*read);
      }
      cell.reads = std::move(latest);
    }
    return std::nullopt;
  }
  for (const Record& earlier : cell.reads) {
    if ((earlier.bytes & access.bytes) != 0 && !ordered(earlier, access.thread)) return race(earlier, "read");
  }
  // An ordered write of all four bytes stands for everything before it.
  if (access.bytes == 0xf && !access.atomic) {
    cell.reads.clear();
    cell.writes.clear();
  }
  // A thread's last atomic access stands for its earlier ones: loops that wait make many.
  std::erase_if(cell.writes, [&](const Record& earlier) {
    return earlier.thread == access.thread && earlier.atomic == access.atomic && earlier.bytes == access.bytes;
  });
  cell.writes.push_back(access);
  return std::nullopt;
}

bool AccessChecker::knows(unsigned thread, const Touch& of_other_block) const {
  return std::any_of(followed_.begin(), followed_.end(), [&](const Followed& followed) {
    if (followed.what.block != of_other_block.block) return false;
    if (followed.generation == generation_ && !ordered(followed.by, thread)) return false;
    const Past& past = followed.what.past;
    return of_other_block.generation < past.generation ||
           (of_other_block.generation == past.generation &&
            past.clocks[of_other_block.record.thread] >= of_other_block.record.clock);
  });
}

std::optional<std::string> AccessChecker::check_blocks(Region& region, Cell& cell, std::size_t offset,
                                                       const Record& access, bool write) {
  if (cell.launch != launch_) {
    cell.launch = launch_;
    cell.touches.clear();
  }
  for (const Touch& other : cell.touches) {
    if (other.block == block_ || (other.record.bytes & access.bytes) == 0) continue;
    if (!write && !other.write) continue;
    if ((other.record.atomic && access.atomic) || knows(access.thread, other)) continue;
    return "race in " + region.name + " at byte " + std::to_string(offset) + ": block " + std::to_string(other.block) +
           (other.write ? " wrote" : " read") + " it" + code_text(other.record.code) + " and block " +
           std::to_string(block_) + (write ? " writes" : " reads") + " it" + code_text(access.code) +
           " in the same launch";
  }
  // A thread's last access of a kind stands for its earlier ones.
  std::erase_if(cell.touches, [&](const Touch& mine) {
    return mine.block == block_ && mine.write == write && mine.record.thread == access.thread &&
           mine.record.atomic == access.atomic && mine.record.bytes == access.bytes;
  });
  cell.touches.push_back({block_, generation_, access, write});
  return std::nullopt;
}

std::optional<std::string> AccessChecker::check(unsigned thread, const void* address, std::size_t bytes,
                                                AccessKind kind, const void* code) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const bool write = kind != AccessKind::kRead;
  const std::string what = std::string(write ? "write" : "read") + " of " + std::to_string(bytes) + " bytes";
  Region* region = find(address);
  if (region == nullptr) {
    if (!write && in_program(address)) return std::nullopt;
    return what + " at " + hex(at) + ", which is in no buffer and no shared memory" + code_text(code);
  }
  const auto begin = reinterpret_cast<std::uintptr_t>(region->begin);
  if (at < begin || at + bytes > reinterpret_cast<std::uintptr_t>(region->end)) {
    return what + " outside " + region->name + ": at byte " + std::to_string(static_cast<std::ptrdiff_t>(at - begin)) +
           " of " + std::to_string(region->end - region->begin) + code_text(code);
  }
  const std::size_t alignment = std::min<std::size_t>(bytes, 16);
  if ((alignment & (alignment - 1)) == 0 && at % alignment != 0) {
    return "misaligned " + what + " at byte " + std::to_string(at - begin) + " of " + region->name + code_text(code);
  }
  if (write && region->access == Access::kReadOnly) {
    return what + " in " + region->name + " at byte " + std::to_string(at - begin) + ", which is read-only" +
           code_text(code);
  }

  const std::uintptr_t origin = begin & ~std::uintptr_t{3};
  for (std::uintptr_t word = at & ~std::uintptr_t{3}; word < at + bytes; word += 4) {
    const std::uintptr_t first = std::max(word, at), last = std::min(word + 4, at + bytes);
    const auto touched = static_cast<std::uint8_t>(((1u << (last - first)) - 1) << (first - word));
    const Record record{thread, clock_of(thread), touched, kind == AccessKind::kAtomic, code};
    Cell& cell = region->cells[(word - origin) / 4];
    if (region->access == Access::kReadOnly) continue;  // nothing can conflict
    if (auto error = check_threads(*region, cell, first - begin, record, write)) return error;
    if (region->shared) continue;
    if (auto error = check_blocks(*region, cell, first - begin, record, write)) return error;
    if (write) cell.written |= touched;
    if (region->access == Access::kScratch && (touched & ~cell.written) != 0)
      return what + " in " + region->name + " at byte " + std::to_string(first - begin) + ", which nobody has written" +
             code_text(code);
  }
  return std::nullopt;
}

}  // namespace emulator
