// y = act(sum of s * map + residual) of maps that are never stacked, its gradient, and the mean of
// the sum of all maps. s (N, maps, C) is contiguous and aligned, in Acc<T>.
#pragma once

#include "gate_sums.cuh"
#include "stream.cuh"

namespace attn_kernels {

constexpr int kMixTensors = 4;

// A tensor of some maps, one after the other in its channels. How many elements further its images
// and, in channels_last, its pixels lie apart than those of one map alone.
template <class E>
struct MixTensor {
  E* data;
  int64_t image, pixel;
};

template <class E>
struct MixMaps {
  MixTensor<E> tensor[kMixTensors];
  int tensors, parts;  // there are so many, of so many maps each
  int64_t part;        // elements from one map of a tensor to its next

  ATTN_HD int count() const { return tensors * parts; }
};

// Where a thread's vectors are in a tensor shaped like y.
struct MixPlace {
  int64_t image, pixel, at;
  unsigned step;
  int slots;

  template <int V, class E>
  __device__ Walk<V, E, unsigned> in(const MixMaps<E>& maps, int tensor, int part) const {
    const MixTensor<E>& of = maps.tensor[tensor];
    return {of.data + (at + image * of.image + pixel * of.pixel + part * maps.part), 0,
            step + static_cast<unsigned>(slots * of.pixel / V)};
  }
};

// Calls body(m, walk) for every map.
template <int V, class E, class Body>
__device__ __forceinline__ void for_maps(const MixMaps<E>& maps, const MixPlace& place, Body body) {
  int m = 0;
#pragma unroll 1
  for (int tensor = 0; tensor < maps.tensors; ++tensor) {
#pragma unroll 1
    for (int part = 0; part < maps.parts; ++part) body(m++, place.in<V>(maps, tensor, part));
  }
}

// ---- Forward ---------------------------------------------------------------------------------

template <class T>
struct MixArguments {
  Shape shape;
  Tiling tiling;
  MixMaps<const T> x;
  const Acc<T>* s;
  const T* residual;  // may be null
  T* y;
  bool relu;
};

template <class T, bool kChannelsLast, int V>
__global__ void __launch_bounds__(kThreads, 2) mix_kernel(MixArguments<T> a) {
  using Real = Acc<T>;
  const Stream<kChannelsLast, V> stream(a.shape, a.tiling, item_in_reverse());
  const Tiling& tiling = a.tiling;
  const MixPlace place{stream.image, stream.pixel, stream.at, tiling.step, tiling.slots};
  const Real* const rows = a.s + stream.image * a.x.count() * a.shape.c;
  const Walk<V, const T> added(a.residual, stream.at, tiling.step);
  const Walk<V, T> to(a.y, stream.at, tiling.step);
  for_bursts(stream.count, [&](int first, auto left) {
    Real y[kBurst][V] = {};
    for_maps<V>(a.x, place, [&](int m, const auto& from) {
      PerChannel<Real, kChannelsLast, V, (V > 1)> s;
      s.begin(rows + int64_t{m} * a.shape.c, stream, true);
      Vector<T, V> x[kBurst];
#pragma unroll
      for (int u = 0; u < kBurst; ++u) {
        const int v = within(u, left);
        x[u] = load_streaming<V>(from(first, v));
        s.fetch(stream, u, first + v);
      }
#pragma unroll
      for (int u = 0; u < kBurst; ++u) {
#pragma unroll
        for (int i = 0; i < V; ++i) {
          y[u][i] = affine(Real(widen(x[u].value[i])), s(u, i), y[u][i]);
        }
      }
    });
    if (a.residual != nullptr) {
      Vector<T, V> residual[kBurst];
#pragma unroll
      for (int u = 0; u < kBurst; ++u) {
        residual[u] = load_streaming<V>(added(first, within(u, left)));
      }
#pragma unroll
      for (int u = 0; u < kBurst; ++u) {
#pragma unroll
        for (int i = 0; i < V; ++i) y[u][i] += widen(residual[u].value[i]);
      }
    }
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      if (u >= left) break;
#pragma unroll
      for (int i = 0; i < V; ++i) y[u][i] = a.relu ? relu(y[u][i]) : y[u][i];
      store_streaming(to(first, u), y[u]);
    }
  });
}

// ---- Sums over pixels ------------------------------------------------------------------------

// Maps of which one launch finds the sums. Of the two most mixes have, dr is read once.
constexpr int kMixTogether = 2;

// Of dr * map for the maps [first, first + kMixTogether) that there are: d_s (N, maps, C), or, dr
// being 1, what they add to the mean of the sum of all maps (N, C).
template <class RealType>
struct MixSumsResult {
  using Real = RealType;
  using Stat = Vector<Real, kMixTogether>;

  int64_t planes, hw;
  int c, maps, first;
  Stat* partial;     // (parts, planes)
  Real *d_s, *mean;  // one of both is null

  static __device__ Stat none() { return {}; }
  static __device__ Stat combine(const Stat& a, const Stat& b) {
    return {a.value[0] + b.value[0], a.value[1] + b.value[1]};
  }
  __device__ void finish(int64_t plane, const Stat& total) const {
    const bool has_second = first + 1 < maps;
    if (mean != nullptr) {
      const Real sum = total.value[0] + (has_second ? total.value[1] : Real(0));
      const Real share = sum / static_cast<Real>(hw);
      mean[plane] = first > 0 ? mean[plane] + share : share;
    } else {
      Real* const row = d_s + (plane / c * maps + first) * c + plane % c;
      row[0] = total.value[0];
      if (has_second) row[c] = total.value[1];
    }
  }
};

// dr = dy * mask, mask: what a ReLU let pass, from y; without y dr is dy, and not written.
template <class T>
struct MixSums : MixSumsResult<Acc<T>> {
  using Result = MixSumsResult<Acc<T>>;
  using Real = Acc<T>;
  using Stat = typename Result::Stat;
  static constexpr int kAhead = 2;  // of three or four tensors
  template <int V>
  struct Raw {
    Vector<T, V> x[kMixTogether], dr, y;
  };

  Shape shape;
  PlaneTiling tiling;
  MixMaps<const T> x;
  const T *dy, *y;  // may be null; without dy dr is 1
  T* dr;

  template <class Visit, int V>
  class Thread {
    static constexpr int kChannels = Visit::kChannels;

   public:
    // An odd map out is read as its own neighbour.
    __device__ Thread(const MixSums& op, const Visit& visit)
        : op_(op),
          visit_(visit),
          x_{map(op.first), map(op.first + 1 < op.maps ? op.first + 1 : op.first)} {}

    __device__ Raw<V> load(int first, int u) const {
      Raw<V> raw;
#pragma unroll
      for (int j = 0; j < kMixTogether; ++j) raw.x[j] = attn_kernels::load<V>(x_[j](first, u));
      if (op_.dy != nullptr) raw.dr = attn_kernels::load<V>(vector(op_.dy, first, u));
      if (op_.y != nullptr) raw.y = load_streaming<V>(vector(op_.y, first, u));
      return raw;
    }

    template <class Left>
    __device__ void burst(const Raw<V> (&raw)[kAhead], int first, Left left) {
      const bool has_dr = op_.dy != nullptr;
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (u >= left) break;
        const unsigned elements = visit_.elements_of(first + u);
        Vector<T, V> dr = raw[u].dr;
        if (op_.y != nullptr) {
          mask_gradient(dr, raw[u].y);
          // A vector of two planes is kept for that in which it begins.
          if (Visit::has(elements, 0)) {
            *reinterpret_cast<Vector<T, V>*>(vector(op_.dr, first, u)) = dr;
          }
        }
#pragma unroll
        for (int i = 0; i < V; ++i) {
          if (!Visit::has(elements, i)) continue;
          const Real gradient = has_dr ? Real(widen(dr.value[i])) : Real(1);
          Stat& sum = sum_[kChannels > 1 ? i : 0];
#pragma unroll
          for (int j = 0; j < kMixTogether; ++j) {
            sum.value[j] += gradient * widen(raw[u].x[j].value[i]);
          }
        }
      }
    }

    __device__ void close() {}
    __device__ Stat stat(int i) const { return sum_[i]; }

   private:
    __device__ Walk<V, const T, unsigned> map(int m) const {
      const PlaneTiling& tiling = op_.tiling;
      const MixPlace place{visit_.plane / op_.c, visit_.pixel, visit_.at, tiling.step,
                           tiling.slots};
      return place.in<V>(op_.x, m / op_.x.parts, m % op_.x.parts);
    }
    template <class Element>
    __device__ Element* vector(Element* tensor, int first, int u) const {
      return Walk<V, Element>(tensor, visit_.at, op_.tiling.step)(first, u);
    }

    const MixSums& op_;
    const Visit& visit_;
    const Walk<V, const T, unsigned> x_[kMixTogether];
    Stat sum_[kChannels] = {};
  };
};

// ---- Gradient --------------------------------------------------------------------------------

// dx = s * dr + offset of every map.
template <class T>
struct MixGradientArguments {
  Shape shape;
  Tiling tiling;
  const T* dr;              // null together with s
  const Acc<T>*s, *offset;  // offset (N, C) may be null
  MixMaps<T> dx;
};

template <class T, bool kChannelsLast, int V>
__global__ void __launch_bounds__(kThreads, 2) mix_gradient_kernel(MixGradientArguments<T> a) {
  using Real = Acc<T>;
  const Stream<kChannelsLast, V> stream(a.shape, a.tiling, item_in_reverse());
  const Tiling& tiling = a.tiling;
  const MixPlace place{stream.image, stream.pixel, stream.at, tiling.step, tiling.slots};
  const bool has_dr = a.dr != nullptr;
  const int64_t rows = stream.image * a.dx.count() * a.shape.c;
  MaybePerChannel<Real, kChannelsLast, V, (V > 1)> offset;
  offset.begin(a.offset, stream.image * a.shape.c, stream);
  const Walk<V, const T> from(a.dr, stream.at, tiling.step);
  for_bursts(stream.count, [&](int first, auto left) {
    Vector<T, V> dr[kBurst];
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      const int v = within(u, left);
      if (has_dr) dr[u] = load_streaming<V>(from(first, v));
      offset.fetch(stream, u, first + v);
    }
    for_maps<V>(a.dx, place, [&](int m, const auto& to) {
      MaybePerChannel<Real, kChannelsLast, V, (V > 1)> s;
      s.begin(a.s, rows + int64_t{m} * a.shape.c, stream, true);
#pragma unroll
      for (int u = 0; u < kBurst; ++u) s.fetch(stream, u, first + within(u, left));
#pragma unroll
      for (int u = 0; u < kBurst; ++u) {
        if (u >= left) break;
        Real dx[V];
#pragma unroll
        for (int i = 0; i < V; ++i) {
          dx[i] = offset(u, i);
          if (has_dr) dx[i] = affine(Real(widen(dr[u].value[i])), s(u, i), dx[i]);
        }
        store_streaming(to(first, u), dx);
      }
    });
  });
}

}  // namespace attn_kernels
