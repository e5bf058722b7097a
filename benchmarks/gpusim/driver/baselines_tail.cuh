// What Inductor makes of squeeze and excitation and of the tails of residual blocks: reductions
// over rows, and pointwise kernels, that take what stands before them along. NCHW, rows of fours.
#pragma once

#include "baselines_backward.cuh"

namespace base {

// Rows to be reduced: each (image, channel), or each channel of all images. `lanes` threads a row.
struct Rows {
  int count, parts, stride;  // rows; images of a row, `stride` rows apart
  int hw, lanes;

  int vectors() const { return parts * (hw / 4); }
  int blocks() const { return static_cast<int>(ceil_div(count, 256 / lanes)); }
};

struct Sums {
  float a, b;
  static __device__ Sums none() { return {0, 0}; }
  __device__ void combine(const Sums& other) { a += other.a, b += other.b; }
};

struct SumMax {
  float sum, max;
  int at;
  static __device__ SumMax none() { return {0, -INFINITY, 0}; }
  __device__ void combine(const SumMax& other) {
    sum += other.sum;
    if (other.max > max || (other.max == max && other.at < at)) max = other.max, at = other.at;
  }
  __device__ void seek(float value, int pixel) {
    if (value > max) max = value, at = pixel;
  }
};

// Op: Stat; Raw, what is read of four neighbours, load(e); add(raw, e, stat), which may write, too;
// finish(row, stat). Four vectors of a thread are on their way at the same time.
template <class Op>
__global__ void __launch_bounds__(256) row_kernel(Op op, Rows rows) {
  using Stat = typename Op::Stat;
  const int lane = threadIdx.x % rows.lanes;
  const int row = blockIdx.x * (256 / rows.lanes) + threadIdx.x / rows.lanes;
  const int of_part = rows.hw / 4, count = row < rows.count ? rows.parts * of_part : 0;
  Stat stat = Stat::none();
  for (int first = lane; first < count; first += 4 * rows.lanes) {
    typename Op::Raw raw[4];
    int e[4];
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      const int k = first + u * rows.lanes < count ? first + u * rows.lanes : first;
      e[u] = (k / of_part * rows.stride + row) * rows.hw + k % of_part * 4;
      raw[u] = op.load(e[u]);
    }
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      if (first + u * rows.lanes < count) op.add(raw[u], e[u], stat);
    }
  }
  __shared__ Stat shared[256];
  shared[threadIdx.x] = stat;
  __syncthreads();
  for (int half = rows.lanes / 2; half > 0; half /= 2) {
    if (lane < half) shared[threadIdx.x].combine(shared[threadIdx.x + half]);
    __syncthreads();
  }
  if (lane == 0 && row < rows.count) op.finish(row, shared[threadIdx.x]);
}

// out = f(a, b), as map_elements.
template <class T, class F>
__global__ void __launch_bounds__(256)
    pointwise_kernel(int count, const T* __restrict__ a, const T* __restrict__ b,
                     T* __restrict__ out, F f) {
  map_elements(count, a, b, out, f);
}

template <int kMaps>
struct FourOf {
  float of[kMaps][4];
};

// Every tensor of a tail on the device. What is x for the spatial gate is `scaled` here, its dy dr.
template <class T>
struct TailTensors {
  int c, hw;
  T *z, *residual, *y, *dy, *dr, *f, *scaled, *scattered, *of_max, *df, *dz;
  uint8_t* stopped;                           // by the ReLU
  float *mean, *rstd, *gamma, *beta;          // (C)
  float *f_mean, *f_max, *s, *d_logit, *d_s;  // (N, C)
  int64_t* argmax;
  float *logit, *d_pooled;  // of the spatial gate
  float *sum, *product;     // (C), as in TailGradient
  float share;              // of a pixel in its channel's batch

  __device__ int plane(int e) const { return e / hw; }
  __device__ int channel(int e) const { return e / hw % c; }
  __device__ int pixel(int e) const { return e / (c * hw) * hw + e % hw; }
  __device__ float norm(float value, int channel) const {
    return (value - mean[channel]) * rstd[channel] * gamma[channel] + beta[channel];
  }
  // Four neighbours' gradient of `scaled`, from dr.
  __device__ void through_map(int e, const float (&scattered)[4], float (&dr)[4]) const {
    float of_pixel[4], d_mean[4];
    const int image = e / (c * hw), p = e % hw;
    load<4>(logit + image * hw + p, of_pixel);
    load<4>(d_pooled + image * 2 * hw + p, d_mean);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      dr[i] = dr[i] * sigmoid(of_pixel[i]) + scattered[i] + d_mean[i] * (1.f / c);
    }
  }
};

// Sums of x, or of dy * x: squeeze and excitation's own.
template <class T>
struct PlaneSum {
  using Stat = Sums;
  using Raw = FourOf<2>;
  const T *x, *dy;  // dy: may be null
  float* out;
  float share;

  __device__ Raw load(int e) const {
    Raw raw;
    base::load<4>(x + e, raw.of[0]);
    if (dy != nullptr) base::load<4>(dy + e, raw.of[1]);
    return raw;
  }
  __device__ void add(const Raw& raw, int, Stat& stat) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      stat.a += dy != nullptr ? raw.of[0][i] * raw.of[1][i] : raw.of[0][i];
  }
  __device__ void finish(int row, const Stat& stat) const { out[row] = stat.a * share; }
};

// y = x * scale + shift; shift may be null.
struct ScaledPlanes {
  const float *scale, *shift;
  int hw;

  __device__ void operator()(int e, float (&x)[4], float (&)[4]) const {
    const float factor = scale[e / hw], added = shift != nullptr ? shift[e / hw] : 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = x[i] * factor + added;
  }
};

// The batch's mean and standard deviation; by sums of squares, which is less than Inductor does.
template <class T>
struct Moments {
  using Stat = Sums;
  using Raw = FourOf<1>;
  TailTensors<T> t;

  __device__ Raw load(int e) const {
    Raw raw;
    base::load<4>(t.z + e, raw.of[0]);
    return raw;
  }
  __device__ void add(const Raw& raw, int, Stat& stat) const {
#pragma unroll
    for (float value : raw.of[0]) stat.a += value, stat.b += value * value;
  }
  __device__ void finish(int row, const Stat& stat) const {
    const float mean = stat.a * t.share;
    t.mean[row] = mean;
    t.rstd[row] = rsqrtf(stat.b * t.share - mean * mean + 1e-5f);
  }
};

// z -> f, and its mean (and maximum) of each plane.
template <class T, bool kMax>
struct Norm {
  using Stat = SumMax;
  using Raw = FourOf<1>;
  TailTensors<T> t;

  __device__ Raw load(int e) const {
    Raw raw;
    base::load<4>(t.z + e, raw.of[0]);
    return raw;
  }
  __device__ void add(const Raw& raw, int e, Stat& stat) const {
    const int channel = t.channel(e);
    float f[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      f[i] = t.norm(raw.of[0][i], channel);
      stat.sum += f[i];
      if (kMax) stat.max = fmaxf(stat.max, f[i]);
    }
    store<4>(t.f + e, f);
  }
  __device__ void finish(int row, const Stat& stat) const {
    t.f_mean[row] = stat.sum / t.hw;
    if (kMax) t.f_max[row] = stat.max;
  }
};

// y = relu(u * factor + residual), and what it stopped. kMap: the factor is the map, else s.
template <class T, bool kMap>
struct TailEnd {
  TailTensors<T> t;

  __device__ void operator()(int e, float (&u)[4], float (&residual)[4]) const {
    float logit[4];
    if constexpr (kMap) base::load<4>(t.logit + t.pixel(e), logit);
    Vector<uint8_t, 4> stopped;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float y = u[i] * (kMap ? sigmoid(logit[i]) : t.s[t.plane(e)]) + residual[i];
      stopped.value[i] = !(y > 0);
      u[i] = y > 0 ? y : 0;
    }
    *reinterpret_cast<Vector<uint8_t, 4>*>(t.stopped + e) = stopped;
  }
};

// dy -> dr, and the sums of dr * f.
template <class T>
struct MaskedSum {
  using Stat = Sums;
  struct Raw : FourOf<2> {
    Vector<uint8_t, 4> stopped;
  };
  TailTensors<T> t;

  __device__ Raw load(int e) const {
    Raw raw;
    base::load<4>(t.dy + e, raw.of[0]);
    base::load<4>(t.z + e, raw.of[1]);
    raw.stopped = *reinterpret_cast<const Vector<uint8_t, 4>*>(t.stopped + e);
    return raw;
  }
  __device__ void add(const Raw& raw, int e, Stat& stat) const {
    const int channel = t.channel(e);
    float dr[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      dr[i] = raw.stopped.value[i] ? 0 : raw.of[0][i];
      stat.a += dr[i] * t.norm(raw.of[1][i], channel);
    }
    store<4>(t.dr + e, dr);
  }
  __device__ void finish(int row, const Stat& stat) const { t.d_s[row] = stat.a; }
};

// What reaches s through the map, and where f is largest, for its gradient.
template <class T>
struct MappedSum {
  using Stat = SumMax;
  using Raw = FourOf<3>;
  TailTensors<T> t;

  __device__ Raw load(int e) const {
    Raw raw;
    base::load<4>(t.dr + e, raw.of[0]);
    base::load<4>(t.scattered + e, raw.of[1]);
    base::load<4>(t.f + e, raw.of[2]);
    return raw;
  }
  __device__ void add(Raw raw, int e, Stat& stat) const {
    t.through_map(e, raw.of[1], raw.of[0]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      stat.sum += raw.of[0][i] * raw.of[2][i];
      stat.seek(raw.of[2][i], e % t.hw + i);
    }
  }
  __device__ void finish(int row, const Stat& stat) const {
    t.d_s[row] = stat.sum;
    t.argmax[row] = stat.at;
  }
};

// The norm's sums. kCbam: df comes through the map and from the maximum, and is written; else it is
// computed again by whom it concerns.
template <class T, bool kCbam>
struct NormSums {
  using Stat = Sums;
  using Raw = FourOf<kCbam ? 4 : 2>;
  TailTensors<T> t;

  __device__ Raw load(int e) const {
    Raw raw;
    base::load<4>(t.dr + e, raw.of[0]);
    base::load<4>(t.z + e, raw.of[1]);
    if constexpr (kCbam) base::load<4>(t.scattered + e, raw.of[2]);
    if constexpr (kCbam) base::load<4>(t.of_max + e, raw.of[3]);
    return raw;
  }
  __device__ void add(Raw raw, int e, Stat& stat) const {
    const int plane = t.plane(e);
    const float s = t.s[plane], added = t.d_logit[plane] / t.hw, mean = t.mean[plane % t.c];
    float (&df)[4] = raw.of[0];
    if constexpr (kCbam) t.through_map(e, raw.of[2], df);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      df[i] = df[i] * s + added;
      if constexpr (kCbam) df[i] += raw.of[3][i];
      stat.a += df[i];
      stat.b += df[i] * (raw.of[1][i] - mean);
    }
    if constexpr (kCbam) store<4>(t.df + e, df);
  }
  __device__ void finish(int row, const Stat& stat) const {
    t.sum[row] = stat.a;
    t.product[row] = stat.b;
  }
};

// dz, from z and df, or (kScaled) dr instead.
template <class T, bool kScaled>
struct NormGradient {
  TailTensors<T> t;

  __device__ void operator()(int e, float (&df)[4], float (&z)[4]) const {
    const int plane = t.plane(e), channel = t.channel(e);
    const float s = t.s[plane], added = t.d_logit[plane] / t.hw;
    const float mean = t.mean[channel], rstd = t.rstd[channel];
    const float slope = t.product[channel] * t.share * rstd * rstd;
    const float shift = t.sum[channel] * t.share, scale = rstd * t.gamma[channel];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float from = kScaled ? df[i] * s + added : df[i];
      df[i] = (from - (z[i] - mean) * slope - shift) * scale;
    }
  }
};

// adaptive_max_pool2d's backward, zeros before.
template <class T>
__global__ void plane_scatter_kernel(int planes, int hw, const int64_t* __restrict__ argmax,
                                     const float* __restrict__ d_max, T* __restrict__ out) {
  const int plane = blockIdx.x * blockDim.x + threadIdx.x;
  if (plane < planes) out[plane * hw + argmax[plane]] = narrow<T>(d_max[plane]);
}

}  // namespace base
