// The first pass of the spatial gate's gradient: what y = act(f * map + residual) makes of dy for
// each pixel, f being x through its affine view.
//   dr       = dy * mask, mask: what the ReLU let pass, from y; without a ReLU dr is dy
//   d_logit  = sum over channels of dr * f, through the sigmoid          (N, 1, H, W)
//   argmax   = the lowest channel that holds the max of f                (N, 1, H, W)
// Reads dy and x (and y), writes dr only where there is a ReLU. x is met here anyway: 4 bytes per
// pixel for argmax save the pass that writes dx all of x that finding it again would take.
#pragma once

#include "reduce.cuh"

namespace attn_kernels {

template <class Real>
struct GateStat {
  Real d_map;
  int argmax;
};

template <class T, bool kView, bool kRelu>
struct GateGradient : Reduction<T, GateStat<Acc<T>>, kView> {
  using Real = Acc<T>;
  using Stat = GateStat<Real>;
  using Pixel = Real;  // the max of f
  struct Nothing {};
  template <int V>
  struct Raw {
    Vector<T, V> x, dr;
    std::conditional_t<kRelu, Vector<T, V>, Nothing> y;
  };

  const T *dy, *y;
  const Real *map, *pooled;
  T* dr;
  Real* d_logit;
  int* argmax;

  // x is not read again soon, but through a view; dr is.
  template <int V>
  __device__ Raw<V> load(int64_t at, int first, int u) const {
    const auto in = [&](const T* tensor) { return this->template vector<V>(tensor, at, first, u); };
    Raw<V> raw;
    raw.x = kView ? attn_kernels::load<V>(in(this->x)) : load_streaming<V>(in(this->x));
    raw.dr = attn_kernels::load<V>(in(dy));
    if constexpr (kRelu) raw.y = load_streaming<V>(in(y));
    return raw;
  }
  // NaN passes a ReLU, both ways.
  template <int V>
  __device__ void arrived(Raw<V>& raw) const {
    if constexpr (kRelu) {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        raw.dr.value[i] = narrow<T>(relu_backward(widen(raw.dr.value[i]), widen(raw.y.value[i])));
      }
    }
  }
  template <int V>
  __device__ void keep(const Raw<V>& raw, int64_t at, int k) const {
    if constexpr (kRelu)
      *reinterpret_cast<Vector<T, V>*>(stepped<V>(dr + at, k, this->tiling.step)) = raw.dr;
  }

  __device__ Pixel pixel(int64_t image, int64_t pixel) const {
    return pooled[(image * 2 + 1) * this->shape.hw + pixel];
  }
  template <int V>
  __device__ void pixels(int64_t image, int64_t first, Pixel (&to)[V]) const {
    const int64_t hw = this->shape.hw;
    load_pixels<V>(pooled + (image * 2 + 1) * hw, first, hw, this->tiling.group == 1, to);
  }

  __device__ Stat none() const { return {Real(0), this->shape.c}; }
  template <int V>
  __device__ void add(Stat& stat, Real& part, Pixel max, const Raw<V>& raw, int i,
                      View<Real, kView> view, int channel) const {
    const Real value = view(widen(raw.x.value[i]));
    part += widen(raw.dr.value[i]) * value;
    // (Where the max is NaN nothing is equal to it, and dx is NaN whatever argmax is: d_mean is.)
    if (value == max) stat.argmax = channel;
  }
  static __device__ void close(Stat& stat, Real part) { stat.d_map += part; }

  static __device__ Stat combine(Stat a, Stat b) {
    return {a.d_map + b.d_map, a.argmax < b.argmax ? a.argmax : b.argmax};
  }
  __device__ void finish(int64_t image, int64_t pixel, Stat total) const {
    const int64_t at = image * this->shape.hw + pixel;
    d_logit[at] = sigmoid_backward(total.d_map, map[at]);
    argmax[at] = total.argmax;
  }
};

}  // namespace attn_kernels
