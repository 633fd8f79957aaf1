// Rows of few states in forward.cu whose channels are adjacent but begin anywhere: a lane reads and writes the elements
// of its channel in global memory itself, and reads those of a group of steps while it computes the group before. By
// way of shared memory copying, reading and storing such rows takes some 50 of a step's 80 instructions. On an H200, in
// us, by tiles and directly: 47, 3244, 990 with 5 states 556 and 400; 61, 2453, 205 with 2 in fp32 297 and 171; 4,
// 105403, 196 with 1, in four groups and cut in time, 548 and 323.
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

class DirectRows {
 public:
  __device__ __forceinline__ void enter(const SelectiveScanForwardParams& params, const Piece& piece, LaneId id) {
    const SelectiveScanProblem& p = params.problem;
    const Row& row = piece.row;
    const Index first_step = static_cast<Index>(piece.begin) * kTile;
    unread_ = min(static_cast<Index>(piece.end) * kTile, p.seqlen) - first_step;
    stores_ = id.quad < row.channels;
    const int channel = row.first_channel + min(id.quad, row.channels - 1);
    const auto first = [&](const SequenceTensor& x) {
      return static_cast<const Element*>(x.data) + row.batch * x.batch_stride + first_step * x.seq_stride +
             channel * x.dim_stride;
    };
    u_ = first(p.u), delta_ = first(p.delta), y_ = const_cast<Element*>(first(p.y));
    if constexpr (MS_HAS_Z) z_ = first(p.z);
    read_group(p);
  }

  // The next group. Steps past the end of the sequence leave the state as it is, see forget_steps().
  __device__ __forceinline__ RawSteps take(const SelectiveScanForwardParams& params) {
    const RawSteps taken = ahead_;
    if (unread_ > 0) read_group(params.problem);
    return taken;
  }

  // The outputs of the group taken last, of which `existing` steps exist.
  __device__ __forceinline__ void store(const SelectiveScanForwardParams& params, const float (&y)[kSteps],
                                        int existing) {
    const Index stride = params.problem.y.seq_stride;
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
  __device__ __forceinline__ void read_group(const SelectiveScanProblem& p) {
    if (unread_ >= kSteps) {
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
    for (int t = 0; t < kSteps; ++t) {
      if (t >= SURE) from_float(missing, to[t]);
      if (t < SURE || t < unread_) load_global<kElementBytes>(from, &to[t]);
      from += stride;
    }
  }

  RawSteps ahead_;
  const Element *u_, *delta_, *z_;  // of the group after that, the lane's channel
  Element* y_;                      // of the group taken last
  Index unread_;                    // steps of the piece
  bool stores_;
};

}  // namespace
}  // namespace mamba_scan
