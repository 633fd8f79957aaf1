// Rows of forward.cu and carry.cu whose channels are adjacent but begin anywhere: a lane reads and writes the elements
// of its channel in global memory itself, and reads those of a group of steps while it computes the group before. By
// way of shared memory, copying, reading and storing such rows takes some 50 of the 80 instructions of a step of few
// states, and 45 of the 145 of one of 16. On an H200, in us, by tiles and directly:
//
//   batch, seqlen, dim, dstate                           by tiles   directly
//   47, 3244, 990, 5                                     556        400
//   61, 2453, 205, 2, fp32                               297        171
//   4, 105403, 196, 1, in four groups, cut in time       548        321
//   47, 3244, 990, 16                                    1033       864
//   8, 2047, 5118, 16                                    647        542
//   4, 105403, 196, 16, in four groups, cut in time      907        753
//
// One channel of a lane, which it shares with none. Of a warp with fewer channels than lanes, the lanes left over read
// what the last channel's lane reads, and write nothing.
#pragma once

#include "selective_scan/tile_values.cuh"

namespace mamba_scan {
namespace {

// Of a group: u, delta and z of the lane's channel, as they lie in memory.
struct RawSteps {
  Element u[kSteps], delta[kSteps], z[MS_HAS_Z ? kSteps : 1];
};

// The inputs of a piece, a group of steps at a time, each read while the one before it is computed. FORWARDS: from the
// piece's begin to its end, which may lie inside a group; otherwise whole tiles from the end back to the begin.
template <bool FORWARDS>
class DirectInputs {
 public:
  __device__ __forceinline__ void enter(const SelectiveScanProblem& p, const Piece& piece, LaneId id) {
    const Row& row = piece.row;
    const Index begin = static_cast<Index>(piece.begin) * kTile, end = static_cast<Index>(piece.end) * kTile;
    unread_ = (FORWARDS ? min(end, p.seqlen) : end) - begin;
    const int channel = row.first_channel + min(id.quad, row.channels - 1);
    const auto first = [&](const SequenceTensor& x) {
      return static_cast<const Element*>(x.data) + row.batch * x.batch_stride +
             (FORWARDS ? begin : end - 1) * x.seq_stride + channel * x.dim_stride;
    };
    u_ = first(p.u), delta_ = first(p.delta);
    if constexpr (MS_HAS_Z) z_ = first(p.z);
    read_group(p);
  }

  // The next group. Steps past the end of the sequence leave the state as it is, see forget_steps().
  __device__ __forceinline__ RawSteps take(const SelectiveScanProblem& p) {
    const RawSteps taken = ahead_;
    if (unread_ > 0) read_group(p);
    return taken;
  }

 private:
  __device__ __forceinline__ void read_group(const SelectiveScanProblem& p) {
    if (!FORWARDS || unread_ >= kSteps) {
      read_steps<kSteps>(p);
    } else {
      read_steps<0>(p);
    }
    unread_ -= kSteps;
  }

  // SURE: steps that are there without looking.
  template <int SURE>
  __device__ __forceinline__ void read_steps(const SelectiveScanProblem& p) {
    read_tensor<SURE>(p.u.seq_stride, 0.0f, u_, ahead_.u);
    read_tensor<SURE>(p.delta.seq_stride, missing_delta(), delta_, ahead_.delta);
    if constexpr (MS_HAS_Z) read_tensor<SURE>(p.z.seq_stride, 0.0f, z_, ahead_.z);
  }

  template <int SURE>
  __device__ __forceinline__ void read_tensor(Index stride, float missing, const Element*& from,
                                              Element (&to)[kSteps]) {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      Element& element = to[FORWARDS ? i : kSteps - 1 - i];
      if (i >= SURE) from_float(missing, element);
      if (i < SURE || i < unread_) load_global<kElementBytes>(from, &element);
      from += FORWARDS ? stride : -stride;
    }
  }

  RawSteps ahead_;
  const Element *u_, *delta_, *z_;  // of the group after that, the lane's channel
  Index unread_;                    // steps of the piece
};

// The same with where outputs go.
class DirectRows {
 public:
  __device__ __forceinline__ void enter(const SelectiveScanProblem& p, const Piece& piece, LaneId id) {
    const Row& row = piece.row;
    stores_ = id.quad < row.channels;
    y_ = static_cast<Element*>(const_cast<void*>(p.y.data)) + row.batch * p.y.batch_stride +
         static_cast<Index>(piece.begin) * kTile * p.y.seq_stride +
         (row.first_channel + min(id.quad, row.channels - 1)) * p.y.dim_stride;
    inputs_.enter(p, piece, id);
  }

  __device__ __forceinline__ RawSteps take(const SelectiveScanProblem& p) { return inputs_.take(p); }

  // The outputs of the group taken last, of which `existing` steps exist.
  __device__ __forceinline__ void store(const SelectiveScanProblem& p, const float (&y)[kSteps], int existing) {
    const Index stride = p.y.seq_stride;
    Element* to = y_;
#pragma unroll
    for (int t = 0; t < kSteps; ++t) {
      Element rounded;
      from_float(y[t], rounded);
      if (stores_ && t < existing) store_global<kElementBytes>(to, &rounded);
      to += stride;
    }
    y_ = to;
  }

 private:
  DirectInputs<true> inputs_;
  Element* y_;  // of the group taken last
  bool stores_;
};

}  // namespace
}  // namespace mamba_scan
