// Selective scan, forward, of short rows that lie side by side: all steps of a warp's channels are one run of memory,
// as in the (batch, dim, seqlen) tensors of vision models, whose rows of 49, 196 or 197 steps seldom begin with a
// vector. forward.cu, tile by tile, moves such rows in pieces that begin and end anywhere; here the run is moved whole,
// in vectors of 16 bytes, and what a tile costs besides its steps is spent once for a row.
//
// Grid: a block of one warp for every row (batch, group, channels of a warp); a lane has a channel and all its states.
//
//   B and C of all steps -> registers        as many as fit
//   copies of the runs of u, delta, z -> shared
//   B and C -> shared                        in fp32
//   all steps, kSteps at a time              y replaces u
//   store the run of y
//
// Lanes read vectors of as many elements as all rows begin with a multiple of (MS_ROW_VECTOR). Where that is less than
// a whole vector of 16 bytes, rows of adjacent lanes lie in different banks, or in the same by twos.
//
// Measured on an H200, 64 images, fp16 with softplus, bias and D, in us; the roof is memory's but for the last:
//
//   seqlen, dim, N   roof   forward.cu   here, asynchronous copies   here, bulk copies
//   49, 3072, 1      14     67           24                          21
//   196, 1536, 1     27     76           44                          38
//   49, 6144, 16     74     173          117                         114
//
// The first version waited for B and C of 32 steps at a time, and took 28 and 56.
//
// Constants: see warp_tile.cuh; tiles are of no meaning here. MS_ROW_VECTOR also divides the number of steps. MS_BULK:
// 1 on a device with an engine for bulk copies, from sm_90 on. Real states that one launch holds, of one channel of a
// lane; B and C that vary; sequences that are not packed. The launch provides the shared memory, which depends on the
// number of steps.
#include "selective_scan/lane.cuh"
#include "selective_scan/tile_rows.cuh"

#define MS_COPIES_IN_BULK (MS_BULK && MS_HAS_BULK_COPIES)

namespace mamba_scan {
namespace {

constexpr int kRowVector = MS_ROW_VECTOR;
constexpr int kRuns = MS_HAS_Z ? 3 : 2;

static_assert(kLanes == 1 && kChannels == 1 && kWarps == 1 && !kServed && kAbreast == 1 && kSeqContiguous,
              "a lane reads its own row");
static_assert(!MS_COMPLEX && !MS_CUT && !MS_INVARIANT && !MS_PACKED && !MS_SLICE && !kPrepared && !kBConstant &&
                  !kCConstant,
              "left to forward.cu");
static_assert(kSteps % kRowVector == 0, "a group of steps is whole vectors");
static_assert(kPaddedStates == kStates && kStateVector * 4 <= 16, "a step's states lie in their order");

// ---- runs ----

// Where a row's elements are in memory. They lie in vectors of 16 bytes, and begin somewhere in the first of these.
struct Run {
  const Element* first;
  int elements;

  __device__ __forceinline__ int shift() const { return shift_of_row<kWindows>(first); }
  __device__ __forceinline__ int vectors() const { return (shift() + elements + kChunkElements - 1) / kChunkElements; }
  __device__ __forceinline__ const uint4* begin() const { return reinterpret_cast<const uint4*>(first - shift()); }
};

__device__ __forceinline__ Run run_of(const SequenceTensor& x, const Row& row, int steps) {
  const Element* first =
      static_cast<const Element*>(x.data) + row.batch * x.batch_stride + static_cast<Index>(row.first_channel) * steps;
  return {kReverse ? first - (steps - 1) : first, row.channels * steps};
}

// The block's shared memory: an event, runs of u, delta and z with all their vectors, B and C.
struct Memory {
  uint4* begin;
  int steps;

  __device__ __forceinline__ uint4* run(int i) const {
    constexpr int kBytes = 16;
    const int vectors = (steps * kWarpChannels * kElementBytes + 2 * (kBytes - kElementBytes)) / kBytes;
    return begin + 1 + i * vectors;
  }
  __device__ __forceinline__ float* B() const { return reinterpret_cast<float*>(run(kRuns)); }
  __device__ __forceinline__ float* C() const { return B() + (steps * kStates + 3) / 4 * 4; }
};

#if MS_COPIES_IN_BULK
__device__ __forceinline__ Event& arrival_of_runs(const Memory& memory) {
  return *reinterpret_cast<Event*>(memory.begin);
}

__device__ __forceinline__ void copy_runs(const Memory& memory, const Run (&runs)[kRuns], int lane) {
  if (lane == 0) {
    Event& arrival = arrival_of_runs(memory);
    int vectors = 0;
#pragma unroll
    for (int i = 0; i < kRuns; ++i) vectors += runs[i].vectors();
    event_init(arrival, 1);
    event_signal_bytes(arrival, vectors * 16);
#pragma unroll
    for (int i = 0; i < kRuns; ++i) bulk_load(memory.run(i), runs[i].begin(), runs[i].vectors() * 16, arrival);
  }
  __syncwarp();
}

__device__ __forceinline__ void await_runs(const Memory& memory) { event_wait(arrival_of_runs(memory), 0); }
#else
__device__ __forceinline__ void copy_runs(const Memory& memory, const Run (&runs)[kRuns], int lane) {
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    const int vectors = runs[r].vectors();
    uint4* to = memory.run(r);
    const uint4* from = runs[r].begin();
#pragma unroll 4
    for (int i = lane; i < vectors; i += 32) async_copy<16>(to + i, from + i);
  }
  async_commit();
}

__device__ __forceinline__ void await_runs(const Memory&) { async_wait<0>(); }
#endif

// Whole vectors of a run, to memory where they are whole vectors, too.
__device__ __forceinline__ void store_vectors(Element* to, const Element* from, int vectors, int lane) {
#if MS_COPIES_IN_BULK
  if (lane == 0 && vectors > 0) bulk_store(to, from, vectors * 16);
#else
#pragma unroll 4
  for (int i = lane; i < vectors; i += 32) store_global<16>(to + i * kChunkElements, from + i * kChunkElements);
#endif
}

// The same of a run that begins elsewhere in a vector than it does in memory.
__device__ __forceinline__ void store_moved_vectors(Element* to, const Element* from, int vectors, int lane) {
  constexpr int kInWord = 4 / kElementBytes;
  const int odd = kInWord == 2 ? is_second_half(from) : 0;
#pragma unroll 2
  for (int i = lane; i < vectors; i += 32) {
    const auto* words = reinterpret_cast<const unsigned*>(from - odd + i * kChunkElements);
    store_chunk(reinterpret_cast<char*>(to + i * kChunkElements), odd != 0, [&](int k) { return words[k]; });
  }
}

// y, which all lanes have written to shared memory.
__device__ __forceinline__ void store_run(const Element* y, const Run& run, int lane) {
  Element* const to = const_cast<Element*>(run.first);
  const int before = min((kChunkElements - run.shift()) % kChunkElements, run.elements);
  const int vectors = (run.elements - before) / kChunkElements, after = before + vectors * kChunkElements;
#if MS_COPIES_IN_BULK
  bulk_fence();
#endif
  __syncwarp();
  if (shift_of_row<kWindows>(y) == run.shift()) {
    store_vectors(to + before, y + before, vectors, lane);
  } else {
    store_moved_vectors(to + before, y + before, vectors, lane);
  }
  // Less than a vector each, before the first whole one and after the last.
  const bool is_before = lane < kChunkElements;
  const int place = is_before ? lane : after + lane - kChunkElements;
  if (place < (is_before ? before : run.elements) && lane < 2 * kChunkElements)
    store_global<kElementBytes>(to + place, y + place);
#if MS_COPIES_IN_BULK
  bulk_wait();
#endif
}

// ---- B and C ----

// B or C of all steps, in fp32, a step's states side by side. A lane takes every 32nd step, of several steps at a time:
// what it waits for is the way to memory and back.
template <int ORDER, int ACCESS>
class StatesOfSteps {
 public:
  __device__ __forceinline__ StatesOfSteps(const ProjectionTensor& tensor, const Row& row, int lane)
      : tensor_(tensor),
        from_(static_cast<const Element*>(tensor.data) + row.batch * tensor.batch_stride +
              row.group * tensor.group_stride),
        lane_(lane) {}

  static constexpr int kRound = 32 * (kStates == 1 ? 8 : 16 / kStates);  // steps

  // Of the round that begins with step `begin`. Nothing waits for them yet.
  __device__ __forceinline__ void load(int begin, int steps) {
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) {
      const int t = begin + i * 32 + lane_;
      const Element* step = from_ + t * tensor_.seq_stride;
#pragma unroll
      for (int v = 0; v < kReads; ++v)
        if (t < steps) load_global<kVector * kElementBytes>(step + v * kVector * tensor_.state_stride, &raw_[i][v]);
    }
  }

  __device__ __forceinline__ void store(float* to, int begin, int steps) const {
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) {
      const int t = begin + i * 32 + lane_;
      if (t >= steps) break;
#pragma unroll
      for (int first = 0; first < kStates; first += kStateVector) {
        struct __align__(4 * kStateVector) Vector {
          float value[kStateVector];
        } vector;
#pragma unroll
        for (int k = 0; k < kStateVector; ++k) {
          const int n = first + k;
          vector.value[k] = n < kDState ? to_float(raw_[i][n / kVector].value[n % kVector]) : 0.0f;
        }
        *reinterpret_cast<Vector*>(to + t * kStates + first) = vector;
      }
    }
  }

 private:
  static constexpr bool kAreVectors = ORDER == 0 && ACCESS == kVectors;  // the states of a step
  static constexpr int kVector = kAreVectors ? kChunkBytes<kDState * kElementBytes> / kElementBytes : 1;
  static constexpr int kReads = kDState / kVector, kOfLane = kRound / 32;

  const ProjectionTensor& tensor_;
  const Element* from_;
  int lane_;
  Elements<kVector> raw_[kOfLane][kReads];
};

// ---- steps ----

// What the steps of a lane's row are read from, and where its outputs go.
struct LaneRow {
  Element* u;                // y replaces it
  const Element *delta, *z;  // the latter of no meaning where there is none
  const float *B, *C;        // of all channels
  int steps;

  // Where COUNT steps from step `first` on begin.
  template <int COUNT>
  __device__ __forceinline__ int at(int first) const {
    return kReverse ? steps - COUNT - first : first;
  }
};

template <int COUNT>
__device__ __forceinline__ void read_steps(const Element* from, float (&to)[COUNT]) {
  constexpr int kVector = COUNT < kRowVector ? COUNT : kRowVector;
#pragma unroll
  for (int i = 0; i < COUNT; i += kVector) {
    const auto vector = read_elements<kVector>(from + i);
#pragma unroll
    for (int k = 0; k < kVector; ++k) to[place_in_steps<COUNT>(i + k)] = to_float(vector.value[k]);
  }
}

template <int COUNT>
__device__ __forceinline__ void write_steps(const float (&from)[COUNT], Element* to) {
  constexpr int kVector = COUNT < kRowVector ? COUNT : kRowVector;
#pragma unroll
  for (int i = 0; i < COUNT; i += kVector) {
    Elements<kVector> vector;
#pragma unroll
    for (int k = 0; k < kVector; ++k) from_float(from[place_in_steps<COUNT>(i + k)], vector.value[k]);
    *reinterpret_cast<Elements<kVector>*>(to + i) = vector;
  }
}

// B or C of COUNT steps. Of few states those of several steps are a vector.
template <int COUNT>
__device__ __forceinline__ void read_states_of_steps(const float* from, float (&to)[COUNT][kStates]) {
  constexpr int kFill = kStates == 1 ? 4 : kStates == 2 ? 2 : 1, kTogether = kFill < COUNT ? kFill : COUNT;
#pragma unroll
  for (int t = 0; t < COUNT; t += kTogether) {
    float some[kTogether * kStates];
    read_floats(from + t * kStates, some);
#pragma unroll
    for (int k = 0; k < kTogether * kStates; ++k) to[t + k / kStates][k % kStates] = some[k];
  }
}

template <int COUNT>
__device__ __forceinline__ void scan_steps(const LaneRow& row, int first, Lane& self) {
  const int at = row.at<COUNT>(first);
  float u[COUNT], delta[COUNT], y[COUNT], B[COUNT][kStates], C[COUNT][kStates];
  read_steps(row.delta + at, delta);
  read_steps(row.u + at, u);
  read_states_of_steps(row.B + first * kStates, B);
  read_states_of_steps(row.C + first * kStates, C);
#pragma unroll
  for (int t = 0; t < COUNT; ++t) {
#if MS_HAS_BIAS
    delta[t] += self.delta.bias[0];
#endif
#if MS_SOFTPLUS
    delta[t] = softplus<kPreciseDelta>(delta[t]);
#endif
  }
#pragma unroll
  for (int t = 0; t < COUNT; ++t) {
    const float of_step[1] = {delta[t]}, delta_u[1] = {delta[t] * u[t]};
    float sum[1] = {0.0f};
#if MS_HAS_D
    sum[0] = self.D[0] * u[t];
#endif
    advance_states(of_step, delta_u, B[t], C[t], self, sum);
    y[t] = sum[0];
  }
#if MS_HAS_Z
  float z[COUNT];
  read_steps(row.z + at, z);
  multiply_silu(z, y);
#endif
  write_steps(y, row.u + at);
}

// Less than 2 * COUNT steps from step `first` on.
template <int COUNT>
__device__ __forceinline__ void scan_rest(const LaneRow& row, int first, Lane& self) {
  if constexpr (COUNT >= kRowVector) {
    if (first + COUNT <= row.steps) {
      scan_steps<COUNT>(row, first, self);
      first += COUNT;
    }
    scan_rest<COUNT / 2>(row, first, self);
  }
}

__device__ __forceinline__ void scan_row(const LaneRow& row, Lane& self) {
  int first = 0;
#pragma unroll 1
  for (; first + kSteps <= row.steps; first += kSteps) scan_steps<kSteps>(row, first, self);
  scan_rest<kSteps / 2>(row, first, self);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32, MS_MIN_BLOCKS)
    selective_scan_whole_rows(const SelectiveScanForwardParams params) {
  MS_DYNAMIC_SHARED(uint4, begin);
  const SelectiveScanProblem& p = params.problem;
  const LaneId id = lane_id();
  const Row row = row_of(params, static_cast<int>(blockIdx.x));
  const int steps = static_cast<int>(p.seqlen);
  const Memory memory = {begin, steps};

  StatesOfSteps<MS_B_ORDER, MS_B_ACCESS> B(p.B, row, id.lane);
  StatesOfSteps<MS_C_ORDER, MS_C_ACCESS> C(p.C, row, id.lane);
  B.load(0, steps);
  C.load(0, steps);
  Lane self;
  load_lane(p, row, id, self);
#if MS_HAS_Z
  const Run runs[kRuns] = {run_of(p.u, row, steps), run_of(p.delta, row, steps), run_of(p.z, row, steps)};
#else
  const Run runs[kRuns] = {run_of(p.u, row, steps), run_of(p.delta, row, steps)};
#endif
  copy_runs(memory, runs, id.lane);
#pragma unroll 1
  for (int done = 0;;) {
    B.store(memory.B(), done, steps);
    C.store(memory.C(), done, steps);
    done += B.kRound;
    if (done >= steps) break;
    B.load(done, steps);
    C.load(done, steps);
  }
  start_state(p, row, row.batch, id, self);
  await_runs(memory);
  __syncwarp();

  const auto in_shared = [&](int i) { return reinterpret_cast<Element*>(memory.run(i)) + runs[i].shift(); };
  if (id.lane < row.channels) {
    const int first = id.lane * steps;
    const LaneRow of_lane = {in_shared(0) + first, in_shared(1) + first, in_shared(kRuns - 1) + first,
                             memory.B(),           memory.C(),           steps};
    scan_row(of_lane, self);
  }
  store_run(in_shared(0), run_of(p.y, row, steps), id.lane);
  store_state(p, row, row.batch, id, self);
}

}  // namespace mamba_scan
