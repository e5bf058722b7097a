// What the CPU kernels of spatial_gate, spatial_attention and channel_pool are called with.
#pragma once

#include "types.h"

namespace attn_kernels {

// x is (n, c, h, w), in either memory format; k is the width of the square stencil. So many images
// in a row share a stencil. An image's rows are split into `bands`: one task each. Bands consist of
// whole units of `rows_per_unit` rows, the last of an image may be shorter.
struct Problem {
  int64_t n, c, h, w;
  bool channels_last;
  int k;
  int64_t images_per_group, bands, rows_per_unit;

  int64_t units() const { return (h + rows_per_unit - 1) / rows_per_unit; }
};

// f = scale * x + shift, computed where x is loaded. scale and shift are (n, c), or null: f = x.
template <class T>
struct View {
  const T* x;
  const acc_t<T>*scale, *shift;
};

// y = act(f * map + residual) and map = sigmoid(stencil(pooled)). y is null where only the map is
// asked for; bias and residual may be null.
template <class T>
struct SpatialForward {
  Problem problem;
  View<T> f;
  const acc_t<T>* weight;  // (groups, 2, k, k)
  const acc_t<T>* bias;    // (groups)
  const T* residual;       // in x's layout, as y
  bool relu;
  T* y;
  acc_t<T>* map;     // (n, h, w)
  acc_t<T>* pooled;  // (n, 2, h, w)
};

// What comes back to a map in x's layout: dr = dy where y, the result of a ReLU, is not 0 (y null:
// everywhere).
template <class T>
struct Upstream {
  const T *dy, *y;
};

// What the backward leaves: dx; dr, where there was a ReLU; with a view, per unit of rows the sums
// over pixels of df * x and of df.
template <class T>
struct MapGradients {
  T *dx, *dr;
  double* sums;  // (n, units, 2, c)
};

// Either upstream.dy (the gate) or `d_map` (the map alone) is given, the other is null.
template <class T>
struct SpatialBackward {
  Problem problem;
  View<T> f;
  Upstream<T> upstream;
  const acc_t<T>* d_map;  // (n, h, w)
  const acc_t<T>* weight;
  const acc_t<T>* map;
  const acc_t<T>* pooled;
  acc_t<T>* d_logit;  // (n, h, w), written here for the weights' gradient
  MapGradients<T> out;
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
  View<T> f;
  T* pooled;
};

template <class T>
struct ChannelPoolBackward {
  Problem problem;
  View<T> f;
  const acc_t<T>* d_pooled;  // (n, 2, h, w)
  MapGradients<T> out;
};

}  // namespace attn_kernels
