// The launches of spatial_gate and its gradient, without torch (see launch.h).
#pragma once

#include "launch.h"

namespace attn_kernels {

template <class T>
struct SpatialGate {
  SpatialAttention<T> attention;
  const T* residual;  // may be null
  bool relu;
  T* y;
};

template <class T, class Launch>
void spatial_gate(const Launch& launch, const Shape& shape, bool channels_last,
                  const SpatialGate<T>& op) {
  const SpatialAttention<T>& of = op.attention;
  spatial_attention(launch, shape, channels_last, of);
  gate<T>(launch, channels_last,
          {shape, {}, of.x, of.map, of.scale, of.shift, op.residual, op.y, op.relu});
}

// dr: written where y is given, that is with a ReLU; else dy itself.
template <class T>
struct SpatialGateBackward {
  SpatialGradient<T> gradient;
  const T *dy, *y;
  T* dr;
};

// dy, x, y, map, pooled -> dr, d_logit, argmax.
template <class T, class Launch>
void gate_gradient(const Launch& launch, const Shape& shape, bool channels_last,
                   const SpatialGateBackward<T>& op) {
  const SpatialGradient<T>& of = op.gradient;
  with_layout<T>({shape, channels_last, {op.dy, of.x, op.y, op.dr}}, [&](auto order, auto vector) {
    with_flag(of.scale != nullptr, [&](auto view) {
      with_flag(op.y != nullptr, [&](auto relu) {
        using Op = GateGradient<T, decltype(view)::value, decltype(relu)::value>;
        auto* stats = reinterpret_cast<typename Op::Stat*>(of.partial);
        reduce<decltype(order)::value, decltype(vector)::value>(
            launch, Op{{shape, {}, of.x, of.scale, of.shift, stats},
                       op.dy,
                       op.y,
                       of.map,
                       of.pooled,
                       op.dr,
                       of.d_logit,
                       of.argmax});
      });
    });
  });
}

template <class T, class Launch>
void spatial_gate_backward(const Launch& launch, const Shape& shape, bool channels_last,
                           const SpatialGateBackward<T>& op) {
  const SpatialGradient<T>& of = op.gradient;
  const T* dr = op.y != nullptr ? op.dr : op.dy;
  const InputGradientArguments<T> arguments{
      shape, {}, dr, of.x, of.map, of.d_pooled, of.argmax, of.scale, of.dx, nullptr, nullptr};
  gate_gradient(launch, shape, channels_last, op);
  pooled_gradient<Acc<T>>(launch, shape, of.conv, nullptr, nullptr, of.d_logit, of.d_pooled);
  input_gradient<true, T>(launch, channels_last, arguments, of.view);
  weight_gradient<Acc<T>>(launch, shape, of.conv, of.d_logit, of.pooled, of.weights, of.d_weight,
                          of.d_bias);
}

}  // namespace attn_kernels
