// The launches of squeeze_excite and its gradient, without torch (see launch.h).
#pragma once

#include "excite.cuh"
#include "launch_planes.h"

namespace attn_kernels {

// Weights of a layer of which a block for each image reads all in the time of a launch or two.
constexpr int64_t kExciteWeights = 1 << 17;

// Threads that share out a sum of `length`: some products are left for each.
inline int excite_lanes(int length) {
  int lanes = 1;
  while (lanes < 32 && 8 * lanes < length) lanes *= 2;
  return lanes;
}

template <class Real>
int64_t excite_bytes(int lanes) {
  return kThreads / lanes * kUnits * (lanes + 1) * static_cast<int64_t>(sizeof(Real));
}

// mean -> hidden, scale.
template <class Real, class Launch>
void excite(const Launch& launch, ExciteArguments<Real> of) {
  of.lanes1 = excite_lanes(of.c);
  of.lanes2 = excite_lanes(of.r);
  const int64_t bytes1 = excite_bytes<Real>(of.lanes1);
  const int64_t bytes2 = excite_bytes<Real>(of.lanes2);
  if (int64_t{of.c} * of.r <= kExciteWeights) {
    return launch(excite_kernel<Real>, of.n, kThreads, std::max(bytes1, bytes2), of);
  }
  const int units1 = kThreads / of.lanes1 * kUnits, units2 = kThreads / of.lanes2 * kUnits;
  launch(excite_layer_kernel<Real, false>, of.n * ceil_div(of.r, units1), kThreads, bytes1, of,
         units1);
  launch(excite_layer_kernel<Real, true>, of.n * ceil_div(of.c, units2), kThreads, bytes2, of,
         units2);
}

template <class T>
struct SqueezeExcite {
  const T* x;
  ExciteArguments<Acc<T>> excite;
  void* partial;  // squeeze_bytes() of workspace
  T* y;
};

// x -> y, mean, hidden, scale.
template <class T, class Launch>
void squeeze_excite(const Launch& launch, const Shape& shape, bool channels_last,
                    SqueezeExcite<T> of) {
  using Real = Acc<T>;
  const Statistics<Real> to{of.excite.mean, nullptr, nullptr, nullptr, nullptr, nullptr};
  const bool fold = shape.c * int64_t{of.excite.r} > kExciteWeights;
  const PlaneParts parts =
      squeeze<T, true>(launch, shape, channels_last, of.x, of.partial, to, fold);
  of.excite.parts = {static_cast<const Real*>(of.partial), parts.count,
                     static_cast<int>(parts.stat_bytes / sizeof(Real)),
                     static_cast<Real>(shape.hw)};
  excite(launch, of.excite);
  gate<T, false, false>(launch, channels_last,
                        {shape, {}, of.x, nullptr, of.excite.scale, nullptr, nullptr, of.y, false});
}

// d_scale -> offset and the gradients of the weights.
template <class Real, class Launch>
void excite_backward(const Launch& launch, ExciteGradientArguments<Real> of, const Real* d_scale,
                     int64_t hw) {
  of.d_scale = d_scale;
  of.share = Real(1) / static_cast<Real>(hw);
  launch(excite_hidden_gradient_kernel<Real>, of.n * ceil_div(of.r, kExciteLanes), kThreads,
         kThreads * sizeof(Real), of);
  const int64_t elements = of.n * of.c + 2 * int64_t{of.c} * of.r + of.c + of.r;
  launch(excite_gradient_kernel<Real>, ceil_div(elements, kThreads), kThreads, 0, of);
}

template <class T>
struct SqueezeExciteBackward {
  const T *dy, *x;
  ExciteGradientArguments<Acc<T>> excite;
  GateSumsStat<Acc<T>>* partial;  // affine_gate_sums_partials() of workspace
  Acc<T>*d_scale, *d_shift;       // workspace (N, C)
  T* dx;
};

template <class T, class Launch>
void squeeze_excite_backward(const Launch& launch, const Shape& shape, bool channels_last,
                             const SqueezeExciteBackward<T>& of) {
  affine_gate_sums<T>(launch, shape, channels_last,
                      {of.dy, of.x, nullptr, of.partial, of.d_scale, of.d_shift, nullptr});
  excite_backward(launch, of.excite, of.d_scale, shape.hw);
  squeeze_gradient<T>(
      launch, channels_last,
      {shape, {}, of.dy, nullptr, of.excite.scale, nullptr, of.excite.offset, {}, {}, of.dx});
}

}  // namespace attn_kernels
