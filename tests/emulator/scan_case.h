// The selective scan problems that the emulator runs: which ones, their data, and what must come out.
#pragma once

#include <complex>
#include <string>
#include <vector>

#include "device.h"
#include "driver/device.h"
#include "ops/plan.h"
#include "selective_scan/problem.h"

namespace emulator {

using mamba_scan::DType;
using mamba_scan::Index;

enum class Layout { kStepByStep, kChannelByChannel };  // (batch, seqlen, dim) or (batch, dim, seqlen)

// How far apart neighbours lie in memory.
enum class Spacing {
  kDense,    // rows follow each other, whatever their length
  kPadded,   // rows start at multiples of 8 elements, so that whole vectors can be moved
  kShifted,  // as padded, but the first element lies one past such a multiple
  kStrided,  // every second element only, along both axes
};

struct ScanCase {
  std::string name;
  DType dtype = DType::kFloat32;
  Layout layout = Layout::kStepByStep;
  Index dim = 37;
  Index dstate = 16;
  Index ngroups = 1;
  Index batch = 1;
  std::vector<Index> seqlens = {1, 17};  // each is a problem of its own
  Spacing spacing = Spacing::kPadded;
  bool softplus = false, bias = false, D = false, z = false, initial = false, final = false;
  bool constant_B = false, constant_C = false;
  Index shifted_y = 0;          // elements past a multiple of 8 that y begins, besides `spacing`
  bool other_layout_z = false;  // z in the layout that the case does not have
  bool states_first_B = false;  // B as (batch, groups, dstate, seqlen)
  bool states_first_C = false;
  bool aligned_rows = false;  // of B and C with states first: they start at multiples of 8 elements
  bool reverse = false;
  bool is_complex = false;
  bool chunk_invariant = false;
  // Packed: the lengths of the sequences, whose sum is then the only one of seqlens.
  std::vector<Index> sequences;
  Index packed_begin = 0;    // if not 0, the steps scanned are part of a longer packed row, with others on both sides
  int broken_sequence = -1;  // one whose u and B are NaN: the others must not notice
  bool state_in_place = false;         // final_state is initial_state's memory
  int major = 8;                       // of the compute capability
  int sm_count = 1;                    // few multiprocessors are full soon: the plan then gives a lane several channels
  int shared_kib = 100;                // of a multiprocessor: with less, tiles and channels are fewer
  mamba_scan::ops::PlanChoice choice;  // to be made instead of the plan's, if lanes is not 0
  mamba_scan::ops::Preparation preparation = mamba_scan::ops::Preparation::kNever;

  ScanCase& everything();  // all optional inputs and outputs
  ScanCase& bare();        // none
  ScanCase& pack(std::vector<Index> lengths);
};

// What is emulated: every family of kernel that ships, in shapes that end inside tiles, vectors and blocks.
std::vector<ScanCase> scan_cases();

mamba_scan::driver::DeviceReport device_for(const ScanCase& scan);

// A case's tensors in emulated memory, with random contents.
class ScanSetup {
 public:
  ScanSetup(const ScanCase& scan, Index seqlen, Device& device, unsigned seed);

  const mamba_scan::SelectiveScanProblem& problem() const { return problem_; }

  // Bytes of y and of final_state, for comparing runs.
  std::vector<unsigned char> outputs() const;
  // The steps first to first + count - 1 as a problem of its own.
  mamba_scan::SelectiveScanProblem part(Index first, Index count) const;
  // Back to poison, and final_state back to initial_state where they share memory.
  void reset_outputs();
  // What stands between the elements of u, delta and z, and after them.
  void fill_gaps(unsigned char byte);
  // Empty, or what differs from a float64 evaluation of the recurrence, or what was written outside of y.
  std::string compare() const;

 private:
  struct Tensor {
    unsigned char* data = nullptr;  // of the whole allocation
    std::size_t bytes = 0;
  };
  mamba_scan::SequenceTensor make_sequence(const std::string& name, Layout layout, double low, double high,
                                           Access access, Tensor& whole);
  mamba_scan::ProjectionTensor make_projection(const std::string& name, bool constant, bool states_first);
  // Which bytes of the tensor's allocation belong to its elements.
  std::vector<bool> element_bytes_of(const mamba_scan::SequenceTensor& tensor, const Tensor& whole) const;
  void pack_sequences();
  void break_sequence();
  float* make_floats(const std::string& name, std::size_t count, double low, double high, Access access);
  double load(const void* data, Index offset) const;
  void store(void* data, Index offset, double value) const;
  template <class Load>
  std::complex<double> number(Index offset, Index imag_stride, const Load& load) const;
  std::complex<double> projection(const mamba_scan::ProjectionTensor& tensor, Index b, Index t, Index d, Index n) const;
  // One sequence of one channel: the steps begin to end - 1 of batch entry b, its states the index-th.
  std::string compare_sequence(Index b, Index d, Index index, Index begin, Index end) const;
  std::string compare_row(Index b, Index d) const;

  ScanCase scan_;
  Device& device_;
  unsigned seed_;
  mamba_scan::SelectiveScanProblem problem_{};
  std::vector<Index> boundaries_;  // of packed sequences, as in cu_seqlens
  Tensor u_, delta_, z_, y_, final_state_;
  std::vector<unsigned char> final_before_;
};

}  // namespace emulator
