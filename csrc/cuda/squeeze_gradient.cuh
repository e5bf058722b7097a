// The last pass of a backward that carries the gradients of statistics:
//   dx = scale * dr + slope * x + offset + [pixel is argmax] d_max + [pixel is argmin] d_min
// with coefficients and places per (image, channel), contiguous, each of which may be null. Reads
// dr (and x where there is a slope), writes dx.
#pragma once

#include "stream.cuh"

namespace attn_kernels {

// An extreme's places (N, C) int64, null together with its gradient.
template <class Real>
struct ExtremeGradient {
  const int64_t* at;
  const Real* gradient;
};

template <class T>
struct SqueezeGradientArguments {
  Shape shape;
  Tiling tiling;
  const T *dr, *x;  // dr: null together with scale
  const Acc<T>*scale, *slope, *offset;
  ExtremeGradient<Acc<T>> max, min;
  T* dx;
};

// The few elements of the block that held an extreme once more, with its gradient added before the
// rounding. A place outside of the map is nobody's.
template <class T, bool kChannelsLast, int V>
__device__ __forceinline__ void put_extremes(const SqueezeGradientArguments<T>& a,
                                             const Stream<kChannelsLast, V>& stream) {
  using Real = Acc<T>;
  const int64_t hw = a.shape.hw, tile = stream.tile * a.tiling.tile;
  const auto in_tile = [&](int64_t pixel, int channel) {
    if (pixel < 0 || pixel >= hw) return false;
    if constexpr (!kChannelsLast) pixel += (channel - stream.first_channel) % a.tiling.group * hw;
    return tile <= pixel && pixel < tile + a.tiling.tile;
  };
  for (int c = stream.first_channel + threadIdx.x; c < stream.last_channel; c += blockDim.x) {
    const int64_t of = stream.image * a.shape.c + c;
    const auto value = [&](const Real* coefficient) {
      return coefficient != nullptr ? coefficient[of] : Real(0);
    };
    const auto put = [&](int64_t pixel, Real gradient) {
      if (!in_tile(pixel, c)) return;
      const int64_t at =
          kChannelsLast ? (stream.image * hw + pixel) * a.shape.c + c : of * hw + pixel;
      Real dx = value(a.offset) + gradient;
      if (a.slope != nullptr) dx = affine(Real(widen(a.x[at])), a.slope[of], dx);
      if (a.dr != nullptr) dx = affine(Real(widen(a.dr[at])), a.scale[of], dx);
      a.dx[at] = narrow<T>(dx);
    };
    const int64_t max_at = a.max.at != nullptr ? a.max.at[of] : -1;
    const int64_t min_at = a.min.at != nullptr ? a.min.at[of] : -1;
    put(max_at, value(a.max.gradient) + (min_at == max_at ? value(a.min.gradient) : Real(0)));
    if (min_at != max_at) put(min_at, value(a.min.gradient));
  }
}

template <class T, bool kChannelsLast, int V, bool kSplit>
__global__ void __launch_bounds__(kThreads, 2)
    squeeze_gradient_kernel(SqueezeGradientArguments<T> a) {
  using Real = Acc<T>;
  const Stream<kChannelsLast, V> stream(a.shape, a.tiling, item_in_reverse());
  const int64_t channels = stream.image * a.shape.c;
  MaybePerChannel<Real, kChannelsLast, V, kSplit> scale, slope, offset;
  scale.begin(a.scale, channels, stream);
  slope.begin(a.slope, channels, stream);
  offset.begin(a.offset, channels, stream);

  const bool has_dr = a.dr != nullptr, has_slope = a.slope != nullptr;
  const Walk<V, const T> from(a.dr, stream.at, a.tiling.step),
      from_x(a.x, stream.at, a.tiling.step);
  const Walk<V, T> to(a.dx, stream.at, a.tiling.step);
  for_bursts(stream.count, [&](int first, auto left) {
    Vector<T, V> dr[kBurst], x[kBurst];
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      const int v = within(u, left), k = first + v;
      if (has_dr) dr[u] = load_streaming<V>(from(first, v));
      if (has_slope) x[u] = load_streaming<V>(from_x(first, v));
      scale.fetch(stream, u, k);
      slope.fetch(stream, u, k);
      offset.fetch(stream, u, k);
    }
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      if (u >= left) break;
      Real dx[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        dx[i] = offset(u, i);
        if (has_slope) dx[i] = affine(Real(widen(x[u].value[i])), slope(u, i), dx[i]);
        if (has_dr) dx[i] = affine(Real(widen(dr[u].value[i])), scale(u, i), dx[i]);
      }
      store_streaming(to(first, u), dx);
    }
  });
  if (a.max.at == nullptr && a.min.at == nullptr) return;
  __syncthreads();
  put_extremes(a, stream);
}

}  // namespace attn_kernels
