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

// GAM's channel gate sees a map as n images of `pixels` pixels, which are cut into tiles of `tile`
// pixels: one task each. A channels_last map is one long image.
struct GamProblem {
  int64_t n, c, r, pixels, tile;
  bool channels_last, sigmoid;

  int64_t tiles() const { return (pixels + tile - 1) / tile; }
};

// Rows of matrices below, and of tiles in the kernels, are padded to a multiple of this many
// values: at least a vector of every instruction set.
constexpr int64_t kRowPadding = 16;
constexpr int64_t padded(int64_t count) {
  return (count + kRowPadding - 1) / kRowPadding * kRowPadding;
}

// A matrix that maps input channels to output channels: (out, in) where channels are the rows of a
// tile (NCHW), its transpose (in, padded out) where they are the columns (channels_last).
template <class A>
struct Mixer {
  const A* weight;
  int64_t stride;
};

// hidden = relu(w1 @ x + b1), y = x * activation(w2 @ hidden + b2). Biases are padded.
template <class T>
struct GamForward {
  GamProblem problem;
  const T* x;
  Mixer<acc_t<T>> w1, w2;
  const acc_t<T>*b1, *b2;
  T *y, *hidden;
};

// dx, and for the weights' gradients, in rows of one pixel each: hidden and the gradient d_pre of
// what the ReLU was applied to. The gradient da of the gate before its activation is written where
// it is not simply dy * x: it has x's layout.
template <class T>
struct GamBackward {
  GamProblem problem;
  const T *dy, *x, *hidden;
  Mixer<acc_t<T>> w2;                // as in the forward
  Mixer<acc_t<T>> w1_back, w2_back;  // from output channels back to input channels
  const acc_t<T>* b2;
  T* dx;
  acc_t<T>*hidden_rows, *d_pre_rows;  // (n * pixels, padded(r))
  acc_t<T>* da;                       // null for the identity
};

// One task per unit of `tiles_per_unit` tiles and block of kGamChannels channels; one row of
// partial gradients per unit, each of them written by one task.
constexpr int64_t kGamChannels = 64;
template <class T>
struct GamWeightBackward {
  GamProblem problem;
  int64_t tiles_per_unit;
  const T *dy, *x;
  const acc_t<T>*da, *hidden_rows, *d_pre_rows;
  acc_t<T>* partials;  // (units, 2 * c * padded(r) + c + r)

  int64_t blocks() const { return (problem.c + kGamChannels - 1) / kGamChannels; }
  int64_t units() const {
    return (problem.n * problem.tiles() + tiles_per_unit - 1) / tiles_per_unit;
  }
  // Where in a row the gradients begin: d_w1 transposed and d_w2, both (c, padded(r)); d_b1; d_b2.
  int64_t d_w2() const { return problem.c * padded(problem.r); }
  int64_t d_b1() const { return 2 * d_w2(); }
  int64_t d_b2() const { return d_b1() + problem.r; }
  int64_t row() const { return d_b2() + problem.c; }
};

// A channels_last map is one long image. Partial gradients belong to units: an image in NCHW, else
// so many pixels.
constexpr int64_t kScaleGatePixels = 64;
struct ScaleGateProblem {
  int64_t n, c, pixels;
  bool channels_last;

  int64_t units() const {
    return channels_last ? (pixels + kScaleGatePixels - 1) / kScaleGatePixels : n;
  }
};

template <class T>
struct ScaleGate {
  ScaleGateProblem problem;
  const T *x, *a;
  const acc_t<T>*scale, *shift;
  T* y;
};

template <class T>
struct ScaleGateBackward {
  ScaleGateProblem problem;
  const T *dy, *x, *a;
  const acc_t<T>*scale, *shift;
  T *dx, *da;
  acc_t<T>* partials;  // (units, 2, c): d_scale, d_shift
};

// Each kernel does the tasks [begin, end).
template <class T>
struct Kernels {
  void (*spatial_forward)(const SpatialForward<T>&, int64_t begin, int64_t end);
  void (*spatial_backward)(const SpatialBackward<T>&, int64_t begin, int64_t end);
  void (*weight_backward)(const WeightBackward<acc_t<T>>&, int64_t begin, int64_t end);
  void (*channel_pool)(const ChannelPool<T>&, int64_t begin, int64_t end);
  void (*channel_pool_backward)(const ChannelPoolBackward<T>&, int64_t begin, int64_t end);
  void (*gam_forward)(const GamForward<T>&, int64_t begin, int64_t end);
  void (*gam_backward)(const GamBackward<T>&, int64_t begin, int64_t end);
  void (*gam_weight_backward)(const GamWeightBackward<T>&, int64_t begin, int64_t end);
  void (*transpose)(const acc_t<T>* from, int64_t from_stride, int64_t rows, int64_t columns,
                    acc_t<T>* to, int64_t to_stride);
  void (*scale_gate)(const ScaleGate<T>&, int64_t begin, int64_t end);
  void (*scale_gate_backward)(const ScaleGateBackward<T>&, int64_t begin, int64_t end);
};

// The table for the machine this runs on, chosen at the first call.
template <class T>
const Kernels<T>& kernels();

}  // namespace attn_kernels
