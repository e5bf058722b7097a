// The arithmetic between the two layers of squeeze and excitation and behind them, written once for
// CPU and CUDA. T is a scalar or, on the CPU, a SIMD vector.
#pragma once

#include "spatial_gate.h"

namespace attn_kernels {

enum class ExciteActivation { kIdentity, kRelu, kSilu };
enum class ExciteGate { kSigmoid, kHardsigmoid };

template <class T, class Exp = ScalarExp>
ATTN_HD T excite_activate(T hidden, ExciteActivation activation, Exp exp = {}) {
  if (activation == ExciteActivation::kRelu) return relu(hidden);
  if (activation == ExciteActivation::kSilu) return hidden * sigmoid(hidden, exp);
  return hidden;
}

// d_hidden from the gradient of what the activation made of it. NaN passes the ReLU.
template <class T, class Exp = ScalarExp>
ATTN_HD T excite_activate_backward(T d_active, T hidden, ExciteActivation activation,
                                   Exp exp = {}) {
  if (activation == ExciteActivation::kRelu) return relu_backward(d_active, hidden);
  if (activation == ExciteActivation::kSilu) {
    const T s = sigmoid(hidden, exp);
    return d_active * (s * (1 + hidden * (1 - s)));
  }
  return d_active;
}

template <class T, class Exp = ScalarExp>
ATTN_HD T excite_gate(T logit, ExciteGate gate, Exp exp = {}) {
  if (gate == ExciteGate::kSigmoid) return sigmoid(logit, exp);
  const T from_zero = relu(logit + 3);
  return (from_zero > 6 ? T{} + 6 : from_zero) / 6;
}

// d_logit through scale = gate(logit).
template <class T>
ATTN_HD T excite_gate_backward(T d_scale, T scale, ExciteGate gate) {
  if (gate == ExciteGate::kSigmoid) return sigmoid_backward(d_scale, scale);
  const T within = scale > 0 ? d_scale / 6 : T{};
  return scale < 1 ? within : T{};
}

}  // namespace attn_kernels
