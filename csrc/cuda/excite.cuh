// Between squeeze and gate: scale = gate(w2 activation(w1 mean + b1) + b2), per image, and its
// gradients. mean, scale (N, C), hidden (N, R), w1 (R, C), w2 (C, R), contiguous, in Real. All of
// it is small: weights come from L2, where every image finds them.
#pragma once

#include "../common/excite.h"
#include "burst.cuh"
#include "squeeze.cuh"

namespace attn_kernels {

constexpr int kUnits = 8;  // that a thread sums at once: so many loads in flight

// Means that are still in parts: the sum of part p of (image, channel) i, at parts[(p * N * C + i)
// * stride]; count: 0 if they are not.
template <class Real>
struct MeanParts {
  const Real* parts;
  int count, stride;
  Real pixels;
};

template <class Real>
struct ExciteArguments {
  int64_t n;
  int c, r;
  int lanes1, lanes2;  // threads that share out a unit of the first and of the second layer
  ExciteActivation activation;
  ExciteGate gate;
  MeanParts<Real> parts;
  Real* mean;
  const Real *w1, *b1, *w2, *b2;  // b1, b2: may be null
  Real *hidden, *scale;
};

// finish(unit, sum over k of w[unit * length + k] * value(k)) for `units` units, from `first` on.
template <class Real, class Value, class Finish>
__device__ __forceinline__ void sum_products(const Real* w, int length, int lanes, int first,
                                             int end, Value value, Finish finish) {
  Real* shared = dynamic_shared<Real>();
  const int lane = threadIdx.x % lanes, team = threadIdx.x / lanes;
  const int at_once = blockDim.x / lanes * kUnits;
  for (; first < end; first += at_once) {
    const Real* row[kUnits];
    Real sum[kUnits];
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const int unit = first + team * kUnits + u;
      row[u] = w + int64_t{below(unit, end - 1)} * length;
      sum[u] = 0;
    }
    for (int k = lane; k < length; k += lanes) {
      const Real factor = value(k);
#pragma unroll
      for (int u = 0; u < kUnits; ++u) sum[u] += row[u][k] * factor;
    }
#pragma unroll
    for (int u = 0; u < kUnits; ++u) shared[(team * kUnits + u) * (lanes + 1) + lane] = sum[u];
    __syncthreads();
    for (int unit = threadIdx.x; unit < at_once && first + unit < end; unit += blockDim.x) {
      Real total = 0;
      for (int i = 0; i < lanes; ++i) total += shared[unit * (lanes + 1) + i];
      finish(first + unit, total);
    }
    __syncthreads();
  }
}

template <class Real>
__device__ __forceinline__ void excite_hidden(const ExciteArguments<Real>& a, int64_t image,
                                              int first, int end) {
  const Real* mean = a.mean + image * a.c;
  sum_products(
      a.w1, a.c, a.lanes1, first, end, [&](int k) { return mean[k]; },
      [&](int unit, Real sum) {
        a.hidden[image * a.r + unit] = a.b1 != nullptr ? sum + a.b1[unit] : sum;
      });
}

template <class Real>
__device__ __forceinline__ void excite_scale(const ExciteArguments<Real>& a, int64_t image,
                                             int first, int end) {
  const Real* hidden = a.hidden + image * a.r;
  sum_products(
      a.w2, a.r, a.lanes2, first, end,
      [&](int k) { return excite_activate(hidden[k], a.activation); },
      [&](int unit, Real sum) {
        const Real logit = a.b2 != nullptr ? sum + a.b2[unit] : sum;
        a.scale[image * a.c + unit] = excite_gate(logit, a.gate);
      });
}

// A block for each image.
template <class Real>
__global__ void __launch_bounds__(kThreads, 1) excite_kernel(ExciteArguments<Real> a) {
  const int64_t image = blockIdx.x;
  if (a.parts.count > 0) {
    for (int c = threadIdx.x; c < a.c; c += blockDim.x) {
      const int64_t at = image * a.c + c, step = a.n * a.c * a.parts.stride;
      const Real* part = a.parts.parts + at * a.parts.stride;
      SumStat<Real> sum = {0, 0};
#pragma unroll 4
      for (int p = 0; p < a.parts.count; ++p) {
        sum = SumStat<Real>::combine(sum, {part[p * step], part[p * step + 1]});
      }
      a.mean[at] = sum.total() / a.parts.pixels;
    }
    __syncthreads();
  }
  excite_hidden(a, image, 0, a.r);
  excite_scale(a, image, 0, a.c);
}

// Where weights are many, several blocks for each image and layer: `units` of them each.
template <class Real, bool kSecond>
__global__ void __launch_bounds__(kThreads, 1)
    excite_layer_kernel(ExciteArguments<Real> a, int units) {
  const int all = kSecond ? a.c : a.r, chunks = (all + units - 1) / units;
  const int first = blockIdx.x % chunks * units;
  const int end = below(all - first, units) + first;
  if constexpr (kSecond) excite_scale(a, blockIdx.x / chunks, first, end);
  if constexpr (!kSecond) excite_hidden(a, blockIdx.x / chunks, first, end);
}

template <class Real>
struct ExciteGradientArguments {
  int64_t n;
  int c, r;
  ExciteActivation activation;
  ExciteGate gate;
  const Real *w1, *w2, *scale, *mean, *hidden, *d_scale;
  Real share;               // of a pixel, in the mean
  Real *d_hidden, *offset;  // (N, R); (N, C): the gradient of every pixel through the mean
  Real *d_w1, *d_b1, *d_w2, *d_b2;

  // at: n * c + channel
  __device__ Real d_logit(int64_t at) const {
    return excite_gate_backward(d_scale[at], scale[at], gate);
  }
};

constexpr int kExciteLanes = 32;  // neighbouring hidden units

// d_scale -> d_hidden. A block has an image and kExciteLanes hidden units; slots share out
// channels.
template <class Real>
__global__ void __launch_bounds__(kThreads, 1)
    excite_hidden_gradient_kernel(ExciteGradientArguments<Real> a) {
  constexpr int kSlots = kThreads / kExciteLanes;
  const int chunks = (a.r + kExciteLanes - 1) / kExciteLanes;
  const int64_t image = blockIdx.x / chunks;
  const int lane = threadIdx.x % kExciteLanes, slot = threadIdx.x / kExciteLanes;
  const int unit = blockIdx.x % chunks * kExciteLanes + lane;
  const Real* w2 = a.w2 + below(unit, a.r - 1);
  Real sum = 0;
#pragma unroll 8
  for (int c = slot; c < a.c; c += kSlots) sum += w2[int64_t{c} * a.r] * a.d_logit(image * a.c + c);
  Real* shared = dynamic_shared<Real>();
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (slot > 0 || unit >= a.r) return;
  for (int s = 1; s < kSlots; ++s) sum += shared[s * kExciteLanes + lane];
  const int64_t at = image * a.r + unit;
  a.d_hidden[at] = excite_activate_backward(sum, a.hidden[at], a.activation);
}

// d_hidden -> offset.
template <class Real>
__device__ __forceinline__ void excite_offset(const ExciteGradientArguments<Real>& a, int64_t at) {
  const int64_t image = at / a.c, c = at % a.c;
  Real sum = 0;
#pragma unroll 8
  for (int r = 0; r < a.r; ++r) sum += a.w1[int64_t{r} * a.c + c] * a.d_hidden[image * a.r + r];
  a.offset[at] = sum * a.share;
}

// Sums over images, of an element of a weight or of a bias.
template <class Real>
__device__ __forceinline__ void excite_weight(const ExciteGradientArguments<Real>& a, int64_t at) {
  const int64_t weights = int64_t{a.c} * a.r;
  const bool first = at < weights + a.r;  // of the layers: its weight, then its bias
  if (!first) at -= weights + a.r;
  const int in = first ? a.c : a.r;
  const bool bias = at >= weights;
  const int64_t unit = bias ? at - weights : at / in, from = at % in;
  Real sum = 0;
#pragma unroll 4
  for (int64_t n = 0; n < a.n; ++n) {
    const Real d = first ? a.d_hidden[n * a.r + unit] : a.d_logit(n * a.c + unit);
    const Real of =
        first ? a.mean[n * a.c + from] : excite_activate(a.hidden[n * a.r + from], a.activation);
    sum += bias ? d : d * of;
  }
  if (first) {
    (bias ? a.d_b1[unit] : a.d_w1[at]) = sum;
  } else {
    (bias ? a.d_b2[unit] : a.d_w2[at]) = sum;
  }
}

// A thread for each element of offset, w1, b1, w2 and b2.
template <class Real>
__global__ void __launch_bounds__(kThreads, 1)
    excite_gradient_kernel(ExciteGradientArguments<Real> a) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t offsets = a.n * a.c, weights = 2 * int64_t{a.c} * a.r + a.c + a.r;
  if (at < offsets) return excite_offset(a, at);
  if (at < offsets + weights) excite_weight(a, at - offsets);
}

}  // namespace attn_kernels
