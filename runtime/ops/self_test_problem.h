// Random selective scans with known answers, for the self-test.
#pragma once

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "selective_scan/problem.h"

namespace mamba_scan::ops {

// One tensor of a problem: its bytes on the host, and what writes its address into the SelectiveScanProblem. Complex
// numbers are two of its elements, side by side.
struct TestTensor {
  std::vector<unsigned char> bytes;
  std::function<void(void*)> set_pointer;
  bool output = false;
};

// Not copyable: the problem points into the tensors.
class TestProblem {
 public:
  explicit TestProblem(std::mt19937& random);
  TestProblem(const TestProblem&) = delete;
  TestProblem& operator=(const TestProblem&) = delete;

  const SelectiveScanProblem& problem() const { return problem_; }
  std::vector<TestTensor>& tensors() { return tensors_; }

  // Host pointers into the problem, outputs full of NaN.
  void prepare();

  // Largest error over the largest value, against a float64 loop; infinite when anything is not a number. Of a few
  // values, which may all be sums that cancel: over the largest sum of their terms' magnitudes.
  double relative_error_y() const;
  double relative_error_state() const;
  double tolerance_y() const;      // what rounding y to its dtype costs, with room
  double tolerance_state() const;  // fp32 state, fp32 accumulation

  std::string shape() const;     // "batch=2 seqlen=100 dim=33 dstate=16 ngroups=1", with sequences=3 when packed
  std::string features() const;  // "seq-contiguous z D delta_bias softplus initial_state constant-B"

 private:
  void choose_sizes(std::mt19937& random);
  void choose_features(std::mt19937& random);
  void pack(std::mt19937& random);
  void place_tensors();
  void fill(std::mt19937& random);
  void compute_reference();
  void scan_channel(Index batch, Index channel, Index sequence, Index begin, Index end);
  std::vector<double> add(std::function<void(void*)> set_pointer, Index count, DType dtype, std::mt19937& random,
                          double low, double high);
  Index states() const { return problem_.cu_seqlens != nullptr ? problem_.sequences : problem_.batch; }
  void add_output(std::function<void(void*)> set_pointer, Index count, DType dtype);

  SelectiveScanProblem problem_{};
  std::vector<TestTensor> tensors_;
  bool seq_contiguous_ = false;
  bool has_z_ = false, has_d_ = false, has_bias_ = false, has_initial_ = false;
  std::vector<int> boundaries_;  // cu_seqlens
  // The values that the tensors hold after rounding to their dtype.
  std::vector<double> u_, delta_, z_, a_, b_, c_, d_, bias_, initial_;
  std::vector<double> expected_y_, expected_state_;
  double largest_terms_y_ = 0, largest_terms_state_ = 0;  // of all sums, the largest with each term's magnitude
};

}  // namespace mamba_scan::ops
