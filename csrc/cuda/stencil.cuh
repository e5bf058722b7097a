// The K x K convolution of the pooled map over a tile of pixels, and its transpose.
//
// A tile is a run of pixels, so tap (ky, kx) of all its pixels is again a run, (ky - r) * W + (kx -
// r) pixels further: the window holds, for each ky, that run with r = K / 2 more at both ends. Rows
// outside the image are zeros there; columns outside are skipped where the taps are visited.
#pragma once

#include "tile.cuh"

namespace attn_kernels {

template <int V>
struct Int {
  static constexpr int value = V;
};

// Calls f(Int<K>) with K known to the compiler for the usual sizes, Int<0> for the others.
template <class F>
__device__ __forceinline__ void with_kernel_size(int k, F f) {
  if (k == 7) {
    f(Int<7>());
  } else if (k == 3) {
    f(Int<3>());
  } else {
    f(Int<0>());
  }
}

// Fills window (K, pixels + K - 1) from value(q), q a pixel of the image.
template <class TileType, class Window, class Source>
__device__ __forceinline__ void load_window(const TileType& tile, int k, Window* window,
                                            Source value) {
  const int stride = tile.pixels + k - 1;
  for (int i = threadIdx.x; i < k * stride; i += blockDim.x) {
    const int64_t row = i / stride - k / 2;
    const int64_t q = tile.start + row * tile.width + i % stride - k / 2;
    window[i] = 0 <= q && q < tile.hw ? value(q) : Window(0);
  }
}

// Calls tap(t, i) for the taps t = ky * K + kx of pixel j that lie in the image; i: in the window.
template <int kSize, class TileType, class Tap>
__device__ __forceinline__ void for_taps(const TileType& tile, int run_time_k, int j, Tap tap) {
  const int k = kSize > 0 ? kSize : run_time_k;
  const int stride = tile.pixels + k - 1;
  const int x = static_cast<int>((tile.start + j) % tile.width);
#pragma unroll
  for (int ky = 0; ky < k; ++ky) {
#pragma unroll
    for (int kx = 0; kx < k; ++kx) {
      const int column = x + kx - k / 2;
      if (0 <= column && column < tile.width) tap(ky * k + kx, ky * stride + j + kx);
    }
  }
}

// sum over planes and taps of weight * pooled. weight: (2, K, K), window: (2, K, pixels + K - 1).
template <class Real, class TileType>
__device__ __forceinline__ Real convolve(const TileType& tile, int k, const Real* weight,
                                         const Real* window, int j) {
  const Real* max_weight = weight + k * k;
  const Real* max_window = window + k * (tile.pixels + k - 1);
  Real from_mean = 0, from_max = 0;
  with_kernel_size(k, [&](auto size) {
    for_taps<decltype(size)::value>(tile, k, j, [&](int t, int i) {
      from_mean += weight[t] * window[i];
      from_max += max_weight[t] * max_window[i];
    });
  });
  return from_mean + from_max;
}

// The gradients of the mean and the max at pixel j, from window (K, pixels + K - 1) of d_logit: the
// pixels that j reached through tap t reach it back through the tap opposite.
template <class Real, class TileType>
__device__ __forceinline__ void convolve_transposed(const TileType& tile, int k, const Real* weight,
                                                    const Real* window, int j, Real* d_mean,
                                                    Real* d_max) {
  const Real* last = weight + k * k - 1;
  const Real* max_last = last + k * k;
  Real to_mean = 0, to_max = 0;
  with_kernel_size(k, [&](auto size) {
    for_taps<decltype(size)::value>(tile, k, j, [&](int t, int i) {
      to_mean += last[-t] * window[i];
      to_max += max_last[-t] * window[i];
    });
  });
  *d_mean = to_mean;
  *d_max = to_max;
}

template <class Real>
__device__ __forceinline__ void load_weight(const Real* weight, int k, Real* shared) {
  for (int i = threadIdx.x; i < 2 * k * k; i += blockDim.x) shared[i] = weight[i];
}

}  // namespace attn_kernels
