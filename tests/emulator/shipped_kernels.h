// The kernels of kernels/ that were compiled for the emulator; write_units.cpp writes the list.
#pragma once

#include <vector>

#include "kernel_image.h"

namespace emulator {

const std::vector<const KernelImage*>& shipped_kernels();

}  // namespace emulator
