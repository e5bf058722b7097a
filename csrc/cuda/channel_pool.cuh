// Mean and max over the channels, and which channel holds the max.
//   Pool     x (N, C, H, W) -> pooled (N, 2, H, W)      reads x once
//   ArgMax   x -> argmax (N, 1, H, W)                   reads x once
// x is NCHW or channels_last, taken through an affine view where there is one; what is per pixel is
// contiguous. They walk over x as reduce.cuh says; the gradient of x is in input_gradient.cuh.
#pragma once

#include "reduce.cuh"

namespace attn_kernels {

template <class Real>
struct PoolStat {
  Real sum, max;
};

template <class T, class Out, bool kView>
struct Pool : Reduction<T, PoolStat<Acc<T>>, kView> {
  using Real = Acc<T>;
  using Stat = PoolStat<Real>;
  using Pixel = typename Reduction<T, Stat, kView>::Pixel;
  template <int V>
  using Raw = typename Reduction<T, Stat, kView>::template Raw<V>;

  Out* pooled;

  static __device__ Stat none() { return {Real(0), Real(-INFINITY)}; }
  template <int V>
  __device__ void add(Stat& stat, Real& part, Pixel, const Raw<V>& raw, int i,
                      View<Real, kView> view, int) const {
    const Real value = view(widen(raw.x.value[i]));
    part += value;
    stat.max = number_max(stat.max, value);
  }
  static __device__ void close(Stat& stat, Real part) { stat.sum += part; }

  // number_max passes over NaN, which the sum doesn't.
  static __device__ bool unsure(const Stat& stat) { return stat.sum != stat.sum; }
  static __device__ void settle(Stat& stat, Real value) { stat.max = nan_max(stat.max, value); }

  static __device__ Stat combine(Stat a, Stat b) { return {a.sum + b.sum, nan_max(a.max, b.max)}; }
  __device__ void finish(int64_t image, int64_t pixel, Stat total) const {
    Out* mean = pooled + image * 2 * this->shape.hw + pixel;
    mean[0] = narrow<Out>(total.sum / Real(this->shape.c));
    mean[this->shape.hw] = narrow<Out>(total.max);
  }
};

template <class Real>
struct Candidate {
  Real value;
  int channel;
};

template <class T, bool kView>
struct ArgMax : Reduction<T, Candidate<Acc<T>>, kView> {
  using Real = Acc<T>;
  using Stat = Candidate<Real>;
  using Pixel = typename Reduction<T, Stat, kView>::Pixel;
  template <int V>
  using Raw = typename Reduction<T, Stat, kView>::template Raw<V>;

  int* argmax;

  __device__ Stat none() const { return {Real(-INFINITY), this->shape.c}; }
  // NaN is larger than all, and the last that comes, which has the lowest channel, wins.
  template <int V>
  __device__ void add(Stat& stat, Real&, Pixel, const Raw<V>& raw, int i, View<Real, kView> view,
                      int channel) const {
    const Real value = view(widen(raw.x.value[i]));
    if (value >= stat.value || value != value) stat = {value, channel};
  }

  // The larger value; NaN is larger than all; the lower channel if neither is.
  static __device__ Stat combine(Stat a, Stat b) {
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    const bool b_larger = (b.value > a.value) | (b_nan & !a_nan);
    const bool same = (b.value == a.value) | (b_nan & a_nan);
    return b_larger || (same && b.channel < a.channel) ? b : a;
  }
  __device__ void finish(int64_t image, int64_t pixel, Stat total) const {
    argmax[image * this->shape.hw + pixel] = total.channel;
  }
};

}  // namespace attn_kernels
