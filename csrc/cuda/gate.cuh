// The gate, for every op that ends in one: y = act(f * map + residual), f = scale * x + shift.
// Reads x (and residual), writes y; NCHW or channels_last. map (N, 1, H, W) and scale, shift (N, C)
// are contiguous, in Acc<T>. Without a map shift may be null.
#pragma once

#include "stream.cuh"

namespace attn_kernels {

template <class T>
struct GateArguments {
  Shape shape;
  Tiling tiling;
  const T* x;
  const Acc<T>*map, *scale, *shift;
  const T* residual;  // may be null
  T* y;
  bool relu;
};

// kMap: with a factor per pixel. kView: with an affine view. kTail: with a residual, a ReLU or
// both.
template <class T, bool kChannelsLast, int V, bool kMap, bool kView, bool kTail, bool kSplit>
__device__ __forceinline__ void gate_item(const GateArguments<T>& a, unsigned item) {
  using Real = Acc<T>;
  const Stream<kChannelsLast, V> stream(a.shape, a.tiling, item);
  const int64_t hw = a.shape.hw, channels = stream.image * a.shape.c;
  PerPixel<Real, kChannelsLast, V> map;
  PerChannel<Real, kChannelsLast, V, kSplit> scale, shift;
  // Without a shift scale is loaded in its place: a branch between loads would keep some waiting.
  const bool has_shift = kMap || a.shift != nullptr;
  if constexpr (kMap) map.begin(a.map + stream.image * hw, stream, hw);
  if constexpr (kView) scale.begin(a.scale + channels, stream);
  if constexpr (kView) shift.begin((has_shift ? a.shift : a.scale) + channels, stream);

  Walk<V, const T> from(a.x, stream.at, a.tiling.step);
  [[maybe_unused]] Walk<V, const T> added(a.residual, stream.at, a.tiling.step);
  Walk<V, T> to(a.y, stream.at, a.tiling.step);
  const bool has_residual = kTail && a.residual != nullptr;

  for_bursts(stream.count, [&](int first, auto left) {
    Vector<T, V> x[kBurst];
    [[maybe_unused]] Vector<T, V> residual[kBurst];
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      const int v = within(u, left);
      x[u] = load_streaming<V>(from(first, v));
      if (has_residual) residual[u] = load_streaming<V>(added(first, v));
      if constexpr (kMap) map.fetch(stream, u, first + v);
      if constexpr (kView) scale.fetch(stream, u, first + v);
      if constexpr (kView) shift.fetch(stream, u, first + v);
    }
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      if (u >= left) break;
      Real y[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        y[i] = widen(x[u].value[i]);
        if constexpr (kView) y[i] = affine(y[i], scale(u, i), has_shift ? shift(u, i) : Real(0));
        if constexpr (kMap) y[i] *= map(u, i);
        if (has_residual) y[i] += widen(residual[u].value[i]);
        if (kTail && a.relu) y[i] = relu(y[i]);
      }
      store_streaming(to(first, u), y);
    }
  });
}

template <class T, bool kChannelsLast, int V, bool kMap, bool kView, bool kTail, bool kSplit>
__global__ void __launch_bounds__(kThreads, 2) gate_kernel(GateArguments<T> arguments) {
  const unsigned item = item_in_reverse();
  gate_item<T, kChannelsLast, V, kMap, kView, kTail, kSplit>(arguments, item);
}

}  // namespace attn_kernels
