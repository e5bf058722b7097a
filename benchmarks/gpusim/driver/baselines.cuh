// What our kernels are compared with: a copy, and chains of simple kernels that move what PyTorch's
// eager mode and torch.compile move (NCHW only). They are not PyTorch's kernels. This file: the
// copy, and what the forward needs; baselines_backward.cuh has the rest.
#pragma once

#include "cuda/launch.h"

namespace base {

using attn_kernels::ceil_div;
using attn_kernels::narrow;
using attn_kernels::sigmoid;
using attn_kernels::widen;

template <int V>
struct Int {
  static constexpr int value = V;
};

template <class T, int V>
struct alignas(sizeof(T) * V) Vector {
  T value[V];
};

template <int V, class T>
__device__ __forceinline__ void load(const T* from, float (&to)[V]) {
  const auto vector = *reinterpret_cast<const Vector<T, V>*>(from);
#pragma unroll
  for (int i = 0; i < V; ++i) to[i] = widen(vector.value[i]);
}

template <int V, class T>
__device__ __forceinline__ void store(T* to, const float (&values)[V]) {
  Vector<T, V> vector;
#pragma unroll
  for (int i = 0; i < V; ++i) vector.value[i] = narrow<T>(values[i]);
  *reinterpret_cast<Vector<T, V>*>(to) = vector;
}

// Where element e of a contiguous (N, C, H, W) tensor lies; ++ is the next element.
struct Place {
  int image, channel, pixel;

  // (A division is one instruction of PTX, so once for each vector is cheap here.)
  __device__ Place(int e, int hw, int c)
      : image(e / (c * hw)), channel(e / hw % c), pixel(e % hw) {}
  __device__ void advance(int hw, int c) {
    if (++pixel < hw) return;
    pixel = 0;
    if (++channel < c) return;
    channel = 0, ++image;
  }
};

// --- the limit: read x once, write it once; 16 bytes per thread and step, 4 loads in flight.
__global__ void __launch_bounds__(256)
    copy_kernel(const uint4* __restrict__ x, uint4* __restrict__ y, int count) {
  const int step = blockDim.x;
  const int start = blockIdx.x * (4 * step) + threadIdx.x;
  uint4 v[4];
  if (start + 3 * step < count) {
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = x[start + i * step];
#pragma unroll
    for (int i = 0; i < 4; ++i) y[start + i * step] = v[i];
  } else {
    for (int i = start; i < count; i += step) y[i] = x[i];
  }
}

// --- reductions over channels, NCHW. A block: LANES * V pixels, SLOTS slices of the channels, 4
// loads in flight, as PyTorch's Reduce.cuh (vt0 = 4, output vectors of 4).
template <int V, class T>
__device__ __forceinline__ void load4(const T* from, int64_t stride, float (&to)[4][V]) {
#pragma unroll
  for (int u = 0; u < 4; ++u) load<V>(from + u * stride, to[u]);
}

enum Kind { kMean = 1, kMax = 2, kMaxIndex = 4, kSum = 8, kScaled = 16 };

// kScaled: a reduction of x * scale, scale (N, C), which it writes to `product`.
template <class T>
struct Scaling {
  const float* scale;
  T* product;
};

// kind: which of mean / max / max with int64 index is computed. planes: stride of an image in out.
template <class T, int V, int KIND, int LANES, int SLOTS>
__global__ void __launch_bounds__(LANES* SLOTS)
    channel_reduce_kernel(int c, int hw, const T* __restrict__ x, float* __restrict__ mean,
                          float* __restrict__ max, int64_t* __restrict__ index, int out_planes,
                          Scaling<T> scaling) {
  const int tiles = (hw + LANES * V - 1) / (LANES * V);
  const int image = blockIdx.x / tiles;
  const int lane = threadIdx.x % LANES, slot = threadIdx.x / LANES;
  const int pixel = (blockIdx.x % tiles * LANES + lane) * V;
  float sum[4][V], top[4][V];
  int at[4][V];
#pragma unroll
  for (int u = 0; u < 4; ++u)
#pragma unroll
    for (int i = 0; i < V; ++i) sum[u][i] = 0, top[u][i] = -INFINITY, at[u][i] = 0;
  if (pixel < hw) {
    const T* from = x + static_cast<int64_t>(image) * c * hw + pixel;
    const auto scaled = [&](int channel, float (&v)[V]) {
      const int64_t plane = static_cast<int64_t>(image) * c + channel;
#pragma unroll
      for (int i = 0; i < V; ++i) v[i] *= scaling.scale[plane];
      store<V>(scaling.product + plane * hw + pixel, v);
    };
    int ch = slot;
    for (; ch + 3 * SLOTS < c; ch += 4 * SLOTS) {
      float v[4][V];
      load4<V>(from + static_cast<int64_t>(ch) * hw, static_cast<int64_t>(SLOTS) * hw, v);
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        if constexpr (KIND & kScaled) scaled(ch + u * SLOTS, v[u]);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          if (KIND & (kMean | kSum)) sum[u][i] += v[u][i];
          if (KIND & (kMax | kMaxIndex)) {
            const bool larger = v[u][i] > top[u][i] || v[u][i] != v[u][i];
            top[u][i] = larger ? v[u][i] : top[u][i];
            if (KIND & kMaxIndex) at[u][i] = larger ? ch + u * SLOTS : at[u][i];
          }
        }
      }
    }
    for (; ch < c; ch += SLOTS) {
      float v[V];
      load<V>(from + static_cast<int64_t>(ch) * hw, v);
      if constexpr (KIND & kScaled) scaled(ch, v);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        if (KIND & (kMean | kSum)) sum[0][i] += v[i];
        if (KIND & (kMax | kMaxIndex)) {
          const bool larger = v[i] > top[0][i] || v[i] != v[i];
          top[0][i] = larger ? v[i] : top[0][i];
          if (KIND & kMaxIndex) at[0][i] = larger ? ch : at[0][i];
        }
      }
    }
  }
  __shared__ float s_sum[SLOTS][LANES * V], s_max[SLOTS][LANES * V];
  __shared__ int s_at[SLOTS][LANES * V];
#pragma unroll
  for (int i = 0; i < V; ++i) {
#pragma unroll
    for (int u = 1; u < 4; ++u) {
      sum[0][i] += sum[u][i];
      if (top[u][i] > top[0][i] || (top[u][i] == top[0][i] && at[u][i] < at[0][i])) {
        top[0][i] = top[u][i];
        at[0][i] = at[u][i];
      }
    }
    if (KIND & (kMean | kSum)) s_sum[slot][lane * V + i] = sum[0][i];
    if (KIND & (kMax | kMaxIndex)) s_max[slot][lane * V + i] = top[0][i];
    if (KIND & kMaxIndex) s_at[slot][lane * V + i] = at[0][i];
  }
  __syncthreads();
  for (int half = SLOTS / 2; half > 0; half /= 2) {
    if (slot < half) {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const int j = lane * V + i;
        if (KIND & (kMean | kSum)) s_sum[slot][j] += s_sum[slot + half][j];
        if (KIND & (kMax | kMaxIndex)) {
          const float other = s_max[slot + half][j];
          const int other_at = KIND & kMaxIndex ? s_at[slot + half][j] : 0;
          if (other > s_max[slot][j] ||
              ((KIND & kMaxIndex) && other == s_max[slot][j] && other_at < s_at[slot][j])) {
            s_max[slot][j] = other;
            if (KIND & kMaxIndex) s_at[slot][j] = other_at;
          }
        }
      }
    }
    __syncthreads();
  }
  const int j = threadIdx.x;
  const int p = blockIdx.x % tiles * LANES * V + j;
  if (j < LANES * V && p < hw) {
    const int64_t to = static_cast<int64_t>(image) * out_planes * hw + p;
    if (KIND & (kMean | kSum)) mean[to] = KIND & kSum ? s_sum[0][j] : s_sum[0][j] / c;
    if (KIND & (kMax | kMaxIndex)) max[to] = s_max[0][j];
    if (KIND & kMaxIndex) index[static_cast<int64_t>(image) * hw + p] = s_at[0][j];
  }
}

// --- cat((mean, max), 1)
__global__ void cat_kernel(int n, int hw, const float* __restrict__ mean,
                           const float* __restrict__ max, float* __restrict__ out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n * 2 * hw) return;
  const int image = i / (2 * hw), rest = i % (2 * hw);
  out[i] = rest < hw ? mean[image * hw + rest] : max[image * hw + rest - hw];
}

// --- direct 7 x 7 convolution, a thread per pixel, the weight in shared memory
__global__ void __launch_bounds__(128)
    conv7_kernel(int n, int h, int w, const float* __restrict__ pooled,
                 const float* __restrict__ weight, const float* __restrict__ bias,
                 float* __restrict__ out) {
  __shared__ float s[98];
  for (int i = threadIdx.x; i < 98; i += blockDim.x) s[i] = weight[i];
  __syncthreads();
  const int hw = h * w;
  const int p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= n * hw) return;
  const int image = p / hw, py = p % hw / w, px = p % w;
  float total = 0;
  for (int plane = 0; plane < 2; ++plane) {
    const float* from = pooled + (image * 2 + plane) * hw;
#pragma unroll
    for (int ky = 0; ky < 7; ++ky) {
      const int yy = py + ky - 3;
      float v[7];
#pragma unroll
      for (int kx = 0; kx < 7; ++kx) {
        const int xx = px + kx - 3;
        v[kx] = yy >= 0 && yy < h && xx >= 0 && xx < w ? from[yy * w + xx] : 0.f;
      }
#pragma unroll
      for (int kx = 0; kx < 7; ++kx) total += s[plane * 49 + ky * 7 + kx] * v[kx];
    }
  }
  out[p] = total + *bias;
}

__global__ void sigmoid_kernel(int count, const float* __restrict__ in, float* __restrict__ out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] = sigmoid(in[i]);
}

// --- x * map with broadcasting, as PyTorch's unrolled elementwise kernel for operands that are not
// contiguous: scalar loads, 4 per thread.
template <class T>
__global__ void __launch_bounds__(128)
    mul_eager_kernel(int count, int hw, int c, const T* __restrict__ x,
                     const float* __restrict__ map, T* __restrict__ y) {
  const int start = blockIdx.x * 512 + threadIdx.x;
  T v[4];
  float m[4];
#pragma unroll
  for (int u = 0; u < 4; ++u) {
    const int e = start + u * 128;
    if (e >= count) continue;
    const Place at(e, hw, c);
    v[u] = x[e];
    m[u] = map[at.image * hw + at.pixel];
  }
#pragma unroll
  for (int u = 0; u < 4; ++u) {
    const int e = start + u * 128;
    if (e < count) y[e] = narrow<T>(widen(v[u]) * m[u]);
  }
}

// --- sigmoid(logit) * x in one, vectorised, as an Inductor pointwise kernel. kRows: do rows divide
// into vectors?
template <class T, bool kRows>
__global__ void __launch_bounds__(256)
    sigmoid_mul_kernel(int vectors, int hw, int c, const T* __restrict__ x,
                       const float* __restrict__ logit, T* __restrict__ y) {
  const int start = blockIdx.x * 512 + threadIdx.x;
  float v[2][4], m[2][4];
#pragma unroll
  for (int u = 0; u < 2; ++u) {
    const int e = (start + u * 256) * 4;
    if (e >= vectors * 4) continue;
    load<4>(x + e, v[u]);
    Place at(e, hw, c);
    if constexpr (kRows) {
      load<4>(logit + at.image * hw + at.pixel, m[u]);
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        m[u][k] = logit[at.image * hw + at.pixel];
        at.advance(hw, c);
      }
    }
  }
#pragma unroll
  for (int u = 0; u < 2; ++u) {
    const int e = (start + u * 256) * 4;
    if (e >= vectors * 4) continue;
#pragma unroll
    for (int k = 0; k < 4; ++k) v[u][k] *= sigmoid(m[u][k]);
    store<4>(y + e, v[u]);
  }
}

}  // namespace base
