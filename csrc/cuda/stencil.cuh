// The K x K convolution of what is per pixel, and its transpose, each in a kernel of its own.
//   map       pooled (N, 2, H, W) -> map (N, 1, H, W) = sigmoid(bias + conv(pooled))
//   d_pooled  d_logit (N, 1, H, W) -> d_pooled (N, 2, H, W); or from d_map and map, then d_logit
//   too
// weight (G, 2, K, K), bias (G): image n has those of n / (N / G). They move 8 to 20 bytes per
// pixel, mostly in L2: small beside x. Real is float or double.
//
// A tile's window has zeros where the image ends, so no tap is tested. A thread has a quad of
// neighbouring pixels and takes the taps of a row in quads: 3 reads of shared memory and 28
// products for a row of K = 7.
#pragma once

#include "burst.cuh"

namespace attn_kernels {

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

// A block's tile: its place in the image, and how much of it the image has.
struct StencilTile {
  int64_t image;
  int top, left, rows, columns;

  __device__ StencilTile(const Shape& shape, const StencilTiling& tiling, int64_t image,
                         unsigned tile)
      : image(image) {
    const unsigned across = static_cast<unsigned>(tiling.across);
    top = static_cast<int>(tile / across) * tiling.rows;
    left = static_cast<int>(tile % across) * tiling.columns;
    rows = shape.h - top < tiling.rows ? shape.h - top : tiling.rows;
    columns = shape.w - left < tiling.columns ? shape.w - left : tiling.columns;
  }
};

constexpr int kFillLanes = 16;  // threads that fill a row of a window together

// Calls fill(row, column, inside, q) for the window of `margin` around the tile, q being the pixel
// of the image; column goes up to the pitch.
template <class Fill>
__device__ __forceinline__ void fill_window(const Shape& shape, const StencilTile& tile, int rows,
                                            int pitch, int margin, Fill fill) {
  for (int row = threadIdx.x / kFillLanes; row < rows; row += blockDim.x / kFillLanes) {
    const int y = tile.top + row - margin;
    const int64_t start = static_cast<int64_t>(y) * shape.w + tile.left - margin;
    for (int column = threadIdx.x % kFillLanes; column < pitch; column += kFillLanes) {
      const int x = tile.left + column - margin;
      fill(row, column, 0 <= y && y < shape.h && 0 <= x && x < shape.w, start + column);
    }
  }
}

// Weights, each row filled up to whole quads; `turned`: by half a turn, as the transpose needs
// them.
template <class Real>
__device__ __forceinline__ void load_weight(const Real* weight, int k, bool turned, Real* shared) {
  const int padded = kQuad * ((k + kQuad - 1) / kQuad);
  for (int i = threadIdx.x; i < 2 * k * padded; i += blockDim.x) {
    const int column = i % padded, plane = i / padded / k, t = i / padded % k * k + column;
    if (column < k) shared[i] = weight[plane * k * k + (turned ? k * k - 1 - t : t)];
  }
}

// sums[i] += a window's row, from pixel i of the quad on, times a row of weights, for the pairs
// (weight row, sums) given. K is kSize, or k where that is 0.
template <int kSize, int kPlanes, class Real>
__device__ __forceinline__ void convolve_row(int k, const Real* row, const Real* weight,
                                             int weight_plane, Real (&sums)[kPlanes][kQuad]) {
  const int taps = kSize > 0 ? kSize : k;
  auto low = load<kQuad>(row);
#pragma unroll
  for (int first = 0; first < taps; first += kQuad) {
    const auto high = load<kQuad>(row + first + kQuad);
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      const auto factor = load<kQuad>(weight + plane * weight_plane + first);
#pragma unroll
      for (int t = 0; t < kQuad; ++t) {
        if (first + t >= taps) break;
#pragma unroll
        for (int i = 0; i < kQuad; ++i) {
          const Real value =
              i + t < kQuad ? low.value[(i + t) % kQuad] : high.value[(i + t) % kQuad];
          sums[plane][i] += factor.value[t] * value;
        }
      }
    }
    low = high;
  }
}

// The quad of pixels that is a thread's.
struct Quad {
  int row, column;
  bool inside;

  __device__ Quad(const StencilTile& tile, const StencilTiling& tiling) {
    const int quads = tiling.columns / kQuad;
    row = threadIdx.x / quads;
    column = threadIdx.x % quads * kQuad;
    inside = row < tile.rows && column < tile.columns;
  }
};

template <class Real>
struct MapArguments {
  Shape shape;
  StencilTiling tiling;
  int k;
  int64_t groups;
  const Real *pooled, *weight, *bias;  // bias may be null
  Real* map;
};

template <class Real>
__device__ __forceinline__ void map_item(const MapArguments<Real>& a, unsigned item) {
  const unsigned tiles = static_cast<unsigned>(a.tiling.tiles);
  const StencilTile tile(a.shape, a.tiling, item / tiles, item % tiles);
  const int k = a.k, weights = k * kQuad * ((k + kQuad - 1) / kQuad);  // of a plane
  const int rows = a.tiling.rows + k - 1, pitch = a.tiling.pitch;
  Real* weight = dynamic_shared<Real>();  // (2, K, taps in quads)
  Real* window = weight + 2 * weights;    // (2, rows, pitch)
  const int64_t group = tile.image / (a.shape.n / a.groups);

  load_weight(a.weight + group * 2 * k * k, k, false, weight);
  const Real* mean = a.pooled + tile.image * 2 * a.shape.hw;
  fill_window(a.shape, tile, rows, pitch, k / 2, [&](int row, int column, bool inside, int64_t q) {
    window[row * pitch + column] = inside ? mean[q] : Real(0);
    window[(rows + row) * pitch + column] = inside ? mean[a.shape.hw + q] : Real(0);
  });
  __syncthreads();

  const Quad quad(tile, a.tiling);
  if (!quad.inside) return;
  Real from_mean[1][kQuad] = {}, from_max[1][kQuad] = {};
  with_kernel_size(k, [&](auto size) {
    constexpr int kSize = decltype(size)::value;
#pragma unroll
    for (int ky = 0; ky < (kSize > 0 ? kSize : k); ++ky) {
      const Real* row = window + (quad.row + ky) * pitch + quad.column;
      const Real* factors = weight + ky * (weights / k);
      convolve_row<kSize>(k, row, factors, 0, from_mean);
      convolve_row<kSize>(k, row + rows * pitch, factors + weights, 0, from_max);
    }
  });
  const Real bias = a.bias != nullptr ? a.bias[group] : Real(0);
  const int64_t first = static_cast<int64_t>(tile.top + quad.row) * a.shape.w + tile.left;
  Real* map = a.map + tile.image * a.shape.hw + first + quad.column;
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    if (quad.column + i < tile.columns) map[i] = sigmoid(bias + from_mean[0][i] + from_max[0][i]);
  }
}

template <class Real>
__global__ void __launch_bounds__(kThreads, 1) map_kernel(MapArguments<Real> arguments) {
  map_item(arguments, blockIdx.x);
}

template <class Real>
struct PooledGradientArguments {
  Shape shape;
  StencilTiling tiling;
  int k;
  int64_t groups;
  const Real *d_map, *map;  // d_map null: d_logit is given
  const Real* weight;
  Real *d_logit, *d_pooled;
};

template <class Real>
__device__ __forceinline__ void pooled_gradient_item(const PooledGradientArguments<Real>& a,
                                                     unsigned item) {
  const unsigned tiles = static_cast<unsigned>(a.tiling.tiles);
  const StencilTile tile(a.shape, a.tiling, item / tiles, item % tiles);
  const int k = a.k, weights = k * kQuad * ((k + kQuad - 1) / kQuad);
  const int rows = a.tiling.rows + k - 1, pitch = a.tiling.pitch;
  Real* weight = dynamic_shared<Real>();  // (2, K, taps in quads), turned
  Real* window = weight + 2 * weights;    // (rows, pitch)
  const int64_t group = tile.image / (a.shape.n / a.groups), image = tile.image * a.shape.hw;

  load_weight(a.weight + group * 2 * k * k, k, true, weight);
  fill_window(a.shape, tile, rows, pitch, k / 2, [&](int row, int column, bool inside, int64_t q) {
    Real value = 0;
    if (inside && a.d_map == nullptr) value = a.d_logit[image + q];
    if (inside && a.d_map != nullptr)
      value = sigmoid_backward(a.d_map[image + q], a.map[image + q]);
    window[row * pitch + column] = value;
  });
  __syncthreads();

  const Quad quad(tile, a.tiling);
  if (!quad.inside) return;
  Real sums[2][kQuad] = {};
  with_kernel_size(k, [&](auto size) {
    constexpr int kSize = decltype(size)::value;
#pragma unroll
    for (int ky = 0; ky < (kSize > 0 ? kSize : k); ++ky) {
      convolve_row<kSize>(k, window + (quad.row + ky) * pitch + quad.column,
                          weight + ky * (weights / k), weights, sums);
    }
  });
  const int64_t first = static_cast<int64_t>(tile.top + quad.row) * a.shape.w + tile.left;
  const int64_t q = first + quad.column;
  const Real* centre = window + (quad.row + k / 2) * pitch + quad.column + k / 2;
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    if (quad.column + i >= tile.columns) break;
    a.d_pooled[2 * image + q + i] = sums[0][i];
    a.d_pooled[2 * image + a.shape.hw + q + i] = sums[1][i];
    if (a.d_map != nullptr) a.d_logit[image + q + i] = centre[i];
  }
}

template <class Real>
__global__ void __launch_bounds__(kThreads, 1)
    pooled_gradient_kernel(PooledGradientArguments<Real> arguments) {
  pooled_gradient_item(arguments, blockIdx.x);
}

}  // namespace attn_kernels
