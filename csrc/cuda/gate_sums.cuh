// The first pass of affine_gate's gradient: sums over the pixels of each plane, of dr * x and of
// dr = dy * mask, mask: what the ReLU let pass, from y; without a ReLU dr is dy. Reads dy and x
// (and y), writes dr only where there is a ReLU.
#pragma once

#include "plane_reduce.cuh"

namespace attn_kernels {

template <class Real>
struct GateSumsStat {
  Real scale, shift;
};

template <class RealType>
struct GateSumsResult {
  using Real = RealType;
  using Stat = GateSumsStat<Real>;

  int64_t planes;
  Stat* partial;  // (parts, planes)
  Real *d_scale, *d_shift;

  static __device__ Stat none() { return {0, 0}; }
  static __device__ Stat combine(const Stat& a, const Stat& b) {
    return {a.scale + b.scale, a.shift + b.shift};
  }
  __device__ void finish(int64_t plane, const Stat& total) const {
    d_scale[plane] = total.scale;
    d_shift[plane] = total.shift;
  }
};

// What a ReLU lets pass of dr, by its result. NaN passes, both ways.
template <class T, int V>
__device__ __forceinline__ void mask_gradient(Vector<T, V>& dr, const Vector<T, V>& result) {
  using Real = Acc<T>;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const Real y = widen(result.value[i]);
    dr.value[i] = narrow<T>(relu_backward(widen(dr.value[i]), y));
  }
}

template <class T, bool kRelu>
struct GateSums : GateSumsResult<Acc<T>> {
  using Result = GateSumsResult<Acc<T>>;
  using Real = Acc<T>;
  using Stat = typename Result::Stat;
  static constexpr int kAhead = kBurst;
  struct Nothing {};
  template <int V>
  struct Raw {
    Vector<T, V> x, dr;
    std::conditional_t<kRelu, Vector<T, V>, Nothing> y;
  };

  Shape shape;
  PlaneTiling tiling;
  const T *dy, *x, *y;
  T* dr;

  template <class Visit, int V>
  class Thread {
    static constexpr int kChannels = Visit::kChannels;

   public:
    __device__ Thread(const GateSums& op, const Visit& visit) : op_(op), visit_(visit) {}

    // y is not read again.
    __device__ Raw<V> load(int first, int u) const {
      Raw<V> raw;
      raw.x = attn_kernels::load<V>(vector(op_.x, first, u));
      raw.dr = attn_kernels::load<V>(vector(op_.dy, first, u));
      if constexpr (kRelu) raw.y = load_streaming<V>(vector(op_.y, first, u));
      return raw;
    }

    template <class Left>
    __device__ void burst(const Raw<V> (&raw)[kBurst], int first, Left left) {
      Stat part[kChannels];
#pragma unroll
      for (Stat& of : part) of = {Real(-0.0), Real(-0.0)};  // the first sum is free
#pragma unroll
      for (int u = 0; u < kBurst; ++u) {
        if (u >= left) break;
        const unsigned elements = visit_.elements_of(first + u);
        Vector<T, V> dr = raw[u].dr;
        if constexpr (kRelu) mask_gradient(dr, raw[u].y);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          if (!Visit::has(elements, i)) continue;
          const Real gradient = widen(dr.value[i]);
          Stat& of = part[kChannels > 1 ? i : 0];
          of.scale += gradient * widen(raw[u].x.value[i]);
          of.shift += gradient;
        }
        // A vector of two planes is kept for that in which it begins.
        if (kRelu && Visit::has(elements, 0)) {
          *reinterpret_cast<Vector<T, V>*>(vector(op_.dr, first, u)) = dr;
        }
      }
#pragma unroll
      for (int i = 0; i < kChannels; ++i) sum_[i] = Result::combine(sum_[i], part[i]);
    }

    __device__ void close() {}
    __device__ Stat stat(int i) const { return sum_[i]; }

   private:
    template <class Element>
    __device__ Element* vector(Element* tensor, int first, int u) const {
      return Walk<V, Element>(tensor, visit_.at, op_.tiling.step)(first, u);
    }

    const GateSums& op_;
    const Visit& visit_;
    Stat sum_[kChannels] = {};
  };
};

}  // namespace attn_kernels
