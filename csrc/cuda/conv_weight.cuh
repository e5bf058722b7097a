// The gradient of the convolution's weight and bias, in two stages and always in the same order.
//   weight_partial  d_logit (N, 1, H, W), pooled (N, 2, H, W) -> partial (G, blocks, 2 K K + 1)
//   weight_sum      partial -> d_weight (G, 2, K, K), d_bias (G)
// Reads 12 bytes per pixel, mostly from L2: small beside x. Real is float or double.
//
// A thread has one row of a tile and one (plane, ky), and all kx of it in registers: for four
// neighbouring pixels that is 4 reads of shared memory and 28 products with K = 7.
#pragma once

#include "stencil.cuh"

namespace attn_kernels {

template <class Real>
struct WeightArguments {
  Shape shape;
  WeightTiling tiling;
  int k;
  const Real *d_logit, *pooled;
  Real* partial;
};

// part[kx] += d * window for the pixels of a row; bias += d. kSize: K, or at least K and then `k`
// says it (at most 7 is K itself). kTested: skips the taps outside the image, which hold zeros.
template <int kSize, bool kTested, class Real>
__device__ __forceinline__ void weight_row(int k, int columns, int first_x, int width,
                                           const Real* d_logit, const Real* window,
                                           Real (&part)[kSize], Real& bias) {
  // As many values of the window as fit in registers beside the sums; else none.
  constexpr bool kHeld = kSize * sizeof(Real) <= 56;
  constexpr int kWindow = kHeld ? kQuad * ((kSize + 2 * kQuad - 2) / kQuad) : 0;
  const auto take = [&](int column, auto left) {
    Real value[kWindow + 1];
#pragma unroll
    for (int m = 0; m < kWindow; m += kQuad) {
      if (m >= k + kQuad - 1) break;
      const auto quad = load<kQuad>(window + column + m);
#pragma unroll
      for (int i = 0; i < kQuad; ++i) value[m + i] = quad.value[i];
    }
    const auto d = load<kQuad>(d_logit + column);
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      if (i >= left) break;
      bias += d.value[i];
#pragma unroll
      for (int kx = 0; kx < kSize; ++kx) {
        if (kx >= k) break;
        const int x = first_x + column + i + kx - k / 2;
        const Real tap = kHeld ? value[i + kx] : window[column + i + kx];
        if (!kTested || (0 <= x && x < width)) part[kx] += d.value[i] * tap;
      }
    }
  };
  int column = 0;
#pragma unroll 1
  for (; column + kQuad <= columns; column += kQuad) take(column, Int<kQuad>());
  if (column < columns) take(column, columns - column);
}

// The sum over the threads of a tile's rows, left with those of row 0, which then have all of it.
// shared: (kWeightRows / 2, pairs, K + 1).
template <int kSize, class Real>
__device__ __forceinline__ void fold_rows(int k, int pair, int row, Real* shared,
                                          Real (&sum)[kSize], Real& bias) {
  const int pairs = blockDim.x / kWeightRows;
  for (int half = kWeightRows / 2; half > 0; half /= 2) {
    Real* place = shared + (row % half * pairs + pair) * (k + 1);
    if (row >= half && row < 2 * half) {
#pragma unroll
      for (int kx = 0; kx < kSize; ++kx) {
        if (kx < k) place[kx] = sum[kx];
      }
      place[k] = bias;
    }
    __syncthreads();
    if (row < half) {
#pragma unroll
      for (int kx = 0; kx < kSize; ++kx) {
        if (kx < k) sum[kx] += place[kx];
      }
      bias += place[k];
    }
    __syncthreads();
  }
}

template <int kSize, class Real>
__device__ __forceinline__ void weight_item(const WeightArguments<Real>& a, int run_time_k,
                                            unsigned item) {
  const int k = kSize <= 7 ? kSize : run_time_k;
  const StencilTiling& tiling = a.tiling.stencil;
  const int rows = tiling.rows + k - 1, pitch = tiling.pitch, d_pitch = pitch;
  Real* window = dynamic_shared<Real>();      // (2, rows, pitch)
  Real* d_logit = window + 2 * rows * pitch;  // (tile rows, pitch)
  const int pair = threadIdx.x / kWeightRows, row = threadIdx.x % kWeightRows;
  const int plane = pair / k, ky = pair % k;
  const auto blocks = static_cast<unsigned>(a.tiling.rows);
  const auto tiles = static_cast<unsigned>(a.tiling.tiles);
  const auto per_image = static_cast<unsigned>(tiling.tiles);
  const int64_t first_image = item / blocks * (a.shape.n / a.tiling.groups);

  Real total[kSize] = {}, total_bias = 0;
  for (unsigned index = item % blocks; index < tiles; index += blocks) {
    const StencilTile tile(a.shape, tiling, first_image + index / per_image, index % per_image);
    const LoadPooled<Real> pooled{a.pooled + tile.image * 2 * a.shape.hw, a.shape.hw};
    fill_window<2>(a.shape, tile, rows, pitch, pitch, k / 2, window, pooled,
                   AsItIs<Vector<Real, 2>>());
    const Real* from = a.d_logit + tile.image * a.shape.hw;
    fill_window<1>(
        a.shape, tile, tile.rows, tiling.columns, d_pitch, 0, d_logit,
        [=](int64_t q) { return load<1>(from + q); }, AsItIs<Vector<Real, 1>>());
    __syncthreads();

    const int y = tile.top + row + ky - k / 2;  // of the window's row
    if (row < tile.rows) {
      const Real* d_row = d_logit + row * d_pitch;
      const Real* window_row = window + (plane * rows + row + ky) * pitch;
      Real part[kSize] = {}, bias = 0;
      weight_row<kSize, false>(k, tile.columns, tile.left, a.shape.w, d_row, window_row, part,
                               bias);
      // What is not finite must not meet the zeros outside the image: once more, with tests.
      if (bias - bias != Real(0)) {
        bias = 0;
#pragma unroll
        for (int kx = 0; kx < kSize; ++kx) part[kx] = 0;
        weight_row<kSize, true>(k, tile.columns, tile.left, 0 <= y && y < a.shape.h ? a.shape.w : 0,
                                d_row, window_row, part, bias);
      }
#pragma unroll
      for (int kx = 0; kx < kSize; ++kx) total[kx] += part[kx];
      total_bias += bias;
    }
    __syncthreads();
  }

  fold_rows<kSize>(k, pair, row, window, total, total_bias);
  if (row > 0) return;
  Real* partial = a.partial + static_cast<int64_t>(item) * (2 * k * k + 1);
#pragma unroll
  for (int kx = 0; kx < kSize; ++kx) {
    if (kx < k) partial[pair * k + kx] = total[kx];
  }
  if (pair == 0) partial[2 * k * k] = total_bias;
}

constexpr int kLargestK = 15;

// kSize: K, or kLargestK for all that have no kernel of their own.
template <int kSize, class Real>
__global__ void __launch_bounds__(2 * kSize * kWeightRows, 1)
    weight_kernel(WeightArguments<Real> arguments) {
  weight_item<kSize>(arguments, arguments.k, blockIdx.x);
}

// A block sums kSumTaps taps of a group; up to kSumParts threads share the rows of each.
constexpr int kSumTaps = 8;
constexpr int kSumParts = 64;

template <class Real>
__global__ void __launch_bounds__(kMaxThreads, 1)
    weight_sum_kernel(int rows, int k, const Real* __restrict__ partial,
                      Real* __restrict__ d_weight, Real* __restrict__ d_bias) {
  const int taps = 2 * k * k + 1, blocks = (taps + kSumTaps - 1) / kSumTaps;
  const int64_t group = blockIdx.x / blocks;
  const int part = threadIdx.x / kSumTaps, parts = blockDim.x / kSumTaps;
  const int tap = blockIdx.x % blocks * kSumTaps + threadIdx.x % kSumTaps;
  Real* shared = dynamic_shared<Real>();  // (parts, kSumTaps)

  Real sum = 0;
  if (tap < taps) {
    const Real* from = partial + group * rows * taps + tap;
#pragma unroll 8
    for (int row = part; row < rows; row += parts) sum += from[static_cast<int64_t>(row) * taps];
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (part > 0 || tap >= taps) return;
  Real total = 0;
  for (int other = 0; other < parts; ++other) total += shared[other * kSumTaps + threadIdx.x];
  (tap < taps - 1 ? d_weight[group * (taps - 1) + tap] : d_bias[group]) = total;
}

}  // namespace attn_kernels
