// What the CPU kernels of self_gate are called with.
#pragma once

#include "bands.h"
#include "types.h"

namespace attn_kernels {

// The gate sigmoid(p2 d^2 + p1 d + p0), d = x - center, of (n, c) coefficients; what is absent is
// 0.
template <class A>
struct SelfGateOperands {
  Operand<A> center, p2, p1, p0;
};

// In the gate's result channels are shuffled: channel g * (c / groups) + j of x is j * groups + g.
template <class T>
struct SelfGate {
  Bands bands;
  SelfGateOperands<acc_t<T>> of;
  int64_t groups;
  const T* x;
  T* y;
};

// The gradients of p2, p1 and p0.
template <class T>
struct SelfGateSums {
  Bands bands;
  SelfGateOperands<acc_t<T>> of;
  int64_t groups;
  const T *dy, *x;
  Sums d_p2, d_p1, d_p0;
};

// dx = dy * gate + the gradient through the gate + slope * x + offset
template <class T>
struct SelfGateBackward {
  Bands bands;
  SelfGateOperands<acc_t<T>> of;
  int64_t groups;
  const T *dy, *x;
  Operand<acc_t<T>> slope, offset;
  T* dx;
};

}  // namespace attn_kernels
