// What the CPU kernels are called with, and the table of them that the machine's instruction set
// decides on. No torch header here: the kernels know pointers and shapes only.
#pragma once

#include <cstdint>

#include "affine_gate_args.h"
#include "excite_args.h"
#include "spatial_args.h"
#include "squeeze_args.h"
#include "types.h"

namespace attn_kernels {

// Element (i, j) is data[i * row_stride + j * column_stride].
template <class E>
struct Matrix {
  E* data;
  int64_t rows, columns, row_stride, column_stride;

  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }
  Matrix rows_from(int64_t first, int64_t count) const {
    return {data + first * row_stride, count, columns, row_stride, column_stride};
  }
  Matrix columns_from(int64_t first, int64_t count) const {
    return {data + first * column_stride, rows, count, row_stride, column_stride};
  }
};

// What GAM's channel gate does beside its matrix products, which are the library's: passes over
// matrices of channels (rows) and pixels (columns), all of them in the same memory format: rows
// are contiguous in NCHW, columns in channels_last. T is the type of the map, G that of the
// products. Matrices of both kinds may be one and the same.
template <class T, class G>
struct GamPasses {
  using A = acc_t<T>;
  // to = from
  void (*copy)(const Matrix<T>& from, const Matrix<G>& to);
  // mixed = bias
  void (*fill)(const Matrix<G>& mixed, const A* bias);
  // mixed = hidden = relu(mixed + bias); no bias where it is null
  void (*relu)(const Matrix<G>& mixed, const A* bias, const Matrix<T>& hidden);
  // y = x * gate, where gate = activation(mixed + bias)
  void (*gate)(const Matrix<G>& mixed, const A* bias, bool sigmoid, const Matrix<T>& x,
               const Matrix<T>& y);
  // mixed = gate; da = the gradient of mixed + bias
  void (*gate_backward)(const Matrix<G>& mixed, const A* bias, bool sigmoid, const Matrix<T>& dy,
                        const Matrix<T>& x, const Matrix<G>& da);
  // mixed = hidden <= 0 ? 0 : mixed
  void (*hidden_backward)(const Matrix<T>& hidden, const Matrix<G>& mixed);
  // dx = dy * gate + mixed
  void (*dx)(const Matrix<T>& dy, const Matrix<G>& gate, const Matrix<G>& mixed,
             const Matrix<T>& dx);
  // sums[i] += sum over j of from(i, j)
  void (*add_pixels)(const Matrix<G>& from, A* sums);
  // to += from
  void (*add)(const Matrix<G>& from, const Matrix<A>& to);
};

// The other type that products may be in: processors multiply matrices of bfloat16 many times
// faster than those of float32.
template <class T>
using native_t = std::conditional_t<std::is_same_v<T, BFloat16>, BFloat16, acc_t<T>>;

// A map whose pixels are outermost, channels_last or of one pixel an image, is one long image.
// Partial gradients belong to units: so many pixels of it, else an image.
constexpr int64_t kScaleGatePixels = 64;
struct ScaleGateProblem {
  int64_t n, c, pixels;
  bool pixels_outermost;

  int64_t units() const {
    return pixels_outermost ? (pixels + kScaleGatePixels - 1) / kScaleGatePixels : n;
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
  GamPasses<T, acc_t<T>> gam;
  GamPasses<T, native_t<T>> gam_native;
  void (*scale_gate)(const ScaleGate<T>&, int64_t begin, int64_t end);
  void (*scale_gate_backward)(const ScaleGateBackward<T>&, int64_t begin, int64_t end);
  void (*squeeze)(const Squeeze<T>&, int64_t begin, int64_t end);
  void (*squeeze_backward)(const SqueezeBackward<T>&, int64_t begin, int64_t end);
  void (*affine_gate)(const AffineGate<T>&, int64_t begin, int64_t end);
  void (*affine_gate_sums)(const AffineGateSums<T>&, int64_t begin, int64_t end);
  void (*excite_hidden)(const Excite<acc_t<T>>&, int64_t begin, int64_t end);
  void (*excite_scale)(const Excite<acc_t<T>>&, int64_t begin, int64_t end);
  void (*excite_logit_backward)(const ExciteBackward<acc_t<T>>&, int64_t begin, int64_t end);
  void (*excite_hidden_backward)(const ExciteBackward<acc_t<T>>&, int64_t begin, int64_t end);
  void (*excite_mean_backward)(const ExciteBackward<acc_t<T>>&, int64_t begin, int64_t end);
  void (*excite_weights_backward)(const ExciteBackward<acc_t<T>>&, int64_t begin, int64_t end);
};

// Whether the processor multiplies matrices of native_t faster than those of acc_t, where the two
// differ.
bool has_matrix_instructions();

// The table for the machine this runs on, chosen at the first call.
template <class T>
const Kernels<T>& kernels();

// The table of the shortest vectors, kNarrowLanes of float32: for rows that fill no longer ones.
template <class T>
const Kernels<T>& narrow_kernels();
constexpr int64_t kNarrowLanes = 4;

}  // namespace attn_kernels
