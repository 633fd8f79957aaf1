// Uninitialised floats, aligned for the widest vectors and for cache lines.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace mamba_scan::cpu {

class AlignedBuffer {
 public:
  explicit AlignedBuffer(std::size_t count)
      : memory_(static_cast<float*>(::operator new(count * sizeof(float), std::align_val_t(kAlignment)))) {}

  float* data() const { return memory_.get(); }

 private:
  static constexpr std::size_t kAlignment = 64;
  struct Release {
    void operator()(float* memory) const { ::operator delete(memory, std::align_val_t(kAlignment)); }
  };
  std::unique_ptr<float, Release> memory_;
};

}  // namespace mamba_scan::cpu
