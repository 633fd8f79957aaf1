#include "scan_case.h"

#include <cmath>
#include <complex>
#include <cstring>
#include <random>
#include <sstream>

#include "float16.h"

namespace emulator {
using mamba_scan::kLargestChunk;
using mamba_scan::ProjectionTensor;
using mamba_scan::SequenceTensor;
using mamba_scan::StateTensor;

namespace {

Index element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

std::size_t whole_chunks(std::size_t bytes) { return (bytes + kLargestChunk - 1) / kLargestChunk * kLargestChunk; }

// Half the distance to the next number, relative: what rounding the result may cost.
double rounding(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return 1.0 / 2048;
    case DType::kBFloat16:
      return 1.0 / 256;
    default:
      return 1.0 / (1 << 24);
  }
}

double softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }

}  // namespace

ScanSetup::ScanSetup(const ScanCase& scan, Index seqlen, Device& device, unsigned seed)
    : scan_(scan), device_(device), seed_(seed) {
  auto& p = problem_;
  p.batch = scan.batch, p.seqlen = seqlen, p.dim = scan.dim, p.dstate = scan.dstate, p.ngroups = scan.ngroups;
  p.dtype = scan.dtype, p.delta_softplus = scan.softplus, p.reverse = scan.reverse;
  p.chunk_invariant = scan.chunk_invariant;
  const Layout other = scan.layout == Layout::kStepByStep ? Layout::kChannelByChannel : Layout::kStepByStep;
  p.u = make_sequence("u", scan.layout, -2, 2, Access::kReadOnly, u_);
  p.delta = scan.softplus ? make_sequence("delta", scan.layout, -6, 3, Access::kReadOnly, delta_)
                          : make_sequence("delta", scan.layout, 0.001, 0.5, Access::kReadOnly, delta_);
  if (scan.z) p.z = make_sequence("z", scan.other_layout_z ? other : scan.layout, -4, 4, Access::kReadOnly, z_);
  p.y = make_sequence("y", scan.layout, 0, 0, Access::kReadWrite, y_);
  p.B = make_projection("B", scan.constant_B, scan.states_first_B);
  p.C = make_projection("C", scan.constant_C, scan.states_first_C);

  if (!scan.sequences.empty()) pack_sequences();
  if (scan.broken_sequence >= 0) break_sequence();

  const Index parts = scan.is_complex ? 2 : 1;  // side by side
  const auto dim = static_cast<std::size_t>(scan.dim), states = dim * static_cast<std::size_t>(scan.dstate * parts);
  float* A = make_floats("A", states, -4, -0.05, Access::kReadOnly);
  // Up to a few turns a step; fewer where softplus, correct to 1e-6, would make the angle wrong.
  for (std::size_t i = 1; scan.is_complex && i < states; i += 2) A[i] = (A[i] + 2) * (scan.softplus ? 1.0f : 20.0f);
  p.is_complex = scan.is_complex;
  p.A = A;
  p.A_dim_stride = scan.dstate * parts, p.A_state_stride = parts, p.A_imag_stride = 1;
  if (scan.D) p.D = make_floats("D", dim, -1, 1, Access::kReadOnly);
  if (scan.bias) p.delta_bias = make_floats("delta_bias", dim, scan.softplus ? -1 : 0, 1, Access::kReadOnly);

  const auto all = static_cast<std::size_t>(p.sequences > 0 ? p.sequences : scan.batch) * states;
  const StateTensor shape{nullptr, scan.dim * scan.dstate * parts, scan.dstate * parts, parts, 1};
  p.initial_state = p.final_state = shape;
  if (scan.initial)
    p.initial_state.data =
        make_floats("initial_state", all, -1, 1, scan.state_in_place ? Access::kReadWrite : Access::kReadOnly);
  if (scan.final) {
    p.final_state.data =
        scan.state_in_place ? p.initial_state.data : device_.allocate<float>("final_state", all, Access::kReadWrite);
    final_state_ = {reinterpret_cast<unsigned char*>(p.final_state.data), all * sizeof(float)};
    final_before_.assign(final_state_.data, final_state_.data + final_state_.bytes);
  }
}

void ScanSetup::pack_sequences() {
  auto& p = problem_;
  p.sequences = static_cast<Index>(scan_.sequences.size());
  boundaries_ = {0};
  for (const Index length : scan_.sequences) boundaries_.push_back(boundaries_.back() + length);
  int* values = device_.allocate<int>("cu_seqlens", boundaries_.size(), Access::kReadOnly);
  p.packed_begin = scan_.packed_begin;
  for (std::size_t i = 0; i < boundaries_.size(); ++i) {
    const auto number = static_cast<Index>(i);
    Index boundary = boundaries_[i] + p.packed_begin;
    // What begins and ends at the edges of the part does so somewhere outside.
    if (p.packed_begin > 0 && boundaries_[i] == 0) boundary = std::min(number, p.packed_begin);
    if (p.packed_begin > 0 && boundaries_[i] == p.seqlen) boundary += number;
    values[i] = static_cast<int>(boundary);
  }
  p.cu_seqlens = values;
}

void ScanSetup::break_sequence() {
  const auto broken = static_cast<std::size_t>(scan_.broken_sequence);
  const double nan = std::nan("");
  for (Index t = boundaries_[broken]; t < boundaries_[broken + 1]; ++t) {
    for (Index d = 0; d < scan_.dim; ++d)
      store(problem_.u.data, t * problem_.u.seq_stride + d * problem_.u.dim_stride, nan);
    for (Index n = 0; n < scan_.dstate; ++n)
      store(problem_.B.data, t * problem_.B.seq_stride + n * problem_.B.state_stride, nan);
  }
}

double ScanSetup::load(const void* data, Index offset) const {
  if (scan_.dtype == DType::kFloat32) return static_cast<const float*>(data)[offset];
  const unsigned short bits = static_cast<const unsigned short*>(data)[offset];
  return scan_.dtype == DType::kFloat16 ? float16_value(bits) : bfloat16_value(bits);
}

void ScanSetup::store(void* data, Index offset, double value) const {
  if (scan_.dtype == DType::kFloat32) {
    static_cast<float*>(data)[offset] = static_cast<float>(value);
    return;
  }
  static_cast<unsigned short*>(data)[offset] =
      scan_.dtype == DType::kFloat16 ? nearest_float16(value) : nearest_bfloat16(value);
}

SequenceTensor ScanSetup::make_sequence(const std::string& name, Layout layout, double low, double high, Access access,
                                        Tensor& whole) {
  const bool by_steps = layout == Layout::kStepByStep;
  const Index inner = by_steps ? scan_.dim : problem_.seqlen, outer = by_steps ? problem_.seqlen : scan_.dim;
  const Index step = scan_.spacing == Spacing::kStrided ? 2 : 1;
  Index pitch = inner * step;
  if (scan_.spacing == Spacing::kPadded || scan_.spacing == Spacing::kShifted) pitch = (inner + 7) / 8 * 8;
  if (scan_.spacing == Spacing::kStrided) pitch *= 2;
  SequenceTensor tensor{nullptr, outer * pitch, by_steps ? pitch : step, by_steps ? step : pitch};

  const auto bytes = static_cast<std::size_t>(scan_.batch * tensor.batch_stride * element_bytes(scan_.dtype));
  const bool is_read = access == Access::kReadOnly;
  const Index shifted = (scan_.spacing == Spacing::kShifted ? 1 : 0) + (is_read ? 0 : scan_.shifted_y);
  const auto shift = static_cast<std::size_t>(shifted * element_bytes(scan_.dtype));
  whole.bytes = is_read ? whole_chunks(bytes + shift) : bytes + shift;
  whole.data = device_.allocate<unsigned char>(name, whole.bytes, access);
  unsigned char* data = whole.data + shift;
  tensor.data = data;
  if (!is_read) return tensor;
  std::mt19937 random(seed_++);
  std::uniform_real_distribution<double> uniform(low, high);
  for (Index b = 0; b < scan_.batch; ++b)
    for (Index t = 0; t < problem_.seqlen; ++t)
      for (Index d = 0; d < scan_.dim; ++d)
        store(data, b * tensor.batch_stride + t * tensor.seq_stride + d * tensor.dim_stride, uniform(random));
  return tensor;
}

ProjectionTensor ScanSetup::make_projection(const std::string& name, bool constant, bool states_first) {
  const Index n = scan_.dstate, l = problem_.seqlen, g = scan_.ngroups, k = scan_.is_complex ? 2 : 1;
  if (constant) {
    float* data = make_floats(name, static_cast<std::size_t>(scan_.dim * n * k), -1, 1, Access::kReadOnly);
    return {data, 0, 0, n * k, k, true, 1};
  }
  const Index row = states_first && scan_.aligned_rows ? (l + 7) / 8 * 8 : l;
  const auto elements = static_cast<std::size_t>(scan_.batch * row * g * n * k);
  auto* data = device_.allocate<unsigned char>(
      name, whole_chunks(elements * static_cast<std::size_t>(element_bytes(scan_.dtype))), Access::kReadOnly);
  std::mt19937 random(seed_++);
  std::uniform_real_distribution<double> uniform(-1, 1);
  for (std::size_t i = 0; i < elements; ++i) store(data, static_cast<Index>(i), uniform(random));
  if (states_first) return {data, g * n * row * k, k, n * row * k, row * k, false, 1};
  return {data, l * g * n * k, g * n * k, n * k, k, false, 1};
}

float* ScanSetup::make_floats(const std::string& name, std::size_t count, double low, double high, Access access) {
  float* data = device_.allocate<float>(name, count, access);
  std::mt19937 random(seed_++);
  std::uniform_real_distribution<double> uniform(low, high);
  for (std::size_t i = 0; i < count; ++i) data[i] = static_cast<float>(uniform(random));
  return data;
}

mamba_scan::SelectiveScanProblem ScanSetup::part(Index first, Index count) const {
  auto p = problem_;
  p.seqlen = count;
  const auto advance = [&](auto& tensor) {
    if (tensor.data != nullptr)
      tensor.data = static_cast<char*>(tensor.data) + first * tensor.seq_stride * element_bytes(scan_.dtype);
  };
  for (SequenceTensor* tensor : {&p.u, &p.delta, &p.z, &p.y}) advance(*tensor);
  for (ProjectionTensor* tensor : {&p.B, &p.C})
    if (!tensor->constant) advance(*tensor);
  return p;
}

std::vector<unsigned char> ScanSetup::outputs() const {
  std::vector<unsigned char> bytes(y_.data, y_.data + y_.bytes);
  bytes.insert(bytes.end(), final_state_.data, final_state_.data + final_state_.bytes);
  return bytes;
}

void ScanSetup::reset_outputs() {
  if (y_.bytes != 0) std::memset(y_.data, kPoison, y_.bytes);
  if (final_state_.bytes != 0) std::memcpy(final_state_.data, final_before_.data(), final_state_.bytes);
}

std::vector<bool> ScanSetup::element_bytes_of(const SequenceTensor& tensor, const Tensor& whole) const {
  const auto bytes = static_cast<std::size_t>(element_bytes(scan_.dtype));
  const auto begin = static_cast<std::size_t>(static_cast<const unsigned char*>(tensor.data) - whole.data);
  std::vector<bool> is_element(whole.bytes, false);
  for (Index b = 0; b < scan_.batch; ++b)
    for (Index t = 0; t < problem_.seqlen; ++t)
      for (Index d = 0; d < scan_.dim; ++d) {
        const Index offset = b * tensor.batch_stride + t * tensor.seq_stride + d * tensor.dim_stride;
        const auto first = begin + static_cast<std::size_t>(offset) * bytes;
        for (std::size_t byte = 0; byte < bytes; ++byte) is_element[first + byte] = true;
      }
  return is_element;
}

void ScanSetup::fill_gaps(unsigned char byte) {
  const auto fill = [&](const SequenceTensor& tensor, const Tensor& whole) {
    if (tensor.data == nullptr) return;
    const std::vector<bool> is_element = element_bytes_of(tensor, whole);
    for (std::size_t i = 0; i < whole.bytes; ++i)
      if (!is_element[i]) whole.data[i] = byte;
  };
  fill(problem_.u, u_), fill(problem_.delta, delta_), fill(problem_.z, z_);
}

// The number at an offset, real or with its imaginary part.
template <class Load>
std::complex<double> ScanSetup::number(Index offset, Index imag_stride, const Load& load) const {
  return {load(offset), scan_.is_complex ? load(offset + imag_stride) : 0};
}

std::complex<double> ScanSetup::projection(const ProjectionTensor& tensor, Index b, Index t, Index d, Index n) const {
  if (tensor.constant)
    return number(d * tensor.group_stride + n * tensor.state_stride, tensor.imag_stride,
                  [&](Index at) { return static_cast<const float*>(tensor.data)[at]; });
  const Index group = d / (scan_.dim / scan_.ngroups);
  return number(b * tensor.batch_stride + t * tensor.seq_stride + group * tensor.group_stride + n * tensor.state_stride,
                tensor.imag_stride, [&](Index at) { return load(tensor.data, at); });
}

// `size` follows the same recurrence with every term positive: rounding errors are relative to it.
std::string ScanSetup::compare_sequence(Index b, Index d, Index index, Index begin, Index end) const {
  const auto& p = problem_;
  const auto states = static_cast<std::size_t>(scan_.dstate);
  const auto at = [&](const SequenceTensor& tensor, Index t) {
    return load(tensor.data, b * tensor.batch_stride + t * tensor.seq_stride + d * tensor.dim_stride);
  };
  const Index parts = scan_.is_complex ? 2 : 1;
  const Index row = (index * scan_.dim + d) * scan_.dstate * parts;
  const float* initial =
      scan_.state_in_place ? reinterpret_cast<const float*>(final_before_.data()) : p.initial_state.data;
  std::vector<std::complex<double>> h(states, 0.0);
  std::vector<double> size(states, 0.0);
  for (std::size_t n = 0; initial != nullptr && n < states; ++n) {
    h[n] = number(row + static_cast<Index>(n) * parts, 1, [&](Index i) { return initial[i]; });
    size[n] = std::abs(h[n]);
  }
  // Accumulated relative error of fp32 arithmetic and of the fast exponential over a few dozen steps.
  // A table's softplus and gates are off by 6e-5, and of every step that a state remembers alike.
  const bool may_be_tabulated = scan_.choice.together && scan_.dtype != DType::kFloat32 && (scan_.softplus || scan_.z);
  const double arithmetic = may_be_tabulated ? 3e-4 : 2e-5;
  std::ostringstream wrong;
  const auto differs = [&](const char* what, Index index, double got, double want, double bound) {
    if (std::fabs(got - want) <= bound) return false;  // NaN is never within bounds
    wrong.precision(9);
    wrong << what << "[" << b << ", " << index << ", channel " << d << "] is " << got << ", should be " << want
          << " within " << bound;
    return true;
  };
  for (Index i = begin; i < end; ++i) {
    const Index t = p.reverse ? begin + end - 1 - i : i;
    const double u = at(p.u, t);
    double dt = at(p.delta, t) + (p.delta_bias != nullptr ? p.delta_bias[d] : 0.0f);
    if (p.delta_softplus) dt = softplus(dt);
    double y = 0, y_size = 0;
    for (std::size_t n = 0; n < states; ++n) {
      const Index s = static_cast<Index>(n);
      const auto A =
          number(d * p.A_dim_stride + s * p.A_state_stride, p.A_imag_stride, [&](Index i) { return p.A[i]; });
      const auto decay = std::exp(dt * A), term = dt * u * projection(p.B, b, t, d, s), C = projection(p.C, b, t, d, s);
      h[n] = decay * h[n] + term;
      size[n] = std::abs(decay) * size[n] + std::abs(term);
      y += static_cast<double>(parts) * (h[n] * C).real();
      y_size += static_cast<double>(parts) * size[n] * std::abs(C);
    }
    if (p.D != nullptr) {
      y += p.D[d] * u;
      y_size += std::fabs(p.D[d] * u);
    }
    if (p.z.data != nullptr) {
      const double z = at(p.z, t), gate = z / (1 + std::exp(-z));
      y *= gate;
      y_size *= std::fabs(gate);
    }
    const double bound = rounding(scan_.dtype) * std::fabs(y) + arithmetic * y_size + 6e-8;  // fp16 subnormals
    if (differs("y", t, at(p.y, t), y, bound)) return wrong.str();
  }
  for (std::size_t n = 0; p.final_state.data != nullptr && n < states; ++n) {
    const Index s = static_cast<Index>(n);
    const double bound = arithmetic * size[n] + 1e-30;
    const float* got = p.final_state.data + row + s * parts;
    if (differs("final_state", s, got[0], h[n].real(), bound)) return wrong.str();
    if (scan_.is_complex && differs("imaginary final_state", s, got[1], h[n].imag(), bound)) return wrong.str();
  }
  return "";
}

std::string ScanSetup::compare_row(Index b, Index d) const {
  if (scan_.sequences.empty()) return compare_sequence(b, d, b, 0, problem_.seqlen);
  for (std::size_t i = 0; i < scan_.sequences.size(); ++i) {
    if (static_cast<int>(i) == scan_.broken_sequence) continue;
    const std::string wrong = compare_sequence(b, d, static_cast<Index>(i), boundaries_[i], boundaries_[i + 1]);
    if (!wrong.empty()) return "sequence " + std::to_string(i) + ": " + wrong;
  }
  return "";
}

std::string ScanSetup::compare() const {
  for (Index b = 0; b < scan_.batch; ++b)
    for (Index d = 0; d < scan_.dim; ++d)
      if (std::string wrong = compare_row(b, d); !wrong.empty()) return wrong;

  // Between the elements of y nothing may have changed.
  const std::vector<bool> element = element_bytes_of(problem_.y, y_);
  for (std::size_t byte = 0; byte < y_.bytes; ++byte)
    if (!element[byte] && y_.data[byte] != kPoison)
      return "byte " + std::to_string(byte) + " of y's memory, which belongs to no element, was written";
  return "";
}

}  // namespace emulator
