// The gradient of the convolution's weight and bias, in two stages and always in the same order.
//   d_weight_partial  d_logit (N, 1, H, W), pooled (N, 2, H, W) -> partial (blocks, 2 K K + 1)
//   d_weight_sum      partial -> d_weight (1, 2, K, K), d_bias (1)
// Reads 12 bytes per pixel, mostly from L2: small beside x. Real is float or double.
#pragma once

#include "stencil.cuh"

namespace attn_kernels {

// One thread per tap: its product with d_logit, summed over the pixels of the block's tiles. The
// last tap is the bias, whose input is 1.
template <class Real>
__global__ void __launch_bounds__(kMaxThreads, 1)
    d_weight_partial_kernel(Shape shape, Tiling tiling, int k, const Real* __restrict__ d_logit,
                            const Real* __restrict__ pooled, Real* __restrict__ partial) {
  const int taps = 2 * k * k + 1;
  const int tap = threadIdx.x;
  const int plane = tap / (k * k), ky = tap % (k * k) / k, kx = tap % k;
  const int stride = tiling.pixels + k - 1;
  Real* window = dynamic_shared<Real>();         // (2, K, pixels + K - 1)
  Real* tile_d_logit = window + 2 * k * stride;  // (pixels)
  const Real* row = window + (plane * k + ky) * stride + kx;

  Real total = 0;
  const unsigned tiles = static_cast<unsigned>(shape.n * tiling.tiles);
  for (unsigned index = blockIdx.x; index < tiles; index += gridDim.x) {
    const Tile<true, 1> tile(shape, tiling, index);
    for (int source = 0; source < 2; ++source) {
      const Real* from = pooled + (tile.image * 2 + source) * tile.hw;
      load_window(tile, k, window + source * k * stride, [=](int64_t q) { return from[q]; });
    }
    for (int j = threadIdx.x; j < tile.count; j += blockDim.x) {
      tile_d_logit[j] = d_logit[tile.at(j)];
    }
    __syncthreads();

    Real sum = 0;
    if (plane < 2) {
      int column = static_cast<int>(tile.start % tile.width) + kx - k / 2;
      for (int j = 0; j < tile.count; ++j) {
        if (0 <= column && column < tile.width) sum += tile_d_logit[j] * row[j];
        if (++column == tile.width + kx - k / 2) column = kx - k / 2;
      }
    } else {
      for (int j = 0; j < tile.count; ++j) sum += tile_d_logit[j];
    }
    total += sum;
    __syncthreads();
  }
  if (tap < taps) partial[static_cast<int64_t>(blockIdx.x) * taps + tap] = total;
}

// A block sums kSumTaps taps; up to kSumParts threads share the rows of each.
constexpr int kSumTaps = 32;
constexpr int kSumParts = 16;

template <class Real>
__global__ void __launch_bounds__(kMaxThreads, 1)
    d_weight_sum_kernel(int rows, int k, const Real* __restrict__ partial,
                        Real* __restrict__ d_weight, Real* __restrict__ d_bias) {
  const int taps = 2 * k * k + 1;
  const int part = threadIdx.x / kSumTaps, parts = blockDim.x / kSumTaps;
  const int tap = blockIdx.x * kSumTaps + threadIdx.x % kSumTaps;
  Real* shared = dynamic_shared<Real>();  // (parts, kSumTaps)

  Real sum = 0;
  if (tap < taps) {
#pragma unroll 8
    for (int row = part; row < rows; row += parts) sum += partial[row * taps + tap];
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (part > 0 || tap >= taps) return;
  Real total = 0;
  for (int other = 0; other < parts; ++other) total += shared[other * kSumTaps + threadIdx.x];
  (tap < taps - 1 ? d_weight[tap] : *d_bias) = total;
}

}  // namespace attn_kernels
