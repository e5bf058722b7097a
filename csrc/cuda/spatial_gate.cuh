// The spatial gate, y = x * map with map = sigmoid(bias + conv(pooled)), and its gradient.
// N below is the size of x in bytes.
//   conv_gate   pooled (N, 2, H, W) -> map (N, 1, H, W); x, map -> y        reads N, writes N
//   d_logit     dy, x, map, pooled -> d_logit (N, 1, H, W), argmax          reads 2 N
//   d_input     dy, map, d_logit, argmax -> dx                              reads N, writes N
// x, y, dy, dx are NCHW or channels_last; what is per pixel is contiguous, in Acc<T>. Pooling comes
// before conv_gate (channel_pool.cuh), the weight's gradient after d_logit (conv_weight.cuh).
//
// argmax, int32 per pixel, lives for one backward call: d_logit meets every x anyway, so 4 bytes
// per pixel written and read there save d_input all N bytes of x that finding it again would take.
//
// Every second kernel walks the tiles in reverse: what the one before touched last is still in L2.
#pragma once

#include "stencil.cuh"

namespace attn_kernels {

__device__ __forceinline__ unsigned block_in_reverse() { return gridDim.x - 1 - blockIdx.x; }

// With kGate false only the map is computed, and x and y are not touched. bias may be null.
template <class T, bool kChannelsLast, int V, bool kGate>
__global__ void __launch_bounds__(kThreads, 1)
    conv_gate_kernel(Shape shape, Tiling tiling, int k, const T* __restrict__ x,
                     const Acc<T>* __restrict__ pooled, const Acc<T>* __restrict__ weight,
                     const Acc<T>* __restrict__ bias, T* __restrict__ y, Acc<T>* __restrict__ map) {
  using Real = Acc<T>;
  using TileType = Tile<kChannelsLast, V>;
  const TileType tile(shape, tiling, block_in_reverse());
  const int window_size = k * (tile.pixels + k - 1);
  Real* tile_weight = dynamic_shared<Real>();  // (2, K, K)
  Real* window = tile_weight + 2 * k * k;      // (2, K, pixels + K - 1)
  Real* tile_map = window + 2 * window_size;   // (pixels)

  load_weight(weight, k, tile_weight);
  for (int plane = 0; plane < 2; ++plane) {
    const Real* source = pooled + (tile.image * 2 + plane) * tile.hw;
    load_window(tile, k, window + plane * window_size, [=](int64_t q) { return source[q]; });
  }
  __syncthreads();

  for (int j = threadIdx.x; j < tile.count; j += blockDim.x) {
    const Real offset = bias != nullptr ? *bias : Real(0);
    const Real gate = sigmoid(offset + convolve(tile, k, tile_weight, window, j));
    tile_map[j] = gate;
    if (tile.owns_map) map[tile.at(j)] = gate;
  }
  if constexpr (!kGate) return;
  __syncthreads();

  for (int j = tile.first_pixel; j < tile.count; j += tile.pixel_step) {
    Real gate[TileType::kPixels];
    for (int i = 0; i < TileType::kPixels; ++i) gate[i] = tile_map[j + i];
#pragma unroll 4
    for (int channel = tile.first_channel; channel < tile.last_channel;
         channel += tile.channel_step) {
      const int64_t at = tile.offset(channel, j);
      Real value[V];
      load(x + at, value);
      for (int i = 0; i < V; ++i) value[i] *= gate[TileType::pixel(i)];
      store_streaming(y + at, value);
    }
  }
}

template <class Real>
struct GateStat {
  Real d_map;
  int argmax;
};

template <class T, bool kChannelsLast, int V>
__global__ void __launch_bounds__(kMaxThreads, 1)
    d_logit_kernel(Shape shape, Tiling tiling, const T* __restrict__ dy, const T* __restrict__ x,
                   const Acc<T>* __restrict__ map, const Acc<T>* __restrict__ pooled,
                   Acc<T>* __restrict__ d_logit, int* __restrict__ argmax) {
  using Real = Acc<T>;
  using TileType = Tile<kChannelsLast, V>;
  const TileType tile(shape, tiling, blockIdx.x);
  const int j = tile.first_pixel;

  GateStat<Real> stat[V];
  for (int i = 0; i < V; ++i) stat[i] = {Real(0), shape.c};
  if (j < tile.count) {
    Real max[TileType::kPixels];
    for (int i = 0; i < TileType::kPixels; ++i) max[i] = pooled[tile.at(j + i, 2, 1)];
    Real batch[V];
    for_channels(
        tile,
        [&] {
          for (int i = 0; i < V; ++i) batch[i] = 0;
        },
        [&](int channel) {
          const int64_t at = tile.offset(channel, j);
          Real dy_value[V], x_value[V];
          load(dy + at, dy_value);
          load(x + at, x_value);
          for (int i = 0; i < V; ++i) {
            batch[i] += dy_value[i] * x_value[i];
            const int here = channel + TileType::channel(i);
            const int lowest = here < stat[i].argmax ? here : stat[i].argmax;
            stat[i].argmax = if_max(x_value[i], max[TileType::pixel(i)], lowest, stat[i].argmax);
          }
        },
        [&] {
          for (int i = 0; i < V; ++i) stat[i].d_map += batch[i];
        });
  }

  fold_channels(
      tile, stat, dynamic_shared<GateStat<Real>>(),
      [](GateStat<Real> a, GateStat<Real> b) {
        return GateStat<Real>{a.d_map + b.d_map, a.argmax < b.argmax ? a.argmax : b.argmax};
      },
      [&](int pixel, GateStat<Real> total) {
        const int64_t at = tile.at(pixel);
        d_logit[at] = sigmoid_backward(total.d_map, map[at]);
        argmax[at] = total.argmax;
      });
}

template <class T, bool kChannelsLast, int V>
__global__ void __launch_bounds__(kThreads, 1)
    d_input_kernel(Shape shape, Tiling tiling, int k, const T* __restrict__ dy,
                   const Acc<T>* __restrict__ weight, const Acc<T>* __restrict__ map,
                   const Acc<T>* __restrict__ d_logit, const int* __restrict__ argmax,
                   T* __restrict__ dx) {
  using Real = Acc<T>;
  using TileType = Tile<kChannelsLast, V>;
  const TileType tile(shape, tiling, block_in_reverse());
  Real* tile_weight = dynamic_shared<Real>();              // (2, K, K)
  Real* window = tile_weight + 2 * k * k;                  // (K, pixels + K - 1)
  Real* tile_d_mean = window + k * (tile.pixels + k - 1);  // (pixels)
  Real* tile_d_max = tile_d_mean + tile.pixels;            // (pixels)

  load_weight(weight, k, tile_weight);
  const Real* source = d_logit + tile.image * tile.hw;
  load_window(tile, k, window, [=](int64_t q) { return source[q]; });
  __syncthreads();

  for (int j = threadIdx.x; j < tile.count; j += blockDim.x) {
    convolve_transposed(tile, k, tile_weight, window, j, &tile_d_mean[j], &tile_d_max[j]);
  }
  __syncthreads();

  for (int j = tile.first_pixel; j < tile.count; j += tile.pixel_step) {
    Real gate[TileType::kPixels], d_mean[TileType::kPixels], d_max[TileType::kPixels];
    int top[TileType::kPixels];
    for (int i = 0; i < TileType::kPixels; ++i) {
      gate[i] = map[tile.at(j + i)];
      d_mean[i] = tile_d_mean[j + i] / Real(shape.c);
      d_max[i] = tile_d_max[j + i];
      top[i] = argmax[tile.at(j + i)];
    }
#pragma unroll 4
    for (int channel = tile.first_channel; channel < tile.last_channel;
         channel += tile.channel_step) {
      const int64_t at = tile.offset(channel, j);
      Real value[V];
      load(dy + at, value);
      for (int i = 0; i < V; ++i) {
        const int p = TileType::pixel(i);
        const bool is_top = channel + TileType::channel(i) == top[p];
        value[i] = value[i] * gate[p] + d_mean[p] + (is_top ? d_max[p] : Real(0));
      }
      store_streaming(dx + at, value);
    }
  }
}

}  // namespace attn_kernels
