#include "block.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <numeric>

namespace emulator {
namespace {

constexpr unsigned kWarp = 32;
constexpr unsigned kIdleSweeps = 100000;  // threads that only ever yield wait for something that will not come

thread_local Block* running_block = nullptr;

struct Current {
  explicit Current(Block* block) { running_block = block; }
  ~Current() { running_block = nullptr; }
};

const char* name_of(Collective operation) {
  static constexpr const char* kNames[] = {"__shfl_sync",       "__shfl_up_sync",    "__shfl_down_sync",
                                           "__shfl_xor_sync",   "__ballot_sync",     "__any_sync",
                                           "__all_sync",        "__match_any_sync",  "__syncwarp",
                                           "__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync"};
  return kNames[static_cast<int>(operation)];
}

std::string hex_mask(unsigned mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

std::string text_of(Dim3 index) {
  return std::string("(") + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) +
         ")";
}

}  // namespace

bool Place::operator==(const Place& other) const { return line == other.line && std::strcmp(file, other.file) == 0; }

std::string Place::text() const {
  const char* slash = std::strrchr(file, '/');
  return std::string(slash != nullptr ? slash + 1 : file) + ":" + std::to_string(line);
}

Block::Block(const KernelImage& kernel, const Launch& launch, Dim3 index, void** arguments, char* dynamic_shared,
             std::vector<std::unique_ptr<Fiber>>& fibers, AccessChecker& checker)
    : kernel_(kernel),
      launch_(launch),
      index_(index),
      arguments_(arguments),
      dynamic_shared_(dynamic_shared),
      fibers_(fibers),
      checker_(checker),
      threads_(launch.block.volume()),
      random_(launch.seed) {}

Block* Block::current() { return running_block; }

Dim3 Block::thread_index() const {
  const Dim3 size = launch_.block;
  return {running_ % size.x, running_ / size.x % size.y, running_ / size.x / size.y};
}

void Block::thread_body(void* block) {
  Block& self = *static_cast<Block*>(block);
  self.kernel_.invoke(self.arguments_);
}

void Block::shuffle_order(std::vector<unsigned>& order) {
  if (launch_.order == Order::kShuffled) std::shuffle(order.begin(), order.end(), random_);
}

void Block::resume(unsigned t) {
  running_ = t;
  threads_[t].yielded = false;
  fibers_[t]->resume();
  if (fibers_[t]->overflowed()) failure_ = "thread " + std::to_string(t) + " overflowed its stack";
  if (failure_) throw EmulationError(std::string(kernel_.name) + ", block " + text_of(index_) + ": " + *failure_);
  if (!fibers_[t]->finished()) return;
  threads_[t].state = State::kLeft;
  ++left_;
}

Block::Sweep Block::sweep(std::span<const unsigned> threads) {
  Sweep sweep;
  for (unsigned t : threads) {
    if (threads_[t].state != State::kReady) continue;
    resume(t);
    sweep.ran = true;
    sweep.moved |= !threads_[t].yielded;
  }
  return sweep;
}

void Block::run() {
  const Current current(this);
  std::vector<unsigned> order(threads_.size());
  std::iota(order.begin(), order.end(), 0);
  if (is_backward(launch_.order)) std::reverse(order.begin(), order.end());
  const bool by_warps = is_by_warps(launch_.order);
  const std::size_t together = by_warps ? kWarp : order.size();
  for (unsigned t = 0; t < threads_.size(); ++t) fibers_[t]->start(&thread_body, this);

  unsigned idle_sweeps = 0;
  while (left_ < threads_.size()) {
    shuffle_order(order);
    bool ran = false, moved = false;
    for (std::size_t begin = 0; begin < order.size(); begin += together) {
      const std::span threads(order.data() + begin, std::min(together, order.size() - begin));
      Sweep last;
      do {
        last = sweep(threads);
        ran |= last.ran, moved |= last.moved;
      } while (by_warps && last.moved);
    }
    idle_sweeps = moved ? 0 : idle_sweeps + 1;
    if (!ran || idle_sweeps > kIdleSweeps) {
      throw EmulationError(std::string(kernel_.name) + ", block " + text_of(index_) + ": " +
                           (ran ? "threads wait in a loop for ever: " : "divergence, no thread can go on: ") +
                           describe_all());
    }
  }
}

void Block::yield() {
  threads_[running_].yielded = true;
  fibers_[running_]->suspend();
}

void Block::fail(const std::string& what) {
  failure_ = "thread " + std::to_string(running_) + ": " + what;
  fibers_[running_]->suspend();
  std::abort();  // run() throws and never resumes a thread that failed
}

void Block::access(const void* address, std::size_t bytes, AccessKind kind, const void* code) {
  if (fibers_[running_]->owns(address)) return;
  const auto error = checker_.check(running_, address, bytes, kind, code);
  if (!error) return;
  for (unsigned t = 0; t < threads_.size(); ++t) {
    if (fibers_[t]->owns(address)) fail("touches a local variable of thread " + std::to_string(t));
  }
  fail(*error);
}

// A copy may arrive at any time between its issue and the wait. So it must be ordered after other threads' accesses
// when it is issued and before them when it is waited for, and in between nobody finds anything of use.
void Block::begin_copy(const AsyncCopy& copy) {
  access_all(copy.from, copy.bytes, AccessKind::kRead, copy.code);
  access_all(copy.to, copy.bytes, AccessKind::kWrite, copy.code);
  std::memset(copy.to, kPoison, copy.bytes);
}

void Block::end_copy(const AsyncCopy& copy) {
  access_all(copy.to, copy.bytes, AccessKind::kWrite, copy.code);
  std::memcpy(copy.to, copy.from, copy.bytes);
}

void Block::access_all(const void* begin, std::size_t bytes, AccessKind kind, const void* code) {
  const auto* first = static_cast<const char*>(begin);
  for (std::size_t done = 0; done < bytes; done += kBulkUnit)
    access(first + done, std::min(bytes - done, kBulkUnit), kind, code);
}

void Block::async_copy(const AsyncCopy& copy) {
  begin_copy(copy);
  threads_[running_].copies.back().push_back(copy);
}

void Block::async_commit() { threads_[running_].copies.emplace_back(); }

void Block::async_wait(std::size_t pending) {
  auto& groups = threads_[running_].copies;
  while (groups.size() > pending + 1) {
    for (const AsyncCopy& copy : groups.front()) end_copy(copy);
    groups.erase(groups.begin());
  }
}

unsigned Block::barrier(unsigned id, unsigned count, bool wait, bool predicate, Place place) {
  if (count == 0) count = static_cast<unsigned>(threads_.size());
  if (id >= std::size(barriers_)) fail("barrier " + std::to_string(id) + " at " + place.text() + ": there are 16");
  Barrier& barrier = barriers_[id];
  const bool whole_block = count == threads_.size();
  if (count > threads_.size() || (!whole_block && count % kWarp != 0)) {
    fail("barrier " + std::to_string(id) + " at " + place.text() + " for " + std::to_string(count) +
         " threads: needs a multiple of 32, at most the block's " + std::to_string(threads_.size()));
  }
  if (barrier.arrived == 0) {
    barrier.expected = count;
    barrier.place = place;
    barrier.first = running_;
  } else if (barrier.expected != count || (id == 0 && whole_block && !(barrier.place == place))) {
    fail("barrier divergence: it is at barrier " + std::to_string(id) + " at " + place.text() + " for " +
         std::to_string(count) + " threads, but thread " + std::to_string(barrier.first) + " waits at " +
         barrier.place.text() + " for " + std::to_string(barrier.expected));
  }
  if (std::find(barrier.arrivals.begin(), barrier.arrivals.end(), running_) != barrier.arrivals.end()) {
    fail("arrives at barrier " + std::to_string(id) + " at " + place.text() + " a second time before the " +
         std::to_string(count) + " threads have come");
  }
  ++barrier.arrived;
  barrier.predicates += predicate ? 1 : 0;
  barrier.arrivals.push_back(running_);
  Thread& self = threads_[running_];
  if (wait) {
    barrier.waiting.push_back(running_);
    self.state = State::kAtBarrier;
    self.barrier_id = id;
    self.place = place;
  }
  if (barrier.arrived == barrier.expected) complete_barrier(barrier);
  if (!wait) return 0;
  if (self.state == State::kAtBarrier) fibers_[running_]->suspend();
  return static_cast<unsigned>(self.result);
}

void Block::complete_barrier(Barrier& barrier) {
  if (barrier.waiting.size() == threads_.size()) {
    checker_.full_barrier();
  } else {
    checker_.partial_barrier(barrier.arrivals, barrier.waiting);
  }
  for (unsigned t : barrier.waiting) {
    threads_[t].state = State::kReady;
    threads_[t].result = barrier.predicates;
  }
  barrier = Barrier();
}

void Block::event_init(const void* event, unsigned count, Place place) {
  const auto [entry, is_new] = events_.try_emplace(event);
  if (!is_new) fail("initialises an event twice at " + place.text());
  entry->second.count = count;
  access(event, sizeof(std::uint64_t), AccessKind::kWrite, __builtin_return_address(0));
}

void Block::event_end(const void* event, Place place) {
  event_at(event, place);
  events_.erase(event);
}

Block::Event& Block::event_at(const void* event, Place place) {
  const auto found = events_.find(event);
  if (found == events_.end()) fail("uses what is not an event at " + place.text());
  access(event, sizeof(std::uint64_t), AccessKind::kAtomic, __builtin_return_address(0));
  return found->second;
}

void Block::event_signal(const void* event, Place place) {
  Event& self = event_at(event, place);
  signal(self);
  let_happen(self);
}

void Block::event_signal_bytes(const void* event, std::size_t bytes, Place place) {
  Event& self = event_at(event, place);
  self.awaited += static_cast<std::ptrdiff_t>(bytes);
  signal(self);
  let_happen(self);
}

void Block::signal(Event& event) {
  if (event.signalled++ == 0) event.past[event.happened % 2] = {};
  checker_.release(running_, event.past[event.happened % 2]);
}

void Block::let_happen(Event& event) {
  if (event.signalled < event.count || event.awaited != 0) return;
  event.signalled = 0;
  ++event.happened;
}

// Like those of async_copy(), what is copied arrives when somebody waits for it at last.
void Block::bulk_load(const AsyncCopy& copy, const void* event, Place place) {
  Event& self = event_at(event, place);
  begin_copy(copy);
  self.awaited -= static_cast<std::ptrdiff_t>(copy.bytes);
  self.copies.push_back(copy);
  let_happen(self);
}

// Likewise what is stored is read then: before that nobody may write over it.
void Block::bulk_store(const AsyncCopy& copy) {
  begin_copy(copy);
  threads_[running_].stores.push_back(copy);
}

void Block::bulk_wait() {
  for (const AsyncCopy& copy : threads_[running_].stores) {
    access_all(copy.from, copy.bytes, AccessKind::kRead, copy.code);
    end_copy(copy);
  }
  threads_[running_].stores.clear();
}

void Block::event_wait(const void* event, unsigned parity, Place place) {
  Event& self = event_at(event, place);
  Thread& thread = threads_[running_];
  thread.place = place;
  thread.for_event = true;
  while (self.happened % 2 == parity) yield();
  thread.for_event = false;
  follow(self, parity);
}

bool Block::event_happened(const void* event, unsigned parity, Place place) {
  Event& self = event_at(event, place);
  if (self.happened % 2 == parity) return false;
  follow(self, parity);
  return true;
}

// What was done before the event is done for the running thread.
void Block::follow(Event& event, unsigned parity) {
  checker_.acquire(running_, event.past[parity]);
  if (event.copies.empty()) return;
  for (const AsyncCopy& copy : event.copies) end_copy(copy);
  event.copies.clear();
  checker_.release(running_, event.past[parity]);
}

std::uint64_t Block::collective(const CollectiveCall& call) {
  const unsigned lane = running_ % kWarp, warp = running_ / kWarp;
  const auto where = [&] { return std::string(name_of(call.operation)) + " at " + call.place.text(); };
  if ((call.mask >> lane & 1) == 0) {
    fail(where() + ": lane " + std::to_string(lane) + " is not in its own mask " + hex_mask(call.mask));
  }
  for (unsigned other = 0; other < kWarp; ++other) {
    if ((call.mask >> other & 1) == 0) continue;
    const std::size_t t = std::size_t{warp} * kWarp + other;
    if (t >= threads_.size() || threads_[t].state == State::kLeft) {
      fail(where() + ": mask " + hex_mask(call.mask) + " names lane " + std::to_string(other) + ", which " +
           (t >= threads_.size() ? "does not exist" : "has left the kernel"));
    }
  }
  Thread& self = threads_[running_];
  self.call = call;
  self.place = call.place;
  self.state = State::kInCollective;
  if (collective_is_complete(warp, call)) complete_collective(warp, call);
  if (self.state == State::kInCollective) fibers_[running_]->suspend();
  return self.result;
}

bool Block::collective_is_complete(unsigned warp, const CollectiveCall& call) const {
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if ((call.mask >> lane & 1) == 0) continue;
    const Thread& thread = threads_[warp * kWarp + lane];
    if (thread.state != State::kInCollective || thread.call.operation != call.operation ||
        thread.call.mask != call.mask || thread.call.width != call.width || !(thread.call.place == call.place))
      return false;
  }
  return true;
}

unsigned Block::source_lane(const CollectiveCall& call, unsigned lane) const {
  const unsigned segment = lane & ~(call.width - 1);
  switch (call.operation) {
    case Collective::kShuffle:
      return segment + (call.argument & (call.width - 1));
    case Collective::kShuffleUp:
      return lane >= segment + call.argument ? lane - call.argument : lane;
    case Collective::kShuffleDown:
      return lane + call.argument < segment + call.width ? lane + call.argument : lane;
    default:  // xor; reaching into a later segment gives the lane's own value
      return (lane ^ call.argument) < segment + call.width ? lane ^ call.argument : lane;
  }
}

std::uint64_t Block::reduce(unsigned warp, const CollectiveCall& call, unsigned self) const {
  const auto value = [&](unsigned lane) { return threads_[warp * kWarp + lane].call.value; };
  std::uint64_t result = 0;
  bool first = true;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if ((call.mask >> lane & 1) == 0) continue;
    const std::uint64_t bit = std::uint64_t{1} << lane;
    switch (call.operation) {
      case Collective::kBallot:
        result |= value(lane) != 0 ? bit : 0;
        break;
      case Collective::kMatchAny:
        result |= value(lane) == value(self) ? bit : 0;
        break;
      case Collective::kAny:
        result |= value(lane) != 0;
        break;
      case Collective::kAll:
        result = (first ? 1 : result) & (value(lane) != 0);
        break;
      case Collective::kReduceAdd:
        result = static_cast<std::uint32_t>(result + value(lane));
        break;
      // Signed values come with their order shifted to that of unsigned ones.
      case Collective::kReduceMin:
        result = first ? value(lane) : std::min(result, value(lane));
        break;
      case Collective::kReduceMax:
        result = std::max(result, value(lane));
        break;
      default:
        break;
    }
    first = false;
  }
  return result;
}

void Block::complete_collective(unsigned warp, const CollectiveCall& call) {
  std::vector<unsigned> lanes;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (call.mask >> lane & 1) lanes.push_back(warp * kWarp + lane);
  }
  const bool shuffle = call.operation <= Collective::kShuffleXor;
  for (unsigned t : lanes) {
    const unsigned lane = t % kWarp;
    if (!shuffle) {
      threads_[t].result = reduce(warp, call, lane);
      continue;
    }
    const unsigned source = source_lane(threads_[t].call, lane);
    if (source >= kWarp || (call.mask >> source & 1) == 0) {
      fail(std::string(name_of(call.operation)) + " at " + call.place.text() + ": lane " + std::to_string(lane) +
           " reads lane " + std::to_string(source) + ", which is not in mask " + hex_mask(call.mask));
    }
    threads_[t].result = threads_[warp * kWarp + source].call.value;
  }
  for (unsigned t : lanes) threads_[t].state = State::kReady;
  // Only __syncwarp orders memory; the other collectives move register contents and promise no more.
  if (call.operation != Collective::kSyncWarp) return;
  if (lanes.size() == threads_.size()) {
    checker_.full_barrier();
  } else {
    checker_.partial_barrier(lanes, lanes);
  }
}

std::string Block::describe(unsigned thread) const {
  const Thread& t = threads_[thread];
  switch (t.state) {
    case State::kLeft:
      return "left the kernel";
    case State::kAtBarrier:
      return "waits at barrier " + std::to_string(t.barrier_id) + " at " + t.place.text() + " for " +
             std::to_string(barriers_[t.barrier_id].expected) + " threads";
    case State::kInCollective:
      return std::string("waits in ") + name_of(t.call.operation) + " at " + t.place.text() + " for mask " +
             hex_mask(t.call.mask);
    case State::kReady:
      break;
  }
  if (t.for_event) return "waits for an event at " + t.place.text();
  return "runs";
}

std::string Block::describe_all() const {
  std::map<std::string, std::vector<unsigned>> groups;
  for (unsigned t = 0; t < threads_.size(); ++t) groups[describe(t)].push_back(t);
  std::string text;
  for (const auto& [state, members] : groups) {
    text += text.empty() ? "" : "; ";
    text += members.size() == 1 ? "thread " : "threads ";
    for (std::size_t i = 0; i < members.size();) {  // runs of neighbours as a-b
      std::size_t last = i;
      while (last + 1 < members.size() && members[last + 1] == members[last] + 1) ++last;
      text.append(i == 0 ? "" : ",").append(std::to_string(members[i]));
      if (last > i) text.append("-").append(std::to_string(members[last]));
      i = last + 1;
    }
    text.append(" ").append(state);
  }
  return text;
}

}  // namespace emulator
