// What the CPU kernels are called with, and the table of them that the machine's instruction set
// decides on. No torch header here: the kernels know pointers and shapes only.
#pragma once

#include <cstdint>
#include <type_traits>

namespace attn_kernels {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Statistics, convolution and sums are kept in this type.
template <class T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// x is (n, c, h, w), in either memory format; k is the width of the square stencil.
// An image's rows are split into `bands`: one task each.
struct Problem {
  int64_t n, c, h, w;
  bool channels_last;
  int k;
  int64_t bands;
};

// y = x * map and map = sigmoid(stencil(pooled)). y is null where only the map is asked for.
template <class T>
struct SpatialForward {
  Problem problem;
  const T* x;
  const acc_t<T>* weight;  // (2, k, k)
  acc_t<T> bias;
  T* y;
  acc_t<T>* map;     // (n, h, w)
  acc_t<T>* pooled;  // (n, 2, h, w)
};

// Either `dy`, in x's layout (the gate), or `d_map` (the map alone) is given, the other is null.
template <class T>
struct SpatialBackward {
  Problem problem;
  const T* dy;
  const acc_t<T>* d_map;  // (n, h, w)
  const T* x;
  const acc_t<T>* weight;
  const acc_t<T>* map;
  const acc_t<T>* pooled;
  acc_t<T>* d_logit;  // (n, h, w), written here for the weights' gradient
  T* dx;
};

// Gradients of the 2*k*k weights and, last, of the bias: one row of `partials` per unit of
// kRowsPerPartial image rows, the same units whatever the number of threads.
template <class A>
struct WeightBackward {
  Problem problem;
  const A* d_logit;
  const A* pooled;
  A* partials;  // (n * ceil(h / kRowsPerPartial), 2*k*k + 1)
};
constexpr int64_t kRowsPerPartial = 32;

template <class T>
struct ChannelPool {
  Problem problem;
  const T* x;
  T* pooled;
};

template <class T>
struct ChannelPoolBackward {
  Problem problem;
  const acc_t<T>* d_pooled;  // (n, 2, h, w)
  const T* x;
  T* dx;
};

// Each kernel does the tasks [begin, end).
template <class T>
struct Kernels {
  void (*spatial_forward)(const SpatialForward<T>&, int64_t begin, int64_t end);
  void (*spatial_backward)(const SpatialBackward<T>&, int64_t begin, int64_t end);
  void (*weight_backward)(const WeightBackward<acc_t<T>>&, int64_t begin, int64_t end);
  void (*channel_pool)(const ChannelPool<T>&, int64_t begin, int64_t end);
  void (*channel_pool_backward)(const ChannelPoolBackward<T>&, int64_t begin, int64_t end);
};

// The table for the machine this runs on, chosen at the first call.
template <class T>
const Kernels<T>& kernels();

}  // namespace attn_kernels
