// The gradient of x, for every op: the last pass of a backward.
//   df = dr * map + d_mean / C + (c is argmax ? d_max : 0)        of f = scale * x + shift
//   dx = scale * df;  d_scale, d_shift = sums over pixels of df * x and df
// Reads dr (and, with a view, x), writes dx. What is per pixel (map, d_pooled with d_mean and
// d_max, argmax) is contiguous; d_scale and d_shift leave as (N, tiles, C), for sum_tiles_kernel to
// sum.
#pragma once

#include "stream.cuh"

namespace attn_kernels {

template <class T>
struct InputGradientArguments {
  Shape shape;
  Tiling tiling;
  const T *dr, *x;
  const Acc<T>*map, *d_pooled;
  const int* argmax;
  const Acc<T>* scale;
  T* dx;
  Acc<T>*d_scale, *d_shift;
};

template <class Real>
struct ViewGradient {
  Real scale, shift;
};

// What the block's threads found of a channel's d_scale and d_shift, in a fixed order. NCHW.
// shared: (rows of the chunk, lanes + 1, kEntries); a vector that straddles two channels has an
// entry for each.
template <int V, int kEntries, class T, class Stream>
__device__ __forceinline__ void fold_channels(const InputGradientArguments<T>& a,
                                              const Stream& stream,
                                              const ViewGradient<Acc<T>>* shared) {
  const int lanes = a.tiling.lanes, group = a.tiling.group;
  const int64_t tile_start = stream.tile * a.tiling.tile;
  for (int c = stream.first_channel + threadIdx.x; c < stream.last_channel; c += blockDim.x) {
    const int row = (c - stream.first_channel) / group, sub = (c - stream.first_channel) % group;
    const int64_t start = sub * a.shape.hw - tile_start;  // the channel's elements, in the tile
    const int64_t end = start + a.shape.hw;
    const int first = start < 0 ? 0 : static_cast<int>(start / V);
    const int last = end < int64_t{lanes} * V ? static_cast<int>((end + V - 1) / V) : lanes;
    if (last <= first || first >= lanes) continue;
    ViewGradient<Acc<T>> total = {};
    for (int lane = first; lane < last; ++lane) {
      const int entry = kEntries > 1 && int64_t{lane} * V < start ? 1 : 0;
      const auto& found = shared[(row * (lanes + 1) + lane) * kEntries + entry];
      total.scale += found.scale;
      total.shift += found.shift;
    }
    const int64_t at = (stream.image * a.tiling.tiles + stream.tile) * a.shape.c + c;
    a.d_scale[at] = total.scale;
    a.d_shift[at] = total.shift;
  }
}

// The same for channels_last. shared: (slots, V, lanes).
template <int V, class T, class Stream>
__device__ __forceinline__ void fold_pixels(const InputGradientArguments<T>& a,
                                            const Stream& stream,
                                            const ViewGradient<Acc<T>>* shared) {
  const int lanes = a.tiling.lanes;
  for (int e = threadIdx.x; e < lanes * V; e += blockDim.x) {
    const int channel = stream.first_channel + e % lanes * V + e / lanes;
    if (channel >= stream.last_channel) continue;
    ViewGradient<Acc<T>> total = {};
    for (int slot = 0; slot < a.tiling.slots; ++slot) {
      const auto& found = shared[slot * lanes * V + e];
      total.scale += found.scale;
      total.shift += found.shift;
    }
    const int64_t at = (stream.image * a.tiling.tiles + stream.tile) * a.shape.c + channel;
    a.d_scale[at] = total.scale;
    a.d_shift[at] = total.shift;
  }
}

// kDr: something comes from a gate; kPixels: something comes from what is per pixel. An op that
// pools has the second alone, one without a map the first alone.
template <class T, bool kChannelsLast, int V, bool kDr, bool kPixels, bool kView, bool kSplit>
__device__ __forceinline__ void input_gradient_item(const InputGradientArguments<T>& a,
                                                    unsigned item) {
  using Real = Acc<T>;
  constexpr int kEntries = kSplit ? 2 : 1;
  const Stream<kChannelsLast, V> stream(a.shape, a.tiling, item);
  const int64_t hw = a.shape.hw;
  PerPixel<Real, kChannelsLast, V> map, d_mean, d_max;
  PerPixel<int, kChannelsLast, V> argmax;
  PerChannel<Real, kChannelsLast, V, kSplit> scale;
  if constexpr (kDr && kPixels) map.begin(a.map + stream.image * hw, stream, hw);
  if constexpr (kPixels) {
    d_mean.begin(a.d_pooled + stream.image * 2 * hw, stream, hw);
    d_max.begin(a.d_pooled + (stream.image * 2 + 1) * hw, stream, hw);
    argmax.begin(a.argmax + stream.image * hw, stream, hw);
  }
  if constexpr (kView) scale.begin(a.scale + stream.image * a.shape.c, stream);
  const Real inverse_c = Real(1) / Real(a.shape.c);
  auto* shared = dynamic_shared<ViewGradient<Real>>();
  constexpr int kSums = kChannelsLast ? V : 1;
  ViewGradient<Real> sum[kSums] = {};

  [[maybe_unused]] Walk<V, const T> from(a.dr, stream.at, a.tiling.step);
  [[maybe_unused]] Walk<V, const T> from_x(a.x, stream.at, a.tiling.step);
  Walk<V, T> to(a.dx, stream.at, a.tiling.step);

  for_bursts(stream.count, [&](int first, auto left) {
    [[maybe_unused]] Vector<T, V> dr[kBurst], x[kBurst];
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      const int v = within(u, left), k = first + v;
      if constexpr (kDr) dr[u] = load_streaming<V>(from(first, v));
      if constexpr (kView) x[u] = load_streaming<V>(from_x(first, v));
      if constexpr (kDr && kPixels) map.fetch(stream, u, k);
      if constexpr (kPixels) {
        d_mean.fetch(stream, u, k);
        d_max.fetch(stream, u, k);
        argmax.fetch(stream, u, k);
      }
      if constexpr (kView) scale.fetch(stream, u, k);
    }
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      if (u >= left) break;
      const int k = first + u;
      const int channel = below(stream.channel + k * stream.channel_step, a.shape.c);
      [[maybe_unused]] ViewGradient<Real> found = {}, before = {};  // before: of the channel before
      Real dx[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        if (kSplit && i == stream.split) {
          before = found;
          found = {};
        }
        Real df = 0;
        if constexpr (kPixels) df = d_mean(u, i) * inverse_c;
        if constexpr (kPixels && kDr) {
          df += widen(dr[u].value[i]) * map(u, i);
        } else if constexpr (kDr) {
          df = widen(dr[u].value[i]);
        }
        if constexpr (kPixels) {
          const int beyond = kChannelsLast ? i : (i < stream.split ? 0 : 1);
          if (argmax(u, i) - beyond == channel) df += d_max(u, i);
        }
        dx[i] = df;
        if constexpr (kView) {
          dx[i] = scale(u, i) * df;
          ViewGradient<Real>& of = kChannelsLast ? sum[i % kSums] : found;
          of.scale += df * widen(x[u].value[i]);
          of.shift += df;
        }
      }
      store_streaming(to(first, u), dx);
      if constexpr (kView && !kChannelsLast) {
        const int row = stream.slot + k * a.tiling.slots;
        auto* entry = shared + (row * (a.tiling.lanes + 1) + stream.lane) * kEntries;
        entry[0] = stream.split < V ? before : found;
        if constexpr (kSplit) entry[1] = found;
      }
    }
  });
  if constexpr (!kView) return;
  if constexpr (kChannelsLast) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      shared[(stream.slot * V + i) * a.tiling.lanes + stream.lane] = sum[i % kSums];
    }
  }
  __syncthreads();
  if constexpr (kChannelsLast) {
    fold_pixels<V>(a, stream, shared);
  } else {
    fold_channels<V, kEntries>(a, stream, shared);
  }
}

template <class T, bool kChannelsLast, int V, bool kDr, bool kPixels, bool kView, bool kSplit>
__global__ void __launch_bounds__(kThreads, kSplit ? 1 : 2)
    input_gradient_kernel(InputGradientArguments<T> arguments) {
  const unsigned item = item_in_reverse();
  input_gradient_item<T, kChannelsLast, V, kDr, kPixels, kView, kSplit>(arguments, item);
}

// (N, tiles, C) -> (N, C), for the tiles in which a channel has pixels. One thread per channel.
template <class Real>
__global__ void __launch_bounds__(kThreads, 1)
    sum_tiles_kernel(Shape shape, Tiling tiling, const Real* tiles_scale, const Real* tiles_shift,
                     Real* d_scale, Real* d_shift) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= shape.n * shape.c) return;
  const int64_t image = at / shape.c, channel = at % shape.c;
  const int64_t start = channel % tiling.group * shape.hw;
  const int64_t first = start / tiling.tile, last = (start + shape.hw - 1) / tiling.tile;
  Real scale = 0, shift = 0;
#pragma unroll 4
  for (int64_t tile = first; tile <= last; ++tile) {
    const int64_t from = (image * tiling.tiles + tile) * shape.c + channel;
    scale += tiles_scale[from];
    shift += tiles_shift[from];
  }
  d_scale[at] = scale;
  d_shift[at] = shift;
}

}  // namespace attn_kernels
