// The gates of broadcast_gate, written once for CPU and CUDA: each is a value and a slope.
#pragma once

#include "spatial_gate.h"

namespace attn_kernels {

enum class Gate { kIdentity, kSigmoid, kHardSigmoid };

struct IdentityGate {
  template <class T, class Exp>
  static ATTN_HD T value(T u, Exp) {
    return u;
  }
  template <class T>
  static ATTN_HD T slope(T, T) {
    return T{} + 1;
  }
};

struct SigmoidGate {
  template <class T, class Exp>
  static ATTN_HD T value(T u, Exp exp) {
    return sigmoid(u, exp);
  }
  template <class T>
  static ATTN_HD T slope(T, T value) {
    return value * (1 - value);
  }
};

// relu6(u + 3) / 6; NaN stays.
struct HardSigmoidGate {
  template <class T, class Exp>
  static ATTN_HD T value(T u, Exp) {
    T v = u + 3;
    v = v < 0 ? T{} : v;
    v = v > 6 ? T{} + 6 : v;
    return v / 6;
  }
  template <class T>
  static ATTN_HD T slope(T u, T) {
    return u <= -3 ? T{} : (u >= 3 ? T{} : T{} + 1 / T(T{} + 6));
  }
};

}  // namespace attn_kernels
