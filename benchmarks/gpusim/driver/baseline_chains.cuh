// The order in which the baselines' kernels run.
#pragma once

#include "baselines_backward.cuh"
#include "device.h"
#include "reference.h"

namespace base {

// Every tensor of the spatial gate and its gradient, on the device.
template <class T>
struct Tensors {
  int n, c, h, w;
  T *x, *dy, *y, *dx, *temporary[3];  // (N, C, H, W)
  float *weight, *bias, *pooled, *logit, *map, *d_map, *d_logit, *d_pooled, *d_weight, *d_bias;
  float *mean, *max;
  int64_t* index;

  int hw() const { return h * w; }
  int pixels() const { return n * h * w; }
  int elements() const { return n * c * h * w; }
};

template <class T>
Tensors<T> allocate(const Sizes& s) {
  Tensors<T> t = {};
  t.n = s.n, t.c = s.c, t.h = s.h, t.w = s.w;
  for (T** map : {&t.y, &t.dx, &t.temporary[0], &t.temporary[1], &t.temporary[2]}) {
    *map = on_device<T>(s.elements());
  }
  for (float** plane : {&t.logit, &t.map, &t.d_map, &t.d_logit, &t.mean, &t.max}) {
    *plane = on_device<float>(s.pixels());
  }
  t.pooled = on_device<float>(2 * s.pixels());
  t.d_pooled = on_device<float>(2 * s.pixels());
  t.index = on_device<int64_t>(s.pixels());
  t.d_weight = on_device<float>(2 * kTaps);
  t.d_bias = on_device<float>(1);
  return t;
}

// What the forward has left for the backward.
template <class T>
void save(Tensors<T>& t, const Forward& found) {
  t.pooled = to_device_as<float>(found.pooled);
  t.logit = to_device_as<float>(found.logit);
  t.map = to_device_as<float>(found.map);
  t.index = to_device(found.argmax);
}

// run(V, lanes) with vectors of 4 where rows divide into them, and lanes that give some blocks.
template <class Run>
void with_reduction(int n, int hw, Run run) {
  const auto with_vector = [&](auto vector) {
    constexpr int V = decltype(vector)::value;
    if (n * ceil_div(hw, 16 * V) >= 160) return run(vector, Int<16>());
    return run(vector, Int<8>());
  };
  return hw % 4 == 0 ? with_vector(Int<4>()) : with_vector(Int<1>());
}

template <class T, class Launch>
void copy(const Launch& launch, const Tensors<T>& t) {
  const int vectors = static_cast<int>(t.elements() * sizeof(T) / 16);
  launch(copy_kernel, ceil_div(vectors, 1024), 256, 0, reinterpret_cast<const uint4*>(t.x),
         reinterpret_cast<uint4*>(t.y), vectors);
}

template <int kKind, class T, class Launch>
void reduce(const Launch& launch, const Tensors<T>& t, const T* from, float* mean, float* max,
            int64_t* index, int planes, const Scaling<T>& scaling = {}) {
  with_reduction(t.n, t.hw(), [&](auto vector, auto lanes) {
    constexpr int V = decltype(vector)::value, L = decltype(lanes)::value;
    launch(channel_reduce_kernel<T, V, kKind, L, 256 / L>, t.n * ceil_div(t.hw(), L * V), 256, 0,
           t.c, t.hw(), from, mean, max, index, planes, scaling);
  });
}

template <class T, class Launch>
void conv(const Launch& launch, const Tensors<T>& t) {
  launch(conv7_kernel, ceil_div(t.pixels(), 128), 128, 0, t.n, t.h, t.w, t.pooled, t.weight, t.bias,
         t.logit);
}

// mean, max with its index, cat, convolution, sigmoid, product.
template <class T, class Launch>
void eager(const Launch& launch, const Tensors<T>& t) {
  reduce<kMean>(launch, t, t.x, t.mean, t.max, t.index, 1);
  reduce<kMaxIndex>(launch, t, t.x, t.mean, t.max, t.index, 1);
  launch(cat_kernel, ceil_div(2 * t.pixels(), 256), 256, 0, t.n, t.hw(), t.mean, t.max, t.pooled);
  conv(launch, t);
  launch(sigmoid_kernel, ceil_div(t.pixels(), 256), 256, 0, t.pixels(), t.logit, t.map);
  launch(mul_eager_kernel<T>, ceil_div(t.elements(), 512), 128, 0, t.elements(), t.hw(), t.c, t.x,
         t.map, t.y);
}

// Both statistics in one, convolution, sigmoid and product in one: Inductor's inference graph.
template <class T, class Launch>
void compiled(const Launch& launch, const Tensors<T>& t) {
  reduce<kMean | kMax>(launch, t, t.x, t.pooled, t.pooled + t.hw(), t.index, 2);
  conv(launch, t);
  const int vectors = t.elements() / 4;
  const auto gate = t.hw() % 4 == 0 ? sigmoid_mul_kernel<T, true> : sigmoid_mul_kernel<T, false>;
  launch(gate, ceil_div(vectors, 512), 256, 0, vectors, t.hw(), t.c, t.x, t.logit, t.y);
}

template <class T, class Launch>
void conv_backward(const Launch& launch, const Tensors<T>& t) {
  launch(conv7_input_kernel, ceil_div(t.pixels(), 128), 128, 0, t.n, t.h, t.w, t.d_logit, t.weight,
         t.d_pooled);
  launch(conv7_weight_kernel, 2 * 49 + 1, 256, 0, t.n, t.h, t.w, t.d_logit, t.pooled, t.d_weight,
         t.d_bias);
}

template <class T, class Launch>
void scatter(const Launch& launch, const Tensors<T>& t, T* to) {
  launch(zero_kernel<T>, ceil_div(t.elements(), 2048), 256, 0, t.elements(), to);
  launch(scatter_kernel<T>, ceil_div(t.pixels(), 256), 256, 0, t.pixels(), t.c, t.hw(), t.index,
         t.d_pooled, to);
}

// Autograd's: two products and a sum, sigmoid, convolution, zeros and scatter, expand, two
// additions. 14 maps of x's size are moved.
template <class T, class Launch>
void eager_backward(const Launch& launch, const Tensors<T>& t) {
  const int64_t blocks = ceil_div(t.elements(), 2048);
  launch(mul_eager_kernel<T>, ceil_div(t.elements(), 512), 128, 0, t.elements(), t.hw(), t.c, t.dy,
         t.map, t.temporary[0]);
  launch(product_kernel<T>, blocks, 256, 0, t.elements(), t.dy, t.x, t.temporary[1]);
  reduce<kSum>(launch, t, t.temporary[1], t.d_map, t.max, t.index, 1);
  launch(sigmoid_backward_kernel, ceil_div(t.pixels(), 256), 256, 0, t.pixels(), t.d_map, t.map,
         t.d_logit);
  conv_backward(launch, t);
  scatter(launch, t, t.temporary[1]);
  launch(add_kernel<T>, blocks, 256, 0, t.elements(), t.temporary[0], t.temporary[1],
         t.temporary[2]);
  launch(expand_kernel<T>, blocks, 256, 0, t.elements(), t.hw(), t.c, t.d_pooled, t.temporary[1]);
  launch(add_kernel<T>, blocks, 256, 0, t.elements(), t.temporary[2], t.temporary[1], t.dx);
}

template <bool kIndex, bool kMasked = false, class T, class Launch>
void dot(const Launch& launch, const Tensors<T>& t, const Mask<T>& mask = {}) {
  with_reduction(t.n, t.hw(), [&](auto vector, auto lanes) {
    constexpr int V = decltype(vector)::value, L = decltype(lanes)::value;
    launch(dot_kernel<T, V, kIndex, kMasked, L, 256 / L>, t.n * ceil_div(t.hw(), L * V), 256, 0,
           t.c, t.hw(), t.dy, t.x, t.logit, t.d_logit, t.index, mask);
  });
}

// Inductor's backward graph of torch 2.13, which saves the index: the dot product over channels
// with sigmoid's derivative in one, convolution, zeros and scatter, and one kernel for dx that
// computes the sigmoid again. 6 maps.
template <class T, class Launch>
void compiled_backward(const Launch& launch, const Tensors<T>& t) {
  dot<false>(launch, t);
  conv_backward(launch, t);
  scatter(launch, t, t.temporary[0]);
  const auto kernel = t.hw() % 4 == 0 ? dx_kernel<T, true, true> : dx_kernel<T, true, false>;
  launch(kernel, ceil_div(t.elements(), 2048), 256, 0, t.elements(), t.hw(), t.c, t.dy, t.logit,
         t.d_pooled, t.temporary[0], t.index, t.dx);
}

// What a compiler could do at best without crossing the convolution: the index found again beside
// the dot product, nothing scattered. 4 maps.
template <class T, class Launch>
void recomputed_backward(const Launch& launch, const Tensors<T>& t) {
  dot<true>(launch, t);
  conv_backward(launch, t);
  const auto kernel = t.hw() % 4 == 0 ? dx_kernel<T, false, true> : dx_kernel<T, false, false>;
  launch(kernel, ceil_div(t.elements(), 2048), 256, 0, t.elements(), t.hw(), t.c, t.dy, t.logit,
         t.d_pooled, static_cast<const T*>(nullptr), t.index, t.dx);
}

}  // namespace base
