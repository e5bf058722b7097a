// The attention map alone. Forward is pooling and conv_gate_kernel without the gate; backward is
//   d_pooled  d_map, map (N, 1, H, W) -> d_logit (N, 1, H, W), d_pooled (N, 2, H, W)
// and then the gradients of pooling (channel_pool.cuh) and of the weight (conv_weight.cuh).
// It moves 20 bytes per pixel: small beside x. Real is float or double.
#pragma once

#include "stencil.cuh"

namespace attn_kernels {

template <class Real>
__global__ void __launch_bounds__(kThreads, 1)
    d_pooled_kernel(Shape shape, Tiling tiling, int k, const Real* __restrict__ d_map,
                    const Real* __restrict__ map, const Real* __restrict__ weight,
                    Real* __restrict__ d_logit, Real* __restrict__ d_pooled) {
  const Tile<true, 1> tile(shape, tiling, blockIdx.x);
  Real* tile_weight = dynamic_shared<Real>();  // (2, K, K)
  Real* window = tile_weight + 2 * k * k;      // (K, pixels + K - 1)

  load_weight(weight, k, tile_weight);
  const int64_t image = tile.image * tile.hw;
  load_window(tile, k, window,
              [=](int64_t q) { return sigmoid_backward(d_map[image + q], map[image + q]); });
  __syncthreads();

  const int centre = k / 2 * (tile.pixels + k - 1) + k / 2;
  for (int j = threadIdx.x; j < tile.count; j += blockDim.x) {
    d_logit[tile.at(j)] = window[centre + j];
    Real d_mean, d_max;
    convolve_transposed(tile, k, tile_weight, window, j, &d_mean, &d_max);
    d_pooled[tile.at(j, 2, 0)] = d_mean;
    d_pooled[tile.at(j, 2, 1)] = d_max;
  }
}

}  // namespace attn_kernels
