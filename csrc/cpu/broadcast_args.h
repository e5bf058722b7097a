// What the CPU kernels of broadcast_gate and broadcast_squeeze are called with.
#pragma once

#include "../common/broadcast_gate.h"
#include "bands.h"
#include "types.h"

namespace attn_kernels {

// The factor skip + gate(a * b), or a + b.
template <class A>
struct BroadcastFactor {
  Operand<A> a, b;  // without b it holds the one neutral value
  bool is_sum;
  Gate gate;
  A skip;  // 0 or 1
};

// y = act(x * factor + residual)
template <class T>
struct BroadcastGate {
  Bands bands;
  BroadcastFactor<acc_t<T>> factor;
  const T *x, *residual;  // residual may be null
  bool relu;
  T* y;
};

// The sums that are the gradients of a and b; dr is written where y, the result of a ReLU, is
// given.
template <class T>
struct BroadcastGateSums {
  Bands bands;
  BroadcastFactor<acc_t<T>> factor;
  const T *dy, *x, *y;
  Sums d_a, d_b;
  T* dr;
};

// Sums of x over pixels, of weight * x over channels, of x over columns and over rows.
template <class T>
struct BroadcastSqueeze {
  Bands bands;
  const T* x;
  Operand<acc_t<T>> weight;
  Sums mean, sum, rows, columns;
};

// dx = dr * factor + the gradients of means, each times its share, + weight * d_sum; d_weight: sums
// of x * d_sum.
template <class T>
struct BroadcastSqueezeBackward {
  Bands bands;
  BroadcastFactor<acc_t<T>> factor;
  const T *dr, *x;  // dr may be null
  Operand<acc_t<T>> weight, d_sum, d_mean, d_rows, d_columns;
  Sums d_weight;
  T* dx;
};

}  // namespace attn_kernels
