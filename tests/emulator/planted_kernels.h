// Kernels of the tests' own: some correct, some with one mistake each.
#pragma once

#include "kernel_image.h"

namespace emulator {

extern const KernelImage kBlockSum, kTranspose, kWarpSums, kShuffles, kVotes, kHistogram, kDynamicReverse,
    kNamedBarriers, kEvents, kWaitForFlag, kHandOver, kIndices, kConvert, kReadsPoison, kPipeline, kAsyncCopies,
    kBulkCopies, kTabulate;

extern const KernelImage kMissingBarrier, kMissingWarpBarrier, kBlocksRace, kAtomicAndPlain, kLeavesBeforeBarrier,
    kTwoBarriers, kBarrierCounts, kArrivesTwice, kEventNotWaitedFor, kEventNeverHappens, kBulkCopyNotWaitedFor,
    kBulkCopyOfTooFewBytes, kBulkStoreOvertaken, kNotAnEvent, kLaneMissing, kNotInOwnMask, kReadsOutsideMask, kLaneLeft,
    kOutOfBounds, kMisaligned, kDynamicOverflow, kWildPointer, kWaitsForEver, kTrap, kOthersLocal;

}  // namespace emulator
