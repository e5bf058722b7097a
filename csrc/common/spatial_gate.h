// The arithmetic of spatial attention, written once for CPU and CUDA.
//
// T is a scalar (float, double) or, on the CPU, a SIMD vector of them: hence nested `?:` where a
// scalar could say `||`, since that is the form that means the same for both.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define ATTN_HD __host__ __device__ __forceinline__
#else
#define ATTN_HD inline __attribute__((always_inline))
#endif

namespace attn_kernels {

// The larger of both; NaN wins over everything, as in torch.max.
template <class T>
ATTN_HD T nan_max(T best, T value) {
  return value > best ? value : (value != value ? value : best);
}

// `found` if `value` holds the channel maximum, else `otherwise`. If `max` is NaN only a NaN holds
// it: a pixel whose maximum is not NaN has no NaN.
template <class T, class Index>
ATTN_HD Index if_max(T value, T max, Index found, Index otherwise) {
  return value == max ? found : (value != value ? found : otherwise);
}

// The affine view of a map: one fused multiply-add wherever there is one, so that every pass over
// the map finds the same bits.
template <class T>
ATTN_HD T affine(T x, T scale, T shift) {
  return scale * x + shift;
}

// NaN stays, as in torch.relu.
template <class T>
ATTN_HD T relu(T value) {
  return value <= 0 ? T{} : value;
}

// The gradient of what the ReLU got, from its result y.
template <class T>
ATTN_HD T relu_backward(T dy, T y) {
  return y <= 0 ? T{} : dy;
}

struct ScalarExp {
  template <class T>
  ATTN_HD T operator()(T x) const {
    using std::exp;
    return exp(x);
  }
};

template <class T, class Exp = ScalarExp>
ATTN_HD T sigmoid(T logit, Exp exp = {}) {
  return 1 / (1 + exp(-logit));
}

// d_logit from d_map, through map = sigmoid(logit).
template <class T>
ATTN_HD T sigmoid_backward(T d_map, T map) {
  return d_map * map * (1 - map);
}

}  // namespace attn_kernels
