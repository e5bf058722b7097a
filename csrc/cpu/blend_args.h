// What the CPU kernels of blend are called with.
#pragma once

#include "planes.h"
#include "types.h"

namespace attn_kernels {

// z = factor * (x w + y (1 - w)), w = sigmoid(a * scale + shift)
template <class T>
struct Blend {
  Planes planes;
  const T *x, *y, *a;
  const acc_t<T>*scale, *shift;  // (n, c)
  acc_t<T> factor;
  bool past_cache;
  T* z;
};

template <class T>
struct BlendBackward {
  Planes planes;
  const T *dz, *x, *y, *a;
  const acc_t<T>*scale, *shift;  // (n, c)
  acc_t<T> factor;
  bool past_cache;
  T *dx, *dy, *da;
  acc_t<T>*d_scale, *d_shift;  // (n, c)
};

}  // namespace attn_kernels
