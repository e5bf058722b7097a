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

// Fills a window (planes, rows, pitch) of `margin` around the tile, `columns` wide: take(load(q),
// q, own) says what each plane has for the image's pixel q, `own` being whether it is of the tile
// itself; outside the image are zeros. A thread loads kBurst pixels before it takes the first.
template <int kPlanes, class Real, class Load, class Take>
__device__ __forceinline__ void fill_window(const Shape& shape, const StencilTile& tile, int rows,
                                            int columns, int pitch, int margin, Real* window,
                                            Load load, Take take) {
  int row = threadIdx.x / kFillLanes, column = threadIdx.x % kFillLanes;
  while (row < rows) {
    decltype(load(int64_t())) raw[kBurst];
    int cell[kBurst];
    int64_t pixel[kBurst];
    bool inside[kBurst], own[kBurst];
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      const int y = row - margin, x = column - margin;  // in the tile
      const int image_y = tile.top + y, image_x = tile.left + x;
      cell[u] = row < rows && column < columns ? row * pitch + column : -1;
      inside[u] = 0 <= image_y && image_y < shape.h && 0 <= image_x && image_x < shape.w;
      own[u] = 0 <= y && y < tile.rows && 0 <= x && x < tile.columns;
      pixel[u] = inside[u] ? static_cast<int64_t>(image_y) * shape.w + image_x : 0;
      raw[u] = load(pixel[u]);
      column += kFillLanes;
      if (column >= columns) {
        column = threadIdx.x % kFillLanes;
        row += blockDim.x / kFillLanes;
      }
    }
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      if (cell[u] < 0) continue;
      Vector<Real, kPlanes> value = {};
      if (inside[u]) value = take(raw[u], pixel[u], own[u]);
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
        window[plane * rows * pitch + cell[u]] = value.value[plane];
      }
    }
  }
}

// Of what is in memory as the window wants it.
template <class Raw>
struct AsItIs {
  __device__ Raw operator()(const Raw& raw, int64_t, bool) const { return raw; }
};

// mean and max of a pixel.
template <class Real>
struct LoadPooled {
  const Real* mean;  // the image's, before its max
  int64_t hw;
  __device__ Vector<Real, 2> operator()(int64_t q) const { return {{mean[q], mean[hw + q]}}; }
};

// Weights (2, K, K), each row filled up to whole quads; `turned`: by half a turn, as the transpose
// needs them.
template <class Real>
__device__ __forceinline__ void load_weight(const Real* weight, int k, bool turned, Real* shared) {
  const int padded = kQuad * ((k + kQuad - 1) / kQuad), column = threadIdx.x % kFillLanes;
  if (column >= k) return;
  for (int row = threadIdx.x / kFillLanes; row < 2 * k; row += blockDim.x / kFillLanes) {
    const int tap = row * k + column, plane = row < k ? 0 : 1;
    const int turned_tap = (2 * plane + 1) * k * k - 1 - tap;
    shared[row * padded + column] = weight[turned ? turned_tap : tap];
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

// A thread's quad of pixels, and which part of its taps' rows is the thread's.
struct Quad {
  int row, column, part;
  bool inside;

  __device__ Quad(const StencilTile& tile, const StencilTiling& tiling)
      : part(threadIdx.x >> tiling.quad_bits) {
    const unsigned place = threadIdx.x & ((1u << tiling.quad_bits) - 1);
    const unsigned across = static_cast<unsigned>(tiling.columns) / kQuad;
    row = static_cast<int>(place / across);
    column = static_cast<int>(place % across) * kQuad;
    inside = row < tile.rows && column < tile.columns && part < tiling.parts;
  }
};

// The sums of a quad's threads, in a fixed order, left with that of part 0.
// shared: (parts - 1, planes, quads, kQuad).
template <int kPlanes, class Real>
__device__ __forceinline__ void fold_parts(const StencilTiling& tiling, const Quad& quad,
                                           Real* shared, Real (&sums)[kPlanes][kQuad]) {
  const auto place = [&](int part, int plane) {
    const int quads = 1 << tiling.quad_bits, q = threadIdx.x & (quads - 1);
    return shared + (((part - 1) * kPlanes + plane) * quads + q) * kQuad;
  };
  if (quad.part > 0 && quad.part < tiling.parts) {
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      Vector<Real, kQuad> found;
#pragma unroll
      for (int i = 0; i < kQuad; ++i) found.value[i] = sums[plane][i];
      *reinterpret_cast<Vector<Real, kQuad>*>(place(quad.part, plane)) = found;
    }
  }
  __syncthreads();
  if (quad.part > 0) return;
  for (int part = 1; part < tiling.parts; ++part) {
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      const auto found = load<kQuad>(place(part, plane));
#pragma unroll
      for (int i = 0; i < kQuad; ++i) sums[plane][i] += found.value[i];
    }
  }
}

template <class Real>
struct MapArguments {
  Shape shape;
  StencilTiling tiling;
  int k;
  unsigned images;                     // that share weights
  const Real *pooled, *weight, *bias;  // bias may be null
  Real* map;
};

template <class Real>
__device__ __forceinline__ void map_item(const MapArguments<Real>& a, unsigned item) {
  const unsigned tiles = static_cast<unsigned>(a.tiling.tiles), image = item / tiles;
  const int k = a.k, padded = kQuad * ((k + kQuad - 1) / kQuad);
  const int rows = a.tiling.rows + k - 1, pitch = a.tiling.pitch;
  Real* weight = dynamic_shared<Real>();    // (2, K, taps in quads)
  Real* window = weight + 2 * k * padded;   // (2, rows, pitch)
  Real* parts = window + 2 * rows * pitch;  // fold_parts()
  const int64_t group = image / a.images;

  load_weight(a.weight + group * 2 * k * k, k, false, weight);
  const StencilTile tile(a.shape, a.tiling, image, item % tiles);
  const LoadPooled<Real> pooled{a.pooled + tile.image * 2 * a.shape.hw, a.shape.hw};
  fill_window<2>(a.shape, tile, rows, pitch, pitch, k / 2, window, pooled,
                 AsItIs<Vector<Real, 2>>());
  const Real bias = a.bias != nullptr ? a.bias[group] : Real(0);
  __syncthreads();

  const Quad quad(tile, a.tiling);
  Real sums[1][kQuad] = {};
  if (quad.inside) {
    with_kernel_size(k, [&](auto size) {
      for (int row = quad.part; row < 2 * k; row += a.tiling.parts) {
        const int beyond = row < k ? 0 : rows - k;  // of the window's rows, in the second plane
        convolve_row<decltype(size)::value>(
            k, window + (quad.row + row + beyond) * pitch + quad.column, weight + row * padded, 0,
            sums);
      }
    });
  }
  fold_parts(a.tiling, quad, parts, sums);
  if (!quad.inside || quad.part > 0) return;
  const int64_t first = static_cast<int64_t>(tile.top + quad.row) * a.shape.w + tile.left;
  Real* map = a.map + tile.image * a.shape.hw + first + quad.column;
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    if (quad.column + i < tile.columns) map[i] = sigmoid(bias + sums[0][i]);
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
  unsigned images;          // that share weights
  const Real *d_map, *map;  // d_map null: d_logit is given
  const Real* weight;
  Real *d_logit, *d_pooled;
};

template <class Real>
__device__ __forceinline__ void pooled_gradient_item(const PooledGradientArguments<Real>& a,
                                                     unsigned item) {
  const unsigned tiles = static_cast<unsigned>(a.tiling.tiles), in_batch = item / tiles;
  const int k = a.k, padded = kQuad * ((k + kQuad - 1) / kQuad);
  const int rows = a.tiling.rows + k - 1, pitch = a.tiling.pitch;
  Real* weight = dynamic_shared<Real>();   // (2, K, taps in quads), turned
  Real* window = weight + 2 * k * padded;  // (rows, pitch)
  Real* parts = window + rows * pitch;     // fold_parts()
  const int64_t group = in_batch / a.images;

  load_weight(a.weight + group * 2 * k * k, k, true, weight);
  const StencilTile tile(a.shape, a.tiling, in_batch, item % tiles);
  const int64_t image = tile.image * a.shape.hw;
  const bool is_given = a.d_map == nullptr;
  const Real* from = (is_given ? a.d_logit : a.d_map) + image;
  const auto load_pixel = [&](int64_t q) -> Vector<Real, 2> {
    return {{from[q], is_given ? Real(0) : a.map[image + q]}};
  };
  const auto take = [&](const Vector<Real, 2>& raw, int64_t q, bool own) -> Vector<Real, 1> {
    if (is_given) return {{raw.value[0]}};
    const Real d_logit = sigmoid_backward(raw.value[0], raw.value[1]);
    if (own) a.d_logit[image + q] = d_logit;
    return {{d_logit}};
  };
  fill_window<1>(a.shape, tile, rows, pitch, pitch, k / 2, window, load_pixel, take);
  __syncthreads();

  const Quad quad(tile, a.tiling);
  Real sums[2][kQuad] = {};
  if (quad.inside) {
    with_kernel_size(k, [&](auto size) {
      for (int row = quad.part; row < k; row += a.tiling.parts) {
        convolve_row<decltype(size)::value>(k, window + (quad.row + row) * pitch + quad.column,
                                            weight + row * padded, k * padded, sums);
      }
    });
  }
  fold_parts(a.tiling, quad, parts, sums);
  if (!quad.inside || quad.part > 0) return;
  const int64_t first = static_cast<int64_t>(tile.top + quad.row) * a.shape.w + tile.left;
  const int64_t q = first + quad.column;
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    if (quad.column + i >= tile.columns) break;
    a.d_pooled[2 * image + q + i] = sums[0][i];
    a.d_pooled[2 * image + a.shape.hw + q + i] = sums[1][i];
  }
}

template <class Real>
__global__ void __launch_bounds__(kThreads, 1)
    pooled_gradient_kernel(PooledGradientArguments<Real> arguments) {
  pooled_gradient_item(arguments, blockIdx.x);
}

}  // namespace attn_kernels
