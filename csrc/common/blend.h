// The arithmetic of blend, written once for CPU and CUDA: z = factor * (x w + y (1 - w)),
// w = sigmoid(a * scale + shift). T as in spatial_gate.h; Factor is its scalar.
#pragma once

#include "spatial_gate.h"

namespace attn_kernels {

template <class T, class Exp = ScalarExp>
ATTN_HD T blend_weight(T a, T scale, T shift, Exp exp = {}) {
  return sigmoid(a * scale + shift, exp);
}

template <class T, class Factor>
ATTN_HD T blended(T x, T y, T w, Factor factor) {
  return factor * (x * w + y * (1 - w));
}

// With respect to x, y and what the sigmoid gets.
template <class T>
struct BlendGradient {
  T x, y, logit;
};

template <class T, class Factor>
ATTN_HD BlendGradient<T> blend_gradient(T dz, T x, T y, T w, Factor factor) {
  const T d_blended = factor * dz;
  return {d_blended * w, d_blended * (1 - w), sigmoid_backward(d_blended * (x - y), w)};
}

}  // namespace attn_kernels
