// z = factor * (x w + y (1 - w)), w = sigmoid(a * scale + shift), and its gradient: a pass each.
// scale and shift (N, C) are contiguous, in Acc<T>.
#pragma once

#include "../common/blend.h"
#include "gate_sums.cuh"
#include "stream.cuh"

namespace attn_kernels {

template <class T>
struct BlendArguments {
  Shape shape;
  Tiling tiling;
  const T *x, *y, *a;
  const Acc<T>*scale, *shift;
  Acc<T> factor;
  T* z;
};

template <class T, bool kChannelsLast, int V>
__global__ void __launch_bounds__(kThreads, 2) blend_kernel(BlendArguments<T> b) {
  using Real = Acc<T>;
  const Stream<kChannelsLast, V> stream(b.shape, b.tiling, blockIdx.x);
  PerChannel<Real, kChannelsLast, V, (V > 1)> scale, shift;
  scale.begin(b.scale + stream.image * b.shape.c, stream);
  shift.begin(b.shift + stream.image * b.shape.c, stream);
  const unsigned& step = b.tiling.step;
  const Walk<V, const T> from_x(b.x, stream.at, step), from_y(b.y, stream.at, step);
  const Walk<V, const T> from_a(b.a, stream.at, step);
  const Walk<V, T> to(b.z, stream.at, step);
  for_bursts(stream.count, [&](int first, auto left) {
    Vector<T, V> x[kBurst], y[kBurst], a[kBurst];
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      const int v = within(u, left);
      a[u] = load_streaming<V>(from_a(first, v));
      x[u] = load_streaming<V>(from_x(first, v));
      y[u] = load_streaming<V>(from_y(first, v));
      scale.fetch(stream, u, first + v);
      shift.fetch(stream, u, first + v);
    }
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      if (u >= left) break;
      Real z[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const Real w = blend_weight(Real(widen(a[u].value[i])), scale(u, i), shift(u, i));
        z[i] = blended(Real(widen(x[u].value[i])), Real(widen(y[u].value[i])), w, b.factor);
      }
      store_streaming(to(first, u), z);
    }
  });
}

// Writes dx, dy and da; sums d_scale and d_shift over the pixels of each plane.
template <class T>
struct BlendSums : GateSumsResult<Acc<T>> {
  using Result = GateSumsResult<Acc<T>>;
  using Real = Acc<T>;
  using Stat = typename Result::Stat;
  static constexpr int kAhead = 2;  // of four tensors
  template <int V>
  struct Raw {
    Vector<T, V> dz, x, y, a;
  };

  Shape shape;
  PlaneTiling tiling;
  const T *dz, *x, *y, *a;
  const Real *scale, *shift;
  Real factor;
  T *dx, *dy, *da;

  template <class Visit, int V>
  class Thread {
    static constexpr int kChannels = Visit::kChannels;

   public:
    __device__ Thread(const BlendSums& op, const Visit& visit) : op_(op), visit_(visit) {
      if (visit.count == 0) return;
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        scale_[i] = op.scale[visit.plane + i];
        shift_[i] = op.shift[visit.plane + i];
      }
    }

    __device__ Raw<V> load(int first, int u) const {
      const auto from = [&](const T* tensor) {
        return load_streaming<V>(vector(tensor, first, u));
      };
      return {from(op_.dz), from(op_.x), from(op_.y), from(op_.a)};
    }

    template <class Left>
    __device__ void burst(const Raw<V> (&raw)[kAhead], int first, Left left) {
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (u >= left) break;
        const unsigned elements = visit_.elements_of(first + u);
        Real dx[V], dy[V], da[V];
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const int of = kChannels > 1 ? i : 0;
          const auto value = [=](const Vector<T, V>& of) { return Real(widen(of.value[i])); };
          const Real a = value(raw[u].a), w = blend_weight(a, scale_[of], shift_[of]);
          const BlendGradient<Real> d =
              blend_gradient(value(raw[u].dz), value(raw[u].x), value(raw[u].y), w, op_.factor);
          dx[i] = d.x;
          dy[i] = d.y;
          da[i] = d.logit * scale_[of];
          if (!Visit::has(elements, i)) continue;
          sum_[of].scale += d.logit * a;
          sum_[of].shift += d.logit;
        }
        Visit::store(vector(op_.dx, first, u), dx, elements);
        Visit::store(vector(op_.dy, first, u), dy, elements);
        Visit::store(vector(op_.da, first, u), da, elements);
      }
    }

    __device__ void close() {}
    __device__ Stat stat(int i) const { return sum_[i]; }

   private:
    template <class Element>
    __device__ Element* vector(Element* tensor, int first, int u) const {
      return Walk<V, Element>(tensor, visit_.at, op_.tiling.step)(first, u);
    }

    const BlendSums& op_;
    const Visit& visit_;
    Real scale_[kChannels] = {}, shift_[kChannels] = {};
    Stat sum_[kChannels] = {};
  };
};

}  // namespace attn_kernels
