#include "host_copy.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <system_error>
#include <thread>

#if defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#define MAMBA_SCAN_STREAMING_STORES 1
#endif

namespace mamba_scan::binding {
namespace {

// What a thread takes at a time: small enough that a slow page fault delays the others little.
constexpr std::int64_t kTakeBytes = 4 << 20;
constexpr std::int64_t kBytesWorthAThread = 1 << 20;
// From here on the copy is read again, if at all, when no cache holds it any more (by a copy engine, most often), so
// it is written past the caches: ordinary stores first read what they overwrite, half as much traffic again.
constexpr std::int64_t kBytesPastCaches = 8 << 20;

#ifdef MAMBA_SCAN_STREAMING_STORES
void copy_past_caches(std::byte* to, const std::byte* from, std::size_t bytes) {
  constexpr std::size_t kVector = sizeof(__m128i);
  constexpr std::size_t kLine = 4 * kVector;  // written together, so that whole lines leave
  const std::size_t misplaced = reinterpret_cast<std::uintptr_t>(to) % kLine;
  const std::size_t head = std::min(bytes, misplaced == 0 ? 0 : kLine - misplaced);
  std::memcpy(to, from, head);
  std::size_t at = head;
  for (; at + kLine <= bytes; at += kLine) {
    __m128i line[4];
    for (int i = 0; i < 4; ++i) line[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at + i * kVector));
    for (int i = 0; i < 4; ++i) _mm_stream_si128(reinterpret_cast<__m128i*>(to + at + i * kVector), line[i]);
  }
  std::memcpy(to + at, from + at, bytes - at);
  _mm_sfence();  // before anybody is told that the copy is there
}
#else
void copy_past_caches(std::byte* to, const std::byte* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
#endif

void copy_through_caches(std::byte* to, const std::byte* from, std::size_t bytes) { std::memcpy(to, from, bytes); }

// The runs and their pieces in one order, so that threads can draw numbers.
class Pieces {
 public:
  Pieces(std::byte* destination, const std::byte* source, std::int64_t run_bytes, const std::vector<CopyAxis>& axes)
      : destination_(destination), source_(source), run_bytes_(run_bytes), axes_(axes) {
    for (const CopyAxis& axis : axes_) runs_ *= axis.size;
    pieces_per_run_ = std::max<std::int64_t>(1, (run_bytes_ + kTakeBytes - 1) / kTakeBytes);
    runs_per_take_ = std::max<std::int64_t>(1, kTakeBytes / std::max<std::int64_t>(1, run_bytes_));
    takes_ = pieces_per_run_ > 1 ? runs_ * pieces_per_run_ : (runs_ + runs_per_take_ - 1) / runs_per_take_;
  }

  std::int64_t takes() const { return takes_; }
  std::int64_t bytes() const { return runs_ * run_bytes_; }

  void copy(std::int64_t take) const {
    if (pieces_per_run_ > 1) {
      const std::int64_t begin = take % pieces_per_run_ * kTakeBytes;
      copy_run(take / pieces_per_run_, begin, std::min(begin + kTakeBytes, run_bytes_));
      return;
    }
    const std::int64_t last = std::min((take + 1) * runs_per_take_, runs_);
    for (std::int64_t run = take * runs_per_take_; run < last; ++run) copy_run(run, 0, run_bytes_);
  }

 private:
  void copy_run(std::int64_t run, std::int64_t begin, std::int64_t end) const {
    std::int64_t to = begin;
    std::int64_t from = begin;
    for (auto axis = axes_.rbegin(); axis != axes_.rend(); ++axis) {
      const std::int64_t index = run % axis->size;
      run /= axis->size;
      to += index * axis->destination_stride;
      from += index * axis->source_stride;
    }
    const auto copy = bytes() >= kBytesPastCaches ? copy_past_caches : copy_through_caches;
    copy(destination_ + to, source_ + from, static_cast<std::size_t>(end - begin));
  }

  std::byte* destination_;
  const std::byte* source_;
  std::int64_t run_bytes_;
  const std::vector<CopyAxis>& axes_;
  std::int64_t runs_ = 1;
  std::int64_t pieces_per_run_ = 1;
  std::int64_t runs_per_take_ = 1;
  std::int64_t takes_ = 0;
};

}  // namespace

void copy_runs(std::byte* destination, const std::byte* source, std::int64_t run_bytes,
               const std::vector<CopyAxis>& axes, int threads) {
  const Pieces pieces(destination, source, run_bytes, axes);
  if (pieces.bytes() <= 0) return;
  std::atomic<std::int64_t> next{0};
  const auto work = [&] {
    for (std::int64_t take = next++; take < pieces.takes(); take = next++) pieces.copy(take);
  };
  const std::int64_t useful = std::min(pieces.takes(), pieces.bytes() / kBytesWorthAThread);
  std::vector<std::thread> helpers;
  try {
    for (std::int64_t i = 1; i < std::min<std::int64_t>(threads, useful); ++i) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // No more threads to be had: those that run, this one at least, do it all.
  }
  work();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace mamba_scan::binding
