// What the CPU kernels of squeeze and squeeze_backward are called with.
#pragma once

#include "planes.h"
#include "types.h"

namespace attn_kernels {

// All results are (n, c); null where not asked for. An extreme and its place are asked for
// together.
template <class T>
struct Squeeze {
  Planes planes;
  const T* x;
  acc_t<T>*mean, *var, *max, *min;
  int64_t *argmax, *argmin;
};

// dx = scale * dr + slope * x + offset + [pixel == argmax] d_max + [pixel == argmin] d_min
template <class T>
struct SqueezeBackward {
  Planes planes;
  const T* dr;  // null together with scale
  const T* x;
  const acc_t<T>*scale, *slope, *offset;  // (n, c), as the rest; each may be null
  const int64_t* argmax;                  // null together with d_max
  const acc_t<T>* d_max;
  const int64_t* argmin;
  const acc_t<T>* d_min;
  T* dx;  // may be dr
};

}  // namespace attn_kernels
