// Mean and max over the channels, and their gradient.
//   pool           x (N, C, H, W) -> pooled (N, 2, H, W)              reads x once
//   pool_backward  x, d_pooled (N, 2, H, W) -> dx (N, C, H, W)        reads x once, writes dx once
// x and dx are NCHW or channels_last, pooled and d_pooled contiguous.
#pragma once

#include "tile.cuh"

namespace attn_kernels {

template <class Real>
struct PoolStat {
  Real sum, max;
};

template <class T, class Out, bool kChannelsLast, int V>
__global__ void __launch_bounds__(kMaxThreads, 1)
    pool_kernel(Shape shape, Tiling tiling, const T* __restrict__ x, Out* __restrict__ pooled) {
  using Real = Acc<T>;
  const Tile<kChannelsLast, V> tile(shape, tiling, blockIdx.x);
  const int j = tile.first_pixel;

  PoolStat<Real> stat[V];
  for (int i = 0; i < V; ++i) stat[i] = {Real(0), Real(-INFINITY)};
  if (j < tile.count) {
    Real batch[V];
    for_channels(
        tile,
        [&] {
          for (int i = 0; i < V; ++i) batch[i] = 0;
        },
        [&](int channel) {
          Real value[V];
          load(x + tile.offset(channel, j), value);
          for (int i = 0; i < V; ++i) {
            batch[i] += value[i];
            stat[i].max = nan_max(stat[i].max, value[i]);
          }
        },
        [&] {
          for (int i = 0; i < V; ++i) stat[i].sum += batch[i];
        });
  }

  fold_channels(
      tile, stat, dynamic_shared<PoolStat<Real>>(),
      [](PoolStat<Real> a, PoolStat<Real> b) {
        return PoolStat<Real>{a.sum + b.sum, nan_max(a.max, b.max)};
      },
      [&](int pixel, PoolStat<Real> total) {
        pooled[tile.at(pixel, 2, 0)] = narrow<Out>(total.sum / Real(shape.c));
        pooled[tile.at(pixel, 2, 1)] = narrow<Out>(total.max);
      });
}

template <class Real>
struct Candidate {
  Real value;
  int channel;
};

// The larger value; NaN is larger than all; the lower channel if neither is.
template <class Real>
__device__ __forceinline__ Candidate<Real> better(Candidate<Real> a, Candidate<Real> b) {
  const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
  const bool b_larger = (b.value > a.value) | (b_nan & !a_nan);
  const bool same = (b.value == a.value) | (b_nan & a_nan);
  return b_larger || (same && b.channel < a.channel) ? b : a;
}

template <class T, bool kChannelsLast, int V>
__global__ void __launch_bounds__(kMaxThreads, 1)
    pool_backward_kernel(Shape shape, Tiling tiling, const T* __restrict__ x,
                         const Acc<T>* __restrict__ d_pooled, T* __restrict__ dx) {
  using Real = Acc<T>;
  using TileType = Tile<kChannelsLast, V>;
  const TileType tile(shape, tiling, blockIdx.x);
  const int j = tile.first_pixel;

  Candidate<Real> best[V];
  for (int i = 0; i < V; ++i) best[i] = {Real(-INFINITY), shape.c};
  if (j < tile.count) {
#pragma unroll 4
    for (int channel = tile.first_channel; channel < tile.last_channel;
         channel += tile.channel_step) {
      Real value[V];
      load(x + tile.offset(channel, j), value);
      for (int i = 0; i < V; ++i) {
        best[i] = better(best[i], {value[i], channel + TileType::channel(i)});
      }
    }
  }

  auto* candidates = dynamic_shared<Candidate<Real>>();  // (partials, pixels)
  int* argmax = reinterpret_cast<int*>(candidates + tile.partials * tile.pixels);  // (pixels)
  fold_channels(
      tile, best, candidates, [](Candidate<Real> a, Candidate<Real> b) { return better(a, b); },
      [&](int pixel, Candidate<Real> total) { argmax[pixel] = total.channel; });
  __syncthreads();

  if (j >= tile.count) return;
  Real d_mean[TileType::kPixels], d_max[TileType::kPixels];
  int top[TileType::kPixels];
  for (int i = 0; i < TileType::kPixels; ++i) {
    d_mean[i] = d_pooled[tile.at(j + i, 2, 0)] / Real(shape.c);
    d_max[i] = d_pooled[tile.at(j + i, 2, 1)];
    top[i] = argmax[j + i];
  }
  for (int channel = tile.first_channel; channel < tile.last_channel;
       channel += tile.channel_step) {
    Real value[V];
    for (int i = 0; i < V; ++i) {
      const int p = TileType::pixel(i);
      const bool is_top = channel + TileType::channel(i) == top[p];
      value[i] = d_mean[p] + (is_top ? d_max[p] : Real(0));
    }
    store_streaming(dx + tile.offset(channel, j), value);
  }
}

}  // namespace attn_kernels
