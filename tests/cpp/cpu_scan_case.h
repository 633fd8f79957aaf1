// A random scan problem with its memory, and the same scan in float64 straight from the formula.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cpu/selective_scan.h"
#include "cpu_half.h"

namespace cpu_tests {

using mamba_scan::DType;
using mamba_scan::Index;
using mamba_scan::ProjectionTensor;
using mamba_scan::SelectiveScanProblem;
using mamba_scan::SequenceTensor;
using mamba_scan::StateTensor;

// A strided array of fp32 or 16-bit elements with gaps, whose gaps (and, where asked, contents) are poison.
class Array {
 public:
  Array() = default;
  Array(DType dtype, std::vector<Index> sizes, std::vector<Index> strides)
      : dtype_(dtype), sizes_(sizes), strides_(strides) {
    Index last = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) last += std::max<Index>(sizes[i] - 1, 0) * strides[i];
    bytes_.assign(static_cast<std::size_t>(last + 1) * size(), 0xFF);  // NaN in all three formats
  }

  void* data() { return bytes_.data(); }
  Index stride(int axis) const { return strides_[static_cast<std::size_t>(axis)]; }
  Index offset(const std::vector<Index>& at) const {
    Index result = 0;
    for (std::size_t i = 0; i < at.size(); ++i) result += at[i] * strides_[i];
    return result;
  }
  double get(const std::vector<Index>& at) const {
    const unsigned char* from = bytes_.data() + static_cast<std::size_t>(offset(at)) * size();
    if (dtype_ == DType::kFloat32) {
      float value;
      std::memcpy(&value, from, 4);
      return value;
    }
    std::uint16_t bits;
    std::memcpy(&bits, from, 2);
    return half_to_double(bits, half_format(dtype_));
  }
  void set(const std::vector<Index>& at, double value) {
    unsigned char* to = bytes_.data() + static_cast<std::size_t>(offset(at)) * size();
    const auto single = static_cast<float>(value);
    const std::uint16_t half =
        dtype_ == DType::kFloat32 ? std::uint16_t{0} : double_to_half(single, half_format(dtype_));
    if (dtype_ == DType::kFloat32) {
      std::memcpy(to, &single, 4);
    } else {
      std::memcpy(to, &half, 2);
    }
  }
  template <class Make>
  void fill(const Make& make) {
    std::vector<Index> at(sizes_.size(), 0);
    if (std::any_of(sizes_.begin(), sizes_.end(), [](Index size) { return size == 0; })) return;
    for (;;) {
      set(at, make());
      std::size_t axis = at.size();
      while (axis > 0 && ++at[axis - 1] == sizes_[axis - 1]) at[--axis] = 0;
      if (axis == 0) return;
    }
  }
  bool same_bytes(const Array& other) const { return bytes_ == other.bytes_; }
  void poison() { std::fill(bytes_.begin(), bytes_.end(), static_cast<unsigned char>(0xFF)); }
  // Elements that no index reaches and that are no longer poison.
  Index touched_gaps() const {
    Array mask = *this;
    mask.poison();
    mask.fill([] { return 0.0; });
    Index touched = 0;
    for (std::size_t i = 0; i < bytes_.size(); ++i) touched += mask.bytes_[i] == 0xFF && bytes_[i] != 0xFF;
    return touched;
  }

 private:
  std::size_t size() const { return dtype_ == DType::kFloat32 ? 4 : 2; }
  DType dtype_ = DType::kFloat32;
  std::vector<Index> sizes_, strides_;
  std::vector<unsigned char> bytes_;
};

struct Options {
  Index batch = 1, seqlen = 1, dim = 1, dstate = 1, ngroups = 1;
  DType dtype = DType::kFloat32;
  std::string layout = "bld";  // bld, bdl, or gaps: no stride is 1 and none divides another
  bool softplus = true, bias = true, skip = true, gate = true, initial = true, final_state = true;
  bool constant_b = false, constant_c = false;
  bool reverse = false, is_complex = false;
  std::vector<int> cu_seqlens = {};      // empty: not packed
  float delta_low = -3, delta_high = 1;  // before the bias
  unsigned seed = std::random_device{}();
};

inline std::string describe(const Options& o) {
  return o.layout + " dtype " + std::to_string(static_cast<int>(o.dtype)) + " " + std::to_string(o.batch) + " x " +
         std::to_string(o.seqlen) + " x " + std::to_string(o.dim) + " x " + std::to_string(o.dstate) + " groups " +
         std::to_string(o.ngroups) + " constant " + std::to_string(o.constant_b) + std::to_string(o.constant_c) +
         (o.reverse ? " reverse" : "") + (o.is_complex ? " complex" : "") +
         (o.cu_seqlens.empty() ? "" : " sequences " + std::to_string(o.cu_seqlens.size() - 1)) + " seed " +
         std::to_string(o.seed);
}

class Case {
 public:
  explicit Case(const Options& options) : o(options), random_(options.seed) {
    for (Array* array : {&u, &delta, &z, &y}) *array = sequence();
    u.fill(uniform(-1, 1));
    delta.fill(uniform(o.delta_low, o.delta_high));
    z.fill(uniform(-4, 4));
    B = projection(o.constant_b);
    C = projection(o.constant_c);
    B.fill(uniform(-1, 1));
    C.fill(uniform(-1, 1));
    A = array(DType::kFloat32, {o.dim, o.dstate}, {o.dstate + 1, 1});
    A.fill(uniform(-8, -0.01f));
    for (Index d = 0; d < o.dim && o.is_complex; ++d) {
      for (Index n = 0; n < o.dstate; ++n) A.set({d, n, 1}, uniform(-8, 8)());
    }
    D = Array(DType::kFloat32, {o.dim}, {1});
    bias = D;
    D.fill(uniform(-1, 1));
    bias.fill(uniform(-1, 1));
    initial = array(DType::kFloat32, {states(), o.dim, o.dstate}, {o.dim * (o.dstate + 3), o.dstate + 3, 1});
    final_state = initial;
    initial.fill(uniform(-1, 1));
  }

  SelectiveScanProblem problem() {
    SelectiveScanProblem p{};
    p.batch = o.batch;
    p.seqlen = o.seqlen;
    p.dim = o.dim;
    p.dstate = o.dstate;
    p.ngroups = o.ngroups;
    p.dtype = o.dtype;
    p.delta_softplus = o.softplus;
    p.u = view(u);
    p.delta = view(delta);
    if (o.gate) p.z = view(z);
    p.y = view(y);
    p.B = view(B, o.constant_b);
    p.C = view(C, o.constant_c);
    p.A = static_cast<const float*>(A.data());
    p.A_dim_stride = A.stride(0);
    p.A_state_stride = A.stride(1);
    if (o.skip) p.D = static_cast<const float*>(D.data());
    if (o.bias) p.delta_bias = static_cast<const float*>(bias.data());
    if (o.initial) p.initial_state = state(initial);
    if (o.final_state) p.final_state = state(final_state);
    p.reverse = o.reverse;
    p.is_complex = o.is_complex;
    if (o.is_complex) p.A_imag_stride = A.stride(2);
    if (!o.cu_seqlens.empty()) {
      p.cu_seqlens = o.cu_seqlens.data();
      p.sequences = states();
    }
    return p;
  }

  // Steps [first, first + count) as a problem of their own, between the given states.
  SelectiveScanProblem part(Index first, Index count, Array* from, Array* to) {
    SelectiveScanProblem p = problem();
    p.seqlen = count;
    const Index size = o.dtype == DType::kFloat32 ? 4 : 2;
    for (SequenceTensor* tensor : {&p.u, &p.delta, &p.z, &p.y}) {
      if (tensor->data) tensor->data = static_cast<char*>(tensor->data) + first * tensor->seq_stride * size;
    }
    for (ProjectionTensor* tensor : {&p.B, &p.C}) {
      if (!tensor->constant) tensor->data = static_cast<char*>(tensor->data) + first * tensor->seq_stride * size;
    }
    p.initial_state = from ? state(*from) : StateTensor{};
    p.final_state = to ? state(*to) : StateTensor{};
    return p;
  }

  // Compares y and final_state with float64. An error is relative to the sum of the magnitudes of the terms.
  void expect_right() const {
    double worst = 0;
    for (Index i = 0; i < states(); ++i) {
      const bool packed = !o.cu_seqlens.empty();
      const auto at = static_cast<std::size_t>(i);
      const Index begin = packed ? o.cu_seqlens[at] : 0;
      const Index end = packed ? o.cu_seqlens[at + 1] : o.seqlen;
      for (Index d = 0; d < o.dim; ++d) worst = std::max(worst, worst_error(packed ? 0 : i, begin, end, i, d));
    }
    EXPECT_LT(worst, 1.0) << describe(o);
    EXPECT_EQ(y.touched_gaps(), 0) << describe(o);
    EXPECT_EQ(final_state.touched_gaps(), 0) << describe(o);
  }

  StateTensor state(Array& array) const {
    return {static_cast<float*>(array.data()), array.stride(0), array.stride(1), array.stride(2),
            o.is_complex ? array.stride(3) : 0};
  }

  Options o;
  Array u, delta, z, y, B, C, A, D, bias, initial, final_state;

 private:
  Array sequence() const {
    if (o.layout == "bld") return Array(o.dtype, {o.batch, o.seqlen, o.dim}, {o.seqlen * o.dim, o.dim, 1});
    if (o.layout == "bdl") return Array(o.dtype, {o.batch, o.seqlen, o.dim}, {o.dim * o.seqlen, 1, o.seqlen});
    const Index step = 3 * o.dim + 5;
    return Array(o.dtype, {o.batch, o.seqlen, o.dim}, {step * o.seqlen + 7, step, 3});
  }
  // How many initial and final states there are.
  Index states() const { return o.cu_seqlens.empty() ? o.batch : static_cast<Index>(o.cu_seqlens.size()) - 1; }
  // With an axis (re, im) behind the others when complex; its elements are neighbours, except in the layout with gaps.
  Array array(DType dtype, std::vector<Index> sizes, std::vector<Index> strides) const {
    if (o.is_complex) {
      const Index spread = o.layout == "gaps" ? 3 : 2;
      for (Index& stride : strides) stride *= spread;
      sizes.push_back(2);
      strides.push_back(spread - 1);
    }
    return Array(dtype, sizes, strides);
  }
  Array projection(bool constant) const {
    if (constant) return array(DType::kFloat32, {o.dim, o.dstate}, {o.dstate, 1});
    const std::vector<Index> sizes = {o.batch, o.seqlen, o.ngroups, o.dstate};
    const Index g = o.ngroups, n = o.dstate, l = o.seqlen;
    if (o.layout == "bld") return array(o.dtype, sizes, {l * g * n, g * n, n, 1});
    if (o.layout == "bdl") return array(o.dtype, sizes, {g * n * l, 1, n * l, l});
    return array(o.dtype, sizes, {l * g * (2 * n + 3) + 1, g * (2 * n + 3), 2 * n + 3, 2});
  }
  static SequenceTensor view(Array& array) { return {array.data(), array.stride(0), array.stride(1), array.stride(2)}; }
  ProjectionTensor view(Array& array, bool constant) const {
    if (constant)
      return {array.data(), 0, 0, array.stride(0), array.stride(1), true, o.is_complex ? array.stride(2) : 0};
    const Index imag_stride = o.is_complex ? array.stride(4) : 0;
    return {array.data(), array.stride(0), array.stride(1), array.stride(2), array.stride(3), false, imag_stride};
  }

  using Complex = std::complex<double>;
  Complex value(const Array& array, std::vector<Index> at) const {
    const double re = array.get(at);
    at.push_back(1);
    return {re, o.is_complex ? array.get(at) : 0.0};
  }
  Complex value(const Array& array, bool constant, Index b, Index t, Index d, Index n) const {
    return constant ? value(array, {d, n}) : value(array, {b, t, d / (o.dim / o.ngroups), n});
  }

  // Of channel d in steps [begin, end) of row b, between the states with this number; 1 is as much as is allowed.
  double worst_error(Index b, Index begin, Index end, Index state, Index d) const {
    const double rounding = o.dtype == DType::kFloat32 ? 0 : o.dtype == DType::kFloat16 ? 4.9e-4 : 3.91e-3;
    const double smallest = o.dtype == DType::kFloat16 ? 6e-8 : 1e-37;
    const auto dstate = static_cast<std::size_t>(o.dstate);
    // Of each state: its value; the magnitude of its terms; and what an error of dt of all of it would turn it by.
    std::vector<Complex> h(dstate);
    std::vector<double> size(dstate, 0.0), turned(dstate, 0.0);
    for (std::size_t n = 0; n < dstate && o.initial; ++n) {
      h[n] = value(initial, {state, d, static_cast<Index>(n)});
      size[n] = std::abs(h[n]);
    }
    double worst = 0;
    const auto note = [&](double error, double allowed) {
      worst = std::max(worst, std::isnan(error) ? 1e9 : error / allowed);
    };
    for (Index step = begin; step < end; ++step) {
      const Index t = o.reverse ? begin + end - 1 - step : step;
      double dt = delta.get({b, t, d}) + (o.bias ? bias.get({d}) : 0.0);
      if (o.softplus && dt <= 20) dt = std::log1p(std::exp(dt));
      const double input = u.get({b, t, d});
      double sum = o.skip ? D.get({d}) * input : 0.0;
      double terms = std::fabs(sum), turns = 0;
      for (std::size_t n = 0; n < dstate; ++n) {
        const Complex rate = value(A, {d, static_cast<Index>(n)});
        const Complex decay = std::exp(dt * rate);
        const Complex term = dt * input * value(B, o.constant_b, b, t, d, static_cast<Index>(n));
        const Complex c = value(C, o.constant_c, b, t, d, static_cast<Index>(n));
        h[n] = decay * h[n] + term;
        turned[n] = std::abs(decay) * (turned[n] + std::fabs(dt * rate.imag()) * size[n]);
        size[n] = std::abs(decay) * size[n] + std::abs(term);
        sum += (o.is_complex ? 2 : 1) * (h[n] * c).real();
        terms += (o.is_complex ? 2 : 1) * size[n] * std::abs(c);
        turns += 2 * turned[n] * std::abs(c);
      }
      const double gate = o.gate ? z.get({b, t, d}) / (1 + std::exp(-z.get({b, t, d}))) : 1.0;
      note(std::fabs(y.get({b, t, d}) - sum * gate),
           rounding * std::fabs(sum * gate) + (4e-6 * terms + 6e-7 * turns) * std::fabs(gate) + smallest);
    }
    for (std::size_t n = 0; n < dstate && o.final_state; ++n) {
      const Complex got = value(final_state, {state, d, static_cast<Index>(n)});
      note(std::abs(got - h[n]), 4e-6 * size[n] + 6e-7 * turned[n] + 1e-37);
    }
    return worst;
  }

  std::function<double()> uniform(float low, float high) {
    return [this, values = std::uniform_real_distribution<float>(low, high)]() mutable { return values(random_); };
  }

  std::mt19937 random_;
};

}  // namespace cpu_tests
