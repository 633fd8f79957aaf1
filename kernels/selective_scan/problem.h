// The selective scan as a plain struct, shared by the CUDA kernels, the CPU backend and the host code that
// fills it. Compiles for the host and, without any header, under NVRTC.
//
// For batch b, step t, channel d, state n (Gu & Dao 2023, "Mamba", eq. 2 with the simplified Euler step for B):
//   dt      = softplus?(delta[b,t,d] + delta_bias[d])
//   h[n]    = exp(dt * A[d,n]) * h[n] + dt * u[b,t,d] * B[b,t,g,n]          g = d / (dim / ngroups)
//   y[b,t,d]= (sum_n h[n] * C[b,t,g,n] + D[d] * u[b,t,d]) * (z ? silu(z[b,t,d]) : 1)
// Steps run from the last to the first when `reverse`; h and the sum are complex, and y takes twice the real part of
// the sum, when `is_complex` (S4-like models, whose states are conjugate pairs).
#pragma once

namespace mamba_scan {

using Index = long long;  // every element offset is 64 bits: 1638400 x 2048 elements exceed 2^31

// The CUDA kernels read inputs in aligned chunks of up to so many bytes in which there is at least one element, and
// ignore what else is in one. Every GPU allocation has room for that; compute-sanitizer, which goes by the size that
// was asked for, is told by asking for whole chunks.
constexpr int kLargestChunk = 16;

// What memory reads and writes at once.
constexpr int kSectorBytes = 32;

enum class DType : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

// u, delta, z, y: logically (batch, seqlen, dim), laid out in memory in any order. Strides count elements.
struct SequenceTensor {
  void* data;  // null: absent (z only)
  Index batch_stride;
  Index seq_stride;
  Index dim_stride;
};

// B and C: logically (batch, seqlen, ngroups, dstate) in the problem's dtype, or, when `constant`, (dim, dstate)
// in fp32, with group_stride then stepping over dim and batch_stride = seq_stride = 0.
struct ProjectionTensor {
  void* data;
  Index batch_stride;
  Index seq_stride;
  Index group_stride;
  Index state_stride;
  bool constant;
  Index imag_stride = 0;  // from a real to its imaginary part, when the problem is_complex
};

// initial_state and final_state: (batch, dim, dstate), always fp32, or (sequences, dim, dstate), batch_stride stepping
// over sequences, when packed. They may be the same memory.
struct StateTensor {
  float* data;  // null: absent (starts from zero, or is not written)
  Index batch_stride;
  Index dim_stride;
  Index state_stride;
  Index imag_stride = 0;  // as in ProjectionTensor
};

struct SelectiveScanProblem {
  Index batch;
  Index seqlen;
  Index dim;
  Index dstate;
  Index ngroups;        // dim % ngroups == 0; 1 when B and C are both constant
  DType dtype;          // of u, delta, z, y and of B and C unless constant
  bool delta_softplus;  // softplus(x) = log(1 + exp(x)), the identity above 20 as in PyTorch
  SequenceTensor u;
  SequenceTensor delta;
  SequenceTensor z;  // data null: no gate
  SequenceTensor y;  // overlaps no input
  ProjectionTensor B;
  ProjectionTensor C;
  const float* A;  // (dim, dstate) with strides
  Index A_dim_stride;
  Index A_state_stride;
  const float* D;           // (dim,) contiguous, or null
  const float* delta_bias;  // (dim,) contiguous, or null
  StateTensor initial_state;
  StateTensor final_state;
  bool reverse;  // the first step scanned is seqlen - 1; "initial" and "final" are meant in the order of scanning
  // y and final_state do not depend, bit for bit, on how a sequence is cut into calls at multiples of
  // kInvariantSteps, the state handed from one to the next.
  bool chunk_invariant;
  bool is_complex;
  Index A_imag_stride;
  // Packed: batch is 1 and its seqlen steps hold `sequences` sequences, sequence i being the steps cu_seqlens[i] to
  // cu_seqlens[i + 1] - 1. Null, and sequences 0: not packed. Lies where the other tensors lie, so a CUDA device reads
  // it, not the host; it must begin with 0, not decrease and end with seqlen.
  const int* cu_seqlens;
  Index sequences;
  // The packed row's steps before this problem's first, in memory: of a row that is scanned part by part, cu_seqlens
  // counts from the whole row's first step. Sequences outside of the part are empty ones of it.
  Index packed_begin = 0;
};

constexpr Index kInvariantSteps = 2048;

}  // namespace mamba_scan
