// The gate whose factors broadcast to the map, and both ways back:
//   y  = act(x * (skip + gate(a * b)) + residual), or a + b
//   dx = dr * (skip + gate(a * b)) + the gradients of statistics    (the same kernel)
//   d_a, d_b: sums of dr * x * gate' * the other factor             (box_sums.cuh)
#pragma once

#include "../common/broadcast_gate.h"
#include "box_sums.cuh"

namespace attn_kernels {

template <class Real>
struct BroadcastFactor {
  Spread<const Real> a, b;  // b.data may be null: then it is what changes nothing
  bool is_sum;
  Gate gate;
};

// V neighbours of both factors, and what the gate gets.
template <int V, class Real>
struct FactorValues {
  Vector<Real, V> a, b;
  Real u[V];

  __device__ FactorValues(const BroadcastFactor<Real>& of, int64_t image, const Place& place,
                          const unsigned (&size)[3]) {
    a = load_spread<V>(of.a, image, place, size);
    if (of.b.data != nullptr) {
      b = load_spread<V>(of.b, image, place, size);
    } else {
#pragma unroll
      for (Real& value : b.value) value = of.is_sum ? 0 : 1;
    }
#pragma unroll
    for (int i = 0; i < V; ++i) {
      u[i] = of.is_sum ? a.value[i] + b.value[i] : a.value[i] * b.value[i];
    }
  }
};

template <class Run>
__device__ __forceinline__ void with_gate(Gate gate, Run run) {
  if (gate == Gate::kIdentity) return run(IdentityGate());
  if (gate == Gate::kSigmoid) return run(SigmoidGate());
  run(HardSigmoidGate());
}

// share * value * by, of which by may be absent.
template <class Real>
struct BroadcastTerm {
  Spread<const Real> value, by;
  Real share;
};

constexpr int kTerms = 4;

template <class T>
struct BroadcastGateArguments {
  Box box;
  BoxStream stream;
  const T* x;  // may be null: then only the terms are there
  BroadcastFactor<Acc<T>> factor;
  Acc<T> skip;
  int term_count;
  BroadcastTerm<Acc<T>> terms[kTerms];
  const T* residual;  // may be null
  bool relu;
  T* y;
};

// V neighbours of the result, before residual and ReLU.
template <int V, class T>
__device__ __forceinline__ void gated_values(const BroadcastGateArguments<T>& a, int64_t image,
                                             const Place& place, const Vector<T, V>& x,
                                             Acc<T> (&y)[V]) {
  using Real = Acc<T>;
  const auto& size = a.box.size;
#pragma unroll
  for (Real& value : y) value = 0;
  if (a.x != nullptr) {
    const FactorValues<V, Real> factor(a.factor, image, place, size);
    with_gate(a.factor.gate, [&](auto gate) {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        y[i] = widen(x.value[i]) * (a.skip + gate.value(factor.u[i], ScalarExp()));
      }
    });
  }
#pragma unroll 1
  for (int t = 0; t < a.term_count; ++t) {
    const BroadcastTerm<Real>& term = a.terms[t];
    auto value = load_spread<V>(term.value, image, place, size);
    if (term.by.data != nullptr) {
      const auto by = load_spread<V>(term.by, image, place, size);
#pragma unroll
      for (int i = 0; i < V; ++i) value.value[i] *= by.value[i];
    }
#pragma unroll
    for (int i = 0; i < V; ++i) y[i] += term.share * value.value[i];
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 2) broadcast_gate_kernel(BroadcastGateArguments<T> a) {
  using Real = Acc<T>;
  const BoxVisit<V> visit(a.box, a.stream, item_in_reverse());
  const unsigned step = a.stream.threads;
  const bool has_x = a.x != nullptr, has_residual = a.residual != nullptr;
  const Staged<T, V> staged;
  Place place = visit.place;
  for (int first = 0; first < visit.count; first += kBurst) {
    const int left = visit.count - first;
    Vector<T, V> x[kBurst], residual[kBurst];
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      const unsigned k = first + within(u, left);
      if (has_x) x[u] = load_streaming<V>(stepped<V>(a.x + visit.at, k, step));
      if (has_residual) residual[u] = load_streaming<V>(stepped<V>(a.residual + visit.at, k, step));
    }
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      if (has_x) staged(0, u) = x[u];
      if (has_residual) staged(1, u) = residual[u];
    }
#pragma unroll 1
    for (int u = 0; u < kBurst && u < left; ++u) {
      Real y[V];
      gated_values<V>(a, visit.image, place, staged(0, u), y);
      if (has_residual) {
        const Vector<T, V> added = staged(1, u);
#pragma unroll
        for (int i = 0; i < V; ++i) y[i] += widen(added.value[i]);
      }
      if (a.relu) {
#pragma unroll
        for (int i = 0; i < V; ++i) y[i] = relu(y[i]);
      }
      store_streaming(stepped<V>(a.y + visit.at, first + u, step), y);
      place.advance(a.stream.step, a.box.size);
    }
  }
}

// The factors' gradients. dr is written only where y, the result of a ReLU, is given.
template <class T>
struct BroadcastGateSums {
  using Element = T;
  using Real = Acc<T>;
  static constexpr int kMaps = 2, kValues = 2;

  Box box;
  BoxTiling tiling;
  BoxSums<Real> sums;
  const T *dy, *x, *y;
  T* dr;
  BroadcastFactor<Real> factor;

  template <int V>
  __device__ void load(int64_t, const Place&, int64_t at, Vector<T, V> (&to)[kMaps + 1]) const {
    to[0] = attn_kernels::load<V>(x + at);
    to[1] = attn_kernels::load<V>(dy + at);
    if (y != nullptr) to[2] = load_streaming<V>(y + at);
  }
  template <int V>
  __device__ void arrived(int64_t at, Vector<T, V> (&maps)[kMaps + 1]) const {
    if (y == nullptr) return;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const Real result = widen(maps[2].value[i]);
      maps[1].value[i] = narrow<T>(relu_backward(Real(widen(maps[1].value[i])), result));
    }
    *reinterpret_cast<Vector<T, V>*>(dr + at) = maps[1];
  }

  template <int V>
  __device__ void values(int64_t image, const Place& place, const Vector<T, V> (&from)[kMaps],
                         Real (&to)[kValues][V]) const {
    const FactorValues<V, Real> of(factor, image, place, box.size);
    with_gate(factor.gate, [&](auto gate) {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const Real slope = gate.slope(of.u[i], gate.value(of.u[i], ScalarExp()));
        const Real d_u = widen(from[1].value[i]) * widen(from[0].value[i]) * slope;
        to[0][i] = factor.is_sum ? d_u : d_u * of.b.value[i];
        to[1][i] = factor.is_sum ? d_u : d_u * of.a.value[i];
      }
    });
  }
};

// x, and x times what broadcasts to it (which may be absent): to sum up.
template <class T>
struct BroadcastMap {
  using Element = T;
  using Real = Acc<T>;
  static constexpr int kMaps = 1, kValues = 2;

  Box box;
  BoxTiling tiling;
  BoxSums<Real> sums;
  const T* x;
  Spread<const Real> by;

  template <int V>
  __device__ void load(int64_t, const Place&, int64_t at, Vector<T, V> (&to)[kMaps + 1]) const {
    to[0] = attn_kernels::load<V>(x + at);
  }
  template <int V>
  __device__ void arrived(int64_t, Vector<T, V> (&)[kMaps + 1]) const {}

  template <int V>
  __device__ void values(int64_t image, const Place& place, const Vector<T, V> (&from)[kMaps],
                         Real (&to)[kValues][V]) const {
#pragma unroll
    for (int i = 0; i < V; ++i) to[0][i] = to[1][i] = widen(from[0].value[i]);
    if (by.data == nullptr) return;
    const auto factor = load_spread<V>(by, image, place, box.size);
#pragma unroll
    for (int i = 0; i < V; ++i) to[1][i] *= factor.value[i];
  }
};

}  // namespace attn_kernels
