// How rows that go abreast (MS_ABREAST) store a tile of outputs. Their channels are adjacent, so that a step of all of
// them is one run of memory, while a warp's own share of it may begin in the middle of a sector: such a sector, written
// in two parts by two warps at different times, is read from memory besides. Here each warp stores whole steps of the
// block instead, of which only the ends share a sector with another block. Measured on an H100, 47 sequences of 3244
// steps, 5 states of fp16, in us:
//
//   channels   a step's bytes are    a row to a block   four, in step   the same, steps stored whole
//   1024       whole sectors         498                416             416
//   1000       half sectors          940                655             503
//   990        neither               982                779             611
#pragma once

#include "selective_scan/tile_copy.cuh"

namespace mamba_scan {
namespace {

constexpr bool kStoresAbreast =
    kAbreast > 1 && !kSeqContiguous && kWarpChannels * kElementBytes >= 16 &&
    (MS_Y_ACCESS == kWords || (MS_Y_ACCESS == kVectors && SequenceChunks<kVectors>::kByPointer));

constexpr int kBlockChunks = kStoresAbreast ? kAbreast * kWarpChannels / kChunkElements : 1;  // of a step
static_assert(32 % kBlockChunks == 0, "a thread's chunks are in the same column");

// Steps of a tile that a thread takes part in: where they are in the first warp's shared memory, and in memory.
struct BlockSteps {
  const Element* tile;
  char* row;
  int step;

  __device__ __forceinline__ void go_on(int steps, Index step_bytes) {
    tile += steps * kOutputPitch, row += steps * step_bytes, step += steps;
  }
};

// What the block stores of a tile.
struct BlockOutputs {
  BlockSteps begin;
  Index step_bytes;
  int channels, steps;  // that exist
};

// From a warp's last channel to the next warp's first.
constexpr int kToNextWarp = static_cast<int>(sizeof(Shared) / kElementBytes) - kWarpChannels;
__device__ __forceinline__ const Element* output_at(const Element* step, int channel) {
  return step + channel + channel / kWarpChannels * kToNextWarp;
}

// Calls visit(steps) for each step that the thread takes part in, `places` threads to a step.
template <class Visit>
__device__ __forceinline__ void for_each_step(const BlockOutputs& outputs, int thread, int threads, int places,
                                              Visit visit) {
  BlockSteps at = outputs.begin;
  at.go_on(thread / places, outputs.step_bytes);
#pragma unroll 2
  for (; at.step < outputs.steps; at.go_on(threads / places, outputs.step_bytes)) visit(at);
}

// Of rows that begin anywhere: the chunks that a step has whole.
__device__ __forceinline__ void store_chunks(const BlockOutputs& outputs, int thread, int threads) {
  constexpr int kInWord = 4 / kElementBytes;
  for_each_step(outputs, thread, threads, kBlockChunks, [&](const BlockSteps& at) {
    const int shift = shift_of_row<kWindows>(at.row);
    const int channel = (thread % kBlockChunks + (shift > 0)) * kChunkElements - shift;
    if (channel + kChunkElements > outputs.channels) return;
    const int first = channel / kInWord * kInWord, in_warp = first % kWarpChannels;
    const Element* from = output_at(at.tile, first);
    const auto word = [&](int i) {
      const int place = i * kInWord + (in_warp + i * kInWord >= kWarpChannels ? kToNextWarp : 0);
      return *reinterpret_cast<const unsigned*>(from + place);
    };
    store_chunk(at.row + channel * kElementBytes, channel % 2 != 0, word);
  });
}

// Elements before and after these. They are less than two chunks, and one at most where channels fill whole chunks.
__device__ __forceinline__ void store_ends(const BlockOutputs& outputs, int thread, int threads) {
  const int places = outputs.channels % kChunkElements == 0 ? kChunkElements : 2 * kChunkElements;
  const int place = thread & (places - 1);
  for_each_step(outputs, thread, threads, places, [&](const BlockSteps& at) {
    const int shift = shift_of_row<kWindows>(at.row);
    const int before = min((kChunkElements - shift) % kChunkElements, outputs.channels);
    const int whole = (outputs.channels - before) / kChunkElements * kChunkElements;
    const int channel = place < before ? place : place + whole;
    if (channel < outputs.channels)
      store_global<kElementBytes>(at.row + channel * kElementBytes, output_at(at.tile, channel));
  });
}

// Of aligned rows.
__device__ __forceinline__ void store_block_vectors(const BlockOutputs& outputs, int thread, int threads) {
  const int channel = thread % kBlockChunks * kChunkElements;
  for_each_step(outputs, thread, threads, kBlockChunks, [&](const BlockSteps& at) {
    const Element* from = output_at(at.tile, channel);
    char* to = at.row + channel * kElementBytes;
    if (channel + kChunkElements <= outputs.channels) {
      store_global<16>(to, from);
    } else {
      for (int k = 0; channel + k < outputs.channels; ++k)
        store_global<kElementBytes>(to + k * kElementBytes, from + k);
    }
  });
}

// `own`: the warp's own outputs of the tile. All threads of the block call this, once all have written theirs.
__device__ __forceinline__ void store_abreast(const Element* own, const SelectiveScanForwardParams& params,
                                              const Shared& shared, int tile) {
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, threads = threads_abreast(shared);
  const Row& row = shared.piece.row;
  const SequenceTensor& y = params.problem.y;
  Row block = row;
  block.first_channel -= warp * kWarpChannels;
  const int in_group = block.first_channel - row.group * params.channels_per_group;
  const int steps = steps_of_tile(params.problem, tile);
  const Rows rows = sequence_rows(y, block, static_cast<Index>(tile) * kTile, steps, kWarpChannels);
  BlockOutputs outputs;
  outputs.begin.tile = own - warp * (kToNextWarp + kWarpChannels);
  outputs.begin.row = reinterpret_cast<char*>(const_cast<Element*>(rows.from));
  outputs.begin.step = 0;
  outputs.step_bytes = y.seq_stride * kElementBytes;
  outputs.channels = min(kAbreast * kWarpChannels, params.channels_per_group - in_group);
  outputs.steps = steps;
  if constexpr (MS_Y_ACCESS == kWords) {
    store_chunks(outputs, thread, threads);
    store_ends(outputs, thread, threads);
  } else {
    store_block_vectors(outputs, thread, threads);
  }
}

}  // namespace
}  // namespace mamba_scan
