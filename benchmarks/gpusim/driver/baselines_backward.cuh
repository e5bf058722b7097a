// The backward of x * sigmoid(conv(cat(mean, max))), one kernel per operation of the graph, or
// fused as Inductor fuses it (see the chains in driver.cu).
#pragma once

#include "baselines.cuh"

namespace base {

// Elementwise kernels: out = f of neither, one or both inputs (null: none), in vectors of 4, two of
// them per thread, loaded before they are needed. f changes the first four values in place.
template <class T, class F>
__device__ __forceinline__ void map_elements(int count, const T* a, const T* b, T* out, F f) {
  const int start = blockIdx.x * 512 + threadIdx.x;
  float u[2][4] = {}, v[2][4] = {};
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const int64_t e = static_cast<int64_t>(start + k * 256) * 4;
    if (e < count && a != nullptr) load<4>(a + e, u[k]);
    if (e < count && b != nullptr) load<4>(b + e, v[k]);
  }
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const int64_t e = static_cast<int64_t>(start + k * 256) * 4;
    if (e >= count) continue;
    f(static_cast<int>(e), u[k], v[k]);
    store<4>(out + e, u[k]);
  }
}

// out = a * b
template <class T>
__global__ void __launch_bounds__(256)
    product_kernel(int count, const T* __restrict__ a, const T* __restrict__ b,
                   T* __restrict__ out) {
  map_elements(count, a, b, out, [](int, float (&u)[4], float (&v)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) u[i] *= v[i];
  });
}

// out = a + b
template <class T>
__global__ void __launch_bounds__(256)
    add_kernel(int count, const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ out) {
  map_elements(count, a, b, out, [](int, float (&u)[4], float (&v)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) u[i] += v[i];
  });
}

template <class T>
__global__ void __launch_bounds__(256) zero_kernel(int count, T* __restrict__ out) {
  const T* none = nullptr;
  map_elements(count, none, none, out, [](int, float (&)[4], float (&)[4]) {});
}

// out (N, C, H, W) = d_mean / C, d_mean the first plane of d_pooled (N, 2, H, W)
template <class T>
__global__ void __launch_bounds__(256)
    expand_kernel(int count, int hw, int c, const float* __restrict__ d_pooled,
                  T* __restrict__ out) {
  const T* none = nullptr;
  map_elements(count, none, none, out, [&](int e, float (&u)[4], float (&)[4]) {
    Place at(e, hw, c);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      u[i] = d_pooled[at.image * 2 * hw + at.pixel] * (1.f / c);
      at.advance(hw, c);
    }
  });
}

// out (N, C, H, W), zeros before: the second plane of d_pooled at the maximum's channel
template <class T>
__global__ void scatter_kernel(int pixels, int c, int hw, const int64_t* __restrict__ index,
                               const float* __restrict__ d_pooled, T* __restrict__ out) {
  const int p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= pixels) return;
  const int image = p / hw, at = p % hw;
  out[(static_cast<int64_t>(image) * c + index[p]) * hw + at] =
      narrow<T>(d_pooled[(image * 2 + 1) * hw + at]);
}

__global__ void sigmoid_backward_kernel(int count, const float* __restrict__ d_map,
                                        const float* __restrict__ map,
                                        float* __restrict__ d_logit) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) d_logit[i] = d_map[i] * map[i] * (1 - map[i]);
}

// What a ReLU lets through: dy where `stopped` is 0, written to dr.
template <class T>
struct Mask {
  const uint8_t* stopped;
  T* dr;

  template <int V>
  __device__ void apply(int64_t at, float (&dy)[V]) const {
    const auto mask = *reinterpret_cast<const Vector<uint8_t, V>*>(stopped + at);
#pragma unroll
    for (int i = 0; i < V; ++i) dy[i] = mask.value[i] ? 0 : dy[i];
    store<V>(dr + at, dy);
  }
};

// d_logit = sum over channels of dy * x, times the sigmoid's derivative at logit. kIndex: the
// channel of x's maximum as well. kMasked: dy through a ReLU. As channel_reduce_kernel, for two
// streams.
template <class T, int V, bool kIndex, bool kMasked, int LANES, int SLOTS>
__global__ void __launch_bounds__(LANES* SLOTS)
    dot_kernel(int c, int hw, const T* __restrict__ dy, const T* __restrict__ x,
               const float* __restrict__ logit, float* __restrict__ d_logit,
               int64_t* __restrict__ index, Mask<T> mask) {
  const int tiles = (hw + LANES * V - 1) / (LANES * V);
  const int image = blockIdx.x / tiles;
  const int lane = threadIdx.x % LANES, slot = threadIdx.x / LANES;
  const int pixel = (blockIdx.x % tiles * LANES + lane) * V;
  float sum[V], top[V];
  int at[V];
#pragma unroll
  for (int i = 0; i < V; ++i) sum[i] = 0, top[i] = -INFINITY, at[i] = 0;
  if (pixel < hw) {
    const int64_t first = static_cast<int64_t>(image) * c * hw + pixel;
    for (int ch = slot; ch < c; ch += 4 * SLOTS) {
      float a[4][V], b[4][V];
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const int here = ch + u * SLOTS < c ? ch + u * SLOTS : ch;
        load<V>(dy + first + static_cast<int64_t>(here) * hw, a[u]);
        load<V>(x + first + static_cast<int64_t>(here) * hw, b[u]);
      }
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const bool there = ch + u * SLOTS < c;
        if constexpr (kMasked) {
          if (there) mask.apply(first + static_cast<int64_t>(ch + u * SLOTS) * hw, a[u]);
        }
#pragma unroll
        for (int i = 0; i < V; ++i) {
          sum[i] += there ? a[u][i] * b[u][i] : 0;
          const bool larger = kIndex && there && (b[u][i] > top[i] || b[u][i] != b[u][i]);
          top[i] = larger ? b[u][i] : top[i];
          at[i] = larger ? ch + u * SLOTS : at[i];
        }
      }
    }
  }
  __shared__ float s_sum[SLOTS][LANES * V], s_max[SLOTS][LANES * V];
  __shared__ int s_at[SLOTS][LANES * V];
#pragma unroll
  for (int i = 0; i < V; ++i) {
    s_sum[slot][lane * V + i] = sum[i];
    if (kIndex) s_max[slot][lane * V + i] = top[i];
    if (kIndex) s_at[slot][lane * V + i] = at[i];
  }
  __syncthreads();
  const int j = threadIdx.x;
  const int p = blockIdx.x % tiles * LANES * V + j;
  if (j >= LANES * V || p >= hw) return;
  float total = s_sum[0][j];
  int best = 0;
  for (int other = 1; other < SLOTS; ++other) {
    total += s_sum[other][j];
    if (!kIndex) continue;
    const float a = s_max[best][j], b = s_max[other][j];
    if (b > a || (b == a && s_at[other][j] < s_at[best][j])) best = other;
  }
  const int64_t to = static_cast<int64_t>(image) * hw + p;
  const float map = sigmoid(logit[to]);
  d_logit[to] = total * map * (1 - map);
  if (kIndex) index[to] = s_at[best][j];
}

// d_logit -> d_pooled (N, 2, H, W): the transposed convolution, a thread per pixel
__global__ void __launch_bounds__(128)
    conv7_input_kernel(int n, int h, int w, const float* __restrict__ d_logit,
                       const float* __restrict__ weight, float* __restrict__ d_pooled) {
  __shared__ float s[98];
  for (int i = threadIdx.x; i < 98; i += blockDim.x) s[i] = weight[i];
  __syncthreads();
  const int hw = h * w;
  const int p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= n * hw) return;
  const int image = p / hw, py = p % hw / w, px = p % w;
  float d_mean = 0, d_max = 0;
#pragma unroll
  for (int ky = 0; ky < 7; ++ky) {
    const int yy = py + 3 - ky;
    float v[7];
#pragma unroll
    for (int kx = 0; kx < 7; ++kx) {
      const int xx = px + 3 - kx;
      v[kx] = yy >= 0 && yy < h && xx >= 0 && xx < w ? d_logit[image * hw + yy * w + xx] : 0.f;
    }
#pragma unroll
    for (int kx = 0; kx < 7; ++kx) {
      d_mean += s[ky * 7 + kx] * v[kx];
      d_max += s[49 + ky * 7 + kx] * v[kx];
    }
  }
  d_pooled[(image * 2) * hw + p % hw] = d_mean;
  d_pooled[(image * 2 + 1) * hw + p % hw] = d_max;
}

// d_weight (1, 2, 7, 7) and d_bias: a block per tap, the last for the bias
__global__ void __launch_bounds__(256)
    conv7_weight_kernel(int n, int h, int w, const float* __restrict__ d_logit,
                        const float* __restrict__ pooled, float* __restrict__ d_weight,
                        float* __restrict__ d_bias) {
  __shared__ float s[256];
  const int hw = h * w, tap = blockIdx.x;
  const int plane = tap / 49, ky = tap % 49 / 7, kx = tap % 7;
  float total = 0;
  for (int p = threadIdx.x; p < n * hw; p += 256) {
    const int image = p / hw, yy = p % hw / w + ky - 3, xx = p % w + kx - 3;
    const bool inside = yy >= 0 && yy < h && xx >= 0 && xx < w;
    const float other = tap == 98 ? 1.f
                        : inside  ? pooled[(image * 2 + plane) * hw + yy * w + xx]
                                  : 0.f;
    total += d_logit[p] * other;
  }
  s[threadIdx.x] = total;
  __syncthreads();
  for (int half = 128; half > 0; half /= 2) {
    if (threadIdx.x < half) s[threadIdx.x] += s[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) (tap == 98 ? *d_bias : d_weight[tap]) = s[0];
}

// Four neighbours' values from a plane of each image (`planes` of them lie behind one another).
// kRows: they are neighbours there too, since rows divide into fours.
template <bool kRows, class V>
__device__ __forceinline__ void load_plane(const V* plane, int planes, Place at, int hw, int c,
                                           V (&to)[4]) {
  if constexpr (kRows) {
    const auto* from = plane + at.image * planes * hw + at.pixel;
#pragma unroll
    for (int i = 0; i < 4; i += 16 / sizeof(V)) {
      using Part = Vector<V, 16 / sizeof(V)>;
      *reinterpret_cast<Part*>(to + i) = *reinterpret_cast<const Part*>(from + i);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i, at.advance(hw, c)) to[i] = plane[at.image * planes * hw + at.pixel];
  }
}

// dx = dy * sigmoid(logit) + d_mean / C + what the maximum gets: scattered[e] where that is a map
// of its own, else d_max where the channel is the index.
template <class T, bool kScattered, bool kRows>
__global__ void __launch_bounds__(256)
    dx_kernel(int count, int hw, int c, const T* __restrict__ dy, const float* __restrict__ logit,
              const float* __restrict__ d_pooled, const T* __restrict__ scattered,
              const int64_t* __restrict__ index, T* __restrict__ dx) {
  const auto body = [&](int e, float (&u)[4], float (&v)[4]) {
    Place at(e, hw, c);
    alignas(16) float logits[4], d_mean[4];
    load_plane<kRows>(logit, 1, at, hw, c, logits);
    load_plane<kRows>(d_pooled, 2, at, hw, c, d_mean);
    if constexpr (!kScattered) {
      alignas(16) int64_t top[4];
      load_plane<kRows>(index, 1, at, hw, c, top);
      load_plane<kRows>(d_pooled + hw, 2, at, hw, c, v);
#pragma unroll
      for (int i = 0; i < 4; ++i, at.advance(hw, c)) {
        if (top[i] != at.channel) v[i] = 0;
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) u[i] = u[i] * sigmoid(logits[i]) + d_mean[i] * (1.f / c) + v[i];
  };
  map_elements(count, dy, kScattered ? scattered : nullptr, dx, body);
}

}  // namespace base
