#include "ops/self_test_problem.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <complex>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

namespace mamba_scan::ops {
namespace {

// Conversions of our own: the self-test shares no code with what it tests.
std::uint16_t to_bfloat16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // to nearest even; no NaN comes here
}

float from_bfloat16(std::uint16_t half) { return std::bit_cast<float>(std::uint32_t{half} << 16); }

double from_float16(std::uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int fraction = half & 1023;
  const double sign = half & 0x8000 ? -1.0 : 1.0;
  if (exponent == 31) return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * HUGE_VAL;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

// To nearest even, by arithmetic: |value| is at most a few units, so it never overflows.
std::uint16_t to_float16(float value) {
  const double magnitude = std::fabs(static_cast<double>(value));
  const std::uint16_t sign = value < 0 ? 0x8000 : 0;
  if (magnitude == 0) return sign;
  const int exponent = std::max(std::ilogb(magnitude), -14);
  const auto steps =
      static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));  // 1024..2048; less: denormal
  return static_cast<std::uint16_t>(sign | (steps + ((exponent + 14) << 10)));
}

std::size_t bytes_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

void put(unsigned char* to, DType dtype, float value) {
  if (dtype == DType::kFloat32) {
    std::memcpy(to, &value, 4);
  } else {
    const std::uint16_t half = dtype == DType::kFloat16 ? to_float16(value) : to_bfloat16(value);
    std::memcpy(to, &half, 2);
  }
}

double get(const unsigned char* from, DType dtype) {
  if (dtype == DType::kFloat32) {
    float value;
    std::memcpy(&value, from, 4);
    return value;
  }
  std::uint16_t half;
  std::memcpy(&half, from, 2);
  return dtype == DType::kFloat16 ? from_float16(half) : from_bfloat16(half);
}

Index pick(std::mt19937& random, std::initializer_list<Index> values) {
  return values.begin()[random() % values.size()];
}

bool coin(std::mt19937& random) { return random() % 2 != 0; }

template <class T>
std::function<void(void*)> slot(T*& member) {
  return [&member](void* address) { member = static_cast<T*>(address); };
}

constexpr std::size_t kFewValues = 64;

double relative_error(const unsigned char* got, DType dtype, const std::vector<double>& expected,
                      double largest_terms) {
  double error = 0, scale = expected.size() < kFewValues ? largest_terms : 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::fabs(get(got + i * bytes_of(dtype), dtype) - expected[i]);
    if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
    error = std::max(error, difference);
    scale = std::max(scale, std::fabs(expected[i]));
  }
  return scale > 0 ? error / scale : error;
}

}  // namespace

TestProblem::TestProblem(std::mt19937& random) {
  choose_sizes(random);
  choose_features(random);
  place_tensors();
  fill(random);
  compute_reference();
  prepare();
}

void TestProblem::choose_sizes(std::mt19937& random) {
  SelectiveScanProblem& p = problem_;
  p.dtype = static_cast<DType>(random() % 3);
  p.batch = pick(random, {1, 2, 3});
  p.seqlen = pick(random, {1, 2, 17, 64, 129, 300});
  p.ngroups = pick(random, {1, 1, 2});
  p.dim = p.ngroups * pick(random, {1, 5, 16, 33, 64});
  p.dstate = pick(random, {1, 3, 8, 16, 17, 64, 100});  // 100: in slices
}

void TestProblem::choose_features(std::mt19937& random) {
  SelectiveScanProblem& p = problem_;
  p.delta_softplus = coin(random);
  seq_contiguous_ = coin(random);
  has_z_ = coin(random);
  has_d_ = coin(random);
  has_bias_ = coin(random);
  has_initial_ = coin(random);
  p.B.constant = random() % 4 == 0;
  p.C.constant = random() % 4 == 0;
  if (p.B.constant && p.C.constant) p.ngroups = 1;
  p.reverse = random() % 4 == 0;
  p.is_complex = random() % 4 == 0;
  p.chunk_invariant = random() % 4 == 0;
  if (random() % 4 == 0) pack(random);
}

// One row of up to seven sequences, some of them perhaps empty.
void TestProblem::pack(std::mt19937& random) {
  SelectiveScanProblem& p = problem_;
  p.batch = 1;
  p.sequences = pick(random, {1, 3, 7});
  boundaries_ = {0, static_cast<int>(p.seqlen)};
  while (static_cast<Index>(boundaries_.size()) <= p.sequences)
    boundaries_.push_back(static_cast<int>(random() % static_cast<unsigned>(p.seqlen + 1)));
  std::sort(boundaries_.begin(), boundaries_.end());
  p.cu_seqlens = boundaries_.data();
}

std::vector<double> TestProblem::add(std::function<void(void*)> set_pointer, Index count, DType dtype,
                                     std::mt19937& random, double low, double high) {
  TestTensor tensor;
  tensor.set_pointer = std::move(set_pointer);
  tensor.bytes.resize(static_cast<std::size_t>(count) * bytes_of(dtype));
  std::vector<double> values(static_cast<std::size_t>(count));
  std::uniform_real_distribution<double> distribution(low, high);
  for (std::size_t i = 0; i < values.size(); ++i) {
    unsigned char* at = tensor.bytes.data() + i * bytes_of(dtype);
    put(at, dtype, static_cast<float>(distribution(random)));
    values[i] = get(at, dtype);
  }
  tensors_.push_back(std::move(tensor));
  return values;
}

void TestProblem::add_output(std::function<void(void*)> set_pointer, Index count, DType dtype) {
  TestTensor tensor;
  tensor.set_pointer = std::move(set_pointer);
  tensor.output = true;
  tensor.bytes.resize(static_cast<std::size_t>(count) * bytes_of(dtype));
  tensors_.push_back(std::move(tensor));
}

void TestProblem::place_tensors() {
  SelectiveScanProblem& p = problem_;
  const Index parts = p.is_complex ? 2 : 1;
  for (SequenceTensor* tensor : {&p.u, &p.delta, &p.z, &p.y}) {
    tensor->batch_stride = p.seqlen * p.dim;
    tensor->seq_stride = seq_contiguous_ ? 1 : p.dim;
    tensor->dim_stride = seq_contiguous_ ? p.seqlen : 1;
  }
  for (ProjectionTensor* tensor : {&p.B, &p.C}) {
    tensor->imag_stride = 1;
    tensor->state_stride = parts;
    tensor->group_stride = p.dstate * parts;
    tensor->seq_stride = tensor->constant ? 0 : p.ngroups * p.dstate * parts;
    tensor->batch_stride = tensor->constant ? 0 : p.seqlen * p.ngroups * p.dstate * parts;
  }
  for (StateTensor* tensor : {&p.initial_state, &p.final_state}) {
    tensor->batch_stride = p.dim * p.dstate * parts;
    tensor->dim_stride = p.dstate * parts;
    tensor->state_stride = parts;
    tensor->imag_stride = 1;
  }
  p.A_dim_stride = p.dstate * parts;
  p.A_state_stride = parts;
  p.A_imag_stride = 1;
}

void TestProblem::fill(std::mt19937& random) {
  SelectiveScanProblem& p = problem_;
  const Index parts = p.is_complex ? 2 : 1;
  const Index sequence = p.batch * p.seqlen * p.dim;
  const Index weights = p.dim * p.dstate * parts;
  const DType f32 = DType::kFloat32;
  const auto projection_count = [&](const ProjectionTensor& t) {
    return t.constant ? weights : p.batch * p.seqlen * p.ngroups * p.dstate * parts;
  };
  u_ = add(slot(p.u.data), sequence, p.dtype, random, -1, 1);
  delta_ =
      add(slot(p.delta.data), sequence, p.dtype, random, p.delta_softplus ? -4 : 0.001, p.delta_softplus ? 1 : 0.3);
  // The angle that a complex state turns by is no more exact than delta, 1e-6 with softplus: hence no large ones.
  a_ = add(slot(p.A), weights, f32, random, p.is_complex ? -2 : -8, -0.1);
  b_ = add(slot(p.B.data), projection_count(p.B), p.B.constant ? f32 : p.dtype, random, -1, 1);
  c_ = add(slot(p.C.data), projection_count(p.C), p.C.constant ? f32 : p.dtype, random, -1, 1);
  if (has_z_) z_ = add(slot(p.z.data), sequence, p.dtype, random, -3, 3);
  if (has_d_) d_ = add(slot(p.D), p.dim, f32, random, -1, 1);
  if (has_bias_) bias_ = add(slot(p.delta_bias), p.dim, f32, random, 0, 0.5);
  if (has_initial_) initial_ = add(slot(p.initial_state.data), states() * weights, f32, random, -1, 1);
  if (p.cu_seqlens != nullptr) {
    TestTensor tensor;
    tensor.set_pointer = slot(p.cu_seqlens);
    tensor.bytes.resize(boundaries_.size() * sizeof(int));
    std::memcpy(tensor.bytes.data(), boundaries_.data(), tensor.bytes.size());
    tensors_.push_back(std::move(tensor));
  }
  add_output(slot(p.y.data), sequence, p.dtype);
  add_output(slot(p.final_state.data), states() * weights, f32);
}

// The formula of kernels/selective_scan/problem.h, one step after the other, in float64: steps begin to end - 1 of a
// channel, whose state is the `sequence`th.
void TestProblem::scan_channel(Index batch, Index channel, Index sequence, Index begin, Index end) {
  using Complex = std::complex<double>;
  const SelectiveScanProblem& p = problem_;
  const auto real_at = [](const std::vector<double>& values, Index i) { return values[static_cast<std::size_t>(i)]; };
  const auto at = [&](const std::vector<double>& values, Index i) {
    return Complex(real_at(values, i), p.is_complex ? real_at(values, i + 1) : 0.0);
  };
  const Index group = channel / (p.dim / p.ngroups), parts = p.is_complex ? 2 : 1;
  const Index state = sequence * p.final_state.batch_stride + channel * p.final_state.dim_stride;
  std::vector<Complex> h(static_cast<std::size_t>(p.dstate));
  for (std::size_t n = 0; n < h.size() && has_initial_; ++n) h[n] = at(initial_, state + static_cast<Index>(n) * parts);
  std::vector<double> terms(h.size());  // h, had all of its terms one sign
  std::transform(h.begin(), h.end(), terms.begin(), [](Complex value) { return std::abs(value); });
  for (Index done = 0; done < end - begin; ++done) {
    const Index t = p.reverse ? end - 1 - done : begin + done;
    const Index i = batch * p.u.batch_stride + t * p.u.seq_stride + channel * p.u.dim_stride;
    const auto projected = [&](const std::vector<double>& values, const ProjectionTensor& tensor, Index n) {
      return at(values, batch * tensor.batch_stride + t * tensor.seq_stride +
                            (tensor.constant ? channel : group) * tensor.group_stride + n * parts);
    };
    double dt = real_at(delta_, i) + (has_bias_ ? real_at(bias_, channel) : 0.0);
    if (p.delta_softplus && dt <= 20) dt = std::log1p(std::exp(dt));
    double y = has_d_ ? real_at(d_, channel) * real_at(u_, i) : 0.0, y_terms = std::fabs(y);
    for (std::size_t k = 0; k < h.size(); ++k) {
      const auto n = static_cast<Index>(k);
      const Complex rate = at(a_, channel * p.A_dim_stride + n * parts);
      const Complex decay = std::exp(dt * rate), added = dt * real_at(u_, i) * projected(b_, p.B, n);
      const double times = p.is_complex ? 2 : 1;
      h[k] = decay * h[k] + added;
      terms[k] = std::abs(decay) * terms[k] + std::abs(added);
      y += times * (h[k] * projected(c_, p.C, n)).real();
      y_terms += times * terms[k] * std::abs(projected(c_, p.C, n));
    }
    const double gate = has_z_ ? real_at(z_, i) / (1 + std::exp(-real_at(z_, i))) : 1.0;
    expected_y_[static_cast<std::size_t>(i)] = y * gate;
    largest_terms_y_ = std::max(largest_terms_y_, y_terms * std::fabs(gate));
  }
  for (double value : terms) largest_terms_state_ = std::max(largest_terms_state_, value);
  for (std::size_t n = 0; n < h.size(); ++n) {
    const auto place = static_cast<std::size_t>(state + static_cast<Index>(n) * parts);
    expected_state_[place] = h[n].real();
    if (p.is_complex) expected_state_[place + 1] = h[n].imag();
  }
}

void TestProblem::compute_reference() {
  const SelectiveScanProblem& p = problem_;
  expected_y_.assign(static_cast<std::size_t>(p.batch * p.seqlen * p.dim), 0.0);
  expected_state_.assign(static_cast<std::size_t>(states() * p.final_state.batch_stride), 0.0);
  for (Index d = 0; d < p.dim; ++d) {
    for (Index b = 0; b < p.batch && boundaries_.empty(); ++b) scan_channel(b, d, b, 0, p.seqlen);
    for (std::size_t i = 0; i + 1 < boundaries_.size(); ++i)
      scan_channel(0, d, static_cast<Index>(i), boundaries_[i], boundaries_[i + 1]);
  }
}

void TestProblem::prepare() {
  for (TestTensor& tensor : tensors_) {
    if (tensor.output) std::fill(tensor.bytes.begin(), tensor.bytes.end(), static_cast<unsigned char>(0xff));
    tensor.set_pointer(tensor.bytes.data());
  }
}

double TestProblem::relative_error_y() const {
  return relative_error(tensors_[tensors_.size() - 2].bytes.data(), problem_.dtype, expected_y_, largest_terms_y_);
}

double TestProblem::relative_error_state() const {
  return relative_error(tensors_.back().bytes.data(), DType::kFloat32, expected_state_, largest_terms_state_);
}

double TestProblem::tolerance_y() const {
  switch (problem_.dtype) {
    case DType::kFloat16:
      return 1e-3;  // half a unit in the last place is 4.9e-4
    case DType::kBFloat16:
      return 8e-3;  // 3.9e-3
    default:
      return 1e-5;
  }
}

double TestProblem::tolerance_state() const { return 1e-5; }

std::string TestProblem::shape() const {
  const SelectiveScanProblem& p = problem_;
  return "batch=" + std::to_string(p.batch) + " seqlen=" + std::to_string(p.seqlen) + " dim=" + std::to_string(p.dim) +
         " dstate=" + std::to_string(p.dstate) + " ngroups=" + std::to_string(p.ngroups) +
         (p.cu_seqlens != nullptr ? " sequences=" + std::to_string(p.sequences) : "");
}

std::string TestProblem::features() const {
  std::string text = seq_contiguous_ ? "seq-contiguous" : "dim-contiguous";
  if (has_z_) text += " z";
  if (has_d_) text += " D";
  if (has_bias_) text += " delta_bias";
  if (problem_.delta_softplus) text += " softplus";
  if (has_initial_) text += " initial_state";
  if (problem_.B.constant) text += " constant-B";
  if (problem_.C.constant) text += " constant-C";
  if (problem_.cu_seqlens != nullptr) text += " packed";
  if (problem_.reverse) text += " reverse";
  if (problem_.is_complex) text += " complex";
  if (problem_.chunk_invariant) text += " chunk-invariant";
  return text;
}

}  // namespace mamba_scan::ops
