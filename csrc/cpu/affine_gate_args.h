// What the CPU kernels of affine_gate and affine_gate_sums are called with.
#pragma once

#include "planes.h"
#include "types.h"

namespace attn_kernels {

// y = act(scale * x + shift + residual)
template <class T>
struct AffineGate {
  Planes planes;
  const T* x;
  const acc_t<T>*scale, *shift;  // (n, c); shift may be null
  const T* residual;             // may be null
  bool relu;
  T* y;
};

// dr = dy where y, the result of a ReLU, is not 0 (y null: everywhere, and dr is not written);
// d_scale = sum of dr * x over pixels, d_shift = sum of dr.
template <class T>
struct AffineGateSums {
  Planes planes;
  const T *dy, *x, *y;
  acc_t<T>*d_scale, *d_shift;  // (n, c)
  T* dr;
};

}  // namespace attn_kernels
