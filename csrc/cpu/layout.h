// The four passes over a span of pixels of one image, in both memory formats: all that spatial
// attention ever does with the feature map itself, seen through its affine view f.
//
//   pool            mean, max      <- f
//   dot_and_argmax  d_map, argmax  <- dr, f, max
//   gate            y              <- f, map, residual
//   scatter         dx, dr, sums   <- dr, f, map, d_mean, d_max, argmax
//
// mean, max, d_map, map, d_mean, d_max, argmax are arrays of one value per pixel of the span, with
// room for a whole vector at the end. Sums over channels or pixels go through short partial sums,
// so that their rounding error grows with neither the number of terms nor their order.
//
// Nchw and ChannelsLast are both sets of these passes; kView says that f is not x itself, kRelu
// that dr is not dy itself.
#pragma once

#include <algorithm>
#include <limits>

#include "../common/spatial_gate.h"
#include "simd.h"

namespace attn_kernels::ATTN_ISA {

// Pixels [first, first + count) of image n.
struct Span {
  int64_t n, first, count;
};

// What the pixels of a span send back to every channel: df = dr * map + d_mean + [c is argmax]
// d_max. d_mean is divided by the number of channels already; map is null where there is no dr.
template <class A>
struct PixelGradients {
  const A *map, *d_mean, *d_max;
  const Int<A>* argmax;
};

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();
constexpr int64_t kChannelsPerPartial = 128;

// One vector of y: with the residual, where there is one, and the ReLU.
template <bool kEpilogue, class T, class Lanes>
ATTN_INLINE Vec<acc_t<T>> gated(Vec<acc_t<T>> f, Vec<acc_t<T>> map, const T* residual,
                                bool with_relu, int64_t at, Lanes lanes) {
  if constexpr (!kEpilogue) return f * map;
  const auto v =
      residual != nullptr ? VectorFma{}(f, map, load_lanes(residual + at, lanes)) : f * map;
  return with_relu ? relu(v) : v;
}

// One vector of dr.
template <bool kRelu, class T, class Lanes>
ATTN_INLINE Vec<acc_t<T>> load_dr(const Upstream<T>& upstream, int64_t at, Lanes lanes) {
  Vec<acc_t<T>> dr = load_lanes(upstream.dy + at, lanes);
  if constexpr (kRelu) dr = relu_backward(dr, load_lanes(upstream.y + at, lanes));
  return dr;
}

}  // namespace attn_kernels::ATTN_ISA
