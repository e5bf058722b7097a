// The gate of every element by itself: y = x * sigmoid(p2 d^2 + p1 d + p0), d = x - center, and its
// gradient. Reads x (and dy), writes y (dx). y and dy may have their channels in another order than
// x: to the kernels that is a matter of strides (box.h).
#pragma once

#include "box_sums.cuh"

namespace attn_kernels {

// Of (image, channel), as they broadcast to the map; what is absent is 0.
template <class Real>
struct SelfGateCoefficients {
  Spread<const Real> center, p2, p1, p0;
};

template <int V, class Real>
__device__ __forceinline__ void load_coefficient(const Spread<const Real>& from, int64_t image,
                                                 const Place& place, const unsigned (&size)[3],
                                                 Real (&to)[V]) {
  if (from.data == nullptr) {
#pragma unroll
    for (Real& value : to) value = 0;
    return;
  }
  const auto given = load_spread<V>(from, image, place, size);
#pragma unroll
  for (int i = 0; i < V; ++i) to[i] = given.value[i];
}

// V neighbours: their distance from the center, the gate, and its logit's slope.
template <int V, class Real>
struct SelfGateValues {
  Real d[V], gate[V], slope[V];

  template <class T>
  __device__ SelfGateValues(const SelfGateCoefficients<Real>& of, int64_t image, const Place& place,
                            const unsigned (&size)[3], const Vector<T, V>& x) {
    Real center[V], p2[V], p1[V], p0[V];
    load_coefficient(of.center, image, place, size, center);
    load_coefficient(of.p2, image, place, size, p2);
    load_coefficient(of.p1, image, place, size, p1);
    load_coefficient(of.p0, image, place, size, p0);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      d[i] = widen(x.value[i]) - center[i];
      gate[i] = sigmoid((p2[i] * d[i] + p1[i]) * d[i] + p0[i]);
      slope[i] = 2 * p2[i] * d[i] + p1[i];
    }
  }
};

template <class T>
struct SelfGateArguments {
  Box box;
  BoxStream stream;
  const T* x;
  SelfGateCoefficients<Acc<T>> of;
  Spread<T> y;
};

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 2) self_gate_kernel(SelfGateArguments<T> a) {
  const BoxVisit<V> visit(a.box, a.stream, item_in_reverse());
  const unsigned step = a.stream.threads;
  const Staged<T, V> staged;
  Place place = visit.place;
  for (int first = 0; first < visit.count; first += kBurst) {
    const int left = visit.count - first;
    Vector<T, V> x[kBurst];
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      x[u] = load_streaming<V>(stepped<V>(a.x + visit.at, first + within(u, left), step));
    }
#pragma unroll
    for (int u = 0; u < kBurst; ++u) staged(0, u) = x[u];
#pragma unroll 1
    for (int u = 0; u < kBurst && u < left; ++u) {
      const Vector<T, V> of = staged(0, u);
      const SelfGateValues<V, Acc<T>> values(a.of, visit.image, place, a.box.size, of);
      Acc<T> y[V];
#pragma unroll
      for (int i = 0; i < V; ++i) y[i] = widen(of.value[i]) * values.gate[i];
      store_spread(a.y, visit.image, place, a.box.size, y);
      place.advance(a.stream.step, a.box.size);
    }
  }
}

// dx = dy * gate + the gradient through the gate + slope * x + offset
template <class T>
struct SelfGateGradientArguments {
  Box box;
  BoxStream stream;
  Spread<const T> dy;
  const T* x;
  SelfGateCoefficients<Acc<T>> of;
  Spread<const Acc<T>> slope, offset;
  T* dx;
};

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 2)
    self_gate_gradient_kernel(SelfGateGradientArguments<T> a) {
  using Real = Acc<T>;
  const BoxVisit<V> visit(a.box, a.stream, item_in_reverse());
  const unsigned step = a.stream.threads;
  const Staged<T, V> staged;
  Place place = visit.place, ahead = visit.place;
  for (int first = 0; first < visit.count; first += kBurst) {
    const int left = visit.count - first;
    Vector<T, V> x[kBurst], dy[kBurst];
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      x[u] = load_streaming<V>(stepped<V>(a.x + visit.at, first + within(u, left), step));
      dy[u] = load_spread<V>(a.dy, visit.image, ahead, a.box.size);
      if (u + 1 < left) ahead.advance(a.stream.step, a.box.size);
    }
#pragma unroll
    for (int u = 0; u < kBurst; ++u) staged(0, u) = x[u], staged(1, u) = dy[u];
#pragma unroll 1
    for (int u = 0; u < kBurst && u < left; ++u) {
      const Vector<T, V> of_x = staged(0, u), of_dy = staged(1, u);
      const SelfGateValues<V, Real> values(a.of, visit.image, place, a.box.size, of_x);
      Real slope[V], offset[V], dx[V];
      load_coefficient(a.slope, visit.image, place, a.box.size, slope);
      load_coefficient(a.offset, visit.image, place, a.box.size, offset);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const Real x = widen(of_x.value[i]), dy = widen(of_dy.value[i]);
        const Real d_logit = sigmoid_backward(dy * x, values.gate[i]);
        dx[i] = dy * values.gate[i] + d_logit * values.slope[i] + (slope[i] * x + offset[i]);
      }
      store_streaming(stepped<V>(a.dx + visit.at, first + u, step), dx);
      place.advance(a.stream.step, a.box.size);
    }
  }
}

// The gradients of p2, p1 and p0, as sums (box_sums.cuh).
template <class T>
struct SelfGateSums {
  using Element = T;
  using Real = Acc<T>;
  static constexpr int kMaps = 2, kValues = 3;

  Box box;
  BoxTiling tiling;
  BoxSums<Real> sums;
  Spread<const T> dy;
  const T* x;
  SelfGateCoefficients<Real> of;

  template <int V>
  __device__ void load(int64_t image, const Place& place, int64_t at,
                       Vector<T, V> (&to)[kMaps + 1]) const {
    to[0] = attn_kernels::load<V>(x + at);
    to[1] = load_spread<V>(dy, image, place, box.size);
  }
  template <int V>
  __device__ void arrived(int64_t, Vector<T, V> (&)[kMaps + 1]) const {}

  template <int V>
  __device__ void values(int64_t image, const Place& place, const Vector<T, V> (&from)[kMaps],
                         Real (&to)[kValues][V]) const {
    const SelfGateValues<V, Real> values(of, image, place, box.size, from[0]);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const Real product = widen(from[1].value[i]) * widen(from[0].value[i]);
      to[2][i] = sigmoid_backward(product, values.gate[i]);
      to[1][i] = to[2][i] * values.d[i];
      to[0][i] = to[1][i] * values.d[i];
    }
  }
};

}  // namespace attn_kernels
