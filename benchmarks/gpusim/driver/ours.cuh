// The project's launches (csrc/cuda/launch_gate.h), with the workspaces they take.
#pragma once

#include "baseline_chains.cuh"
#include "cuda/launch_gate.h"
#include "device.h"
#include "reference.h"

inline attn_kernels::Shape shape_of(const Sizes& s) { return {s.n, s.c, s.h, s.w}; }

template <class T>
void ours(const Launch& launch, const Sizes& s, const base::Tensors<T>& t) {
  const attn_kernels::Shape shape = shape_of(s);
  float* partial = on_device<float>(attn_kernels::reduce_partials<T>(shape, s.channels_last));
  attn_kernels::spatial_gate<T>(
      launch, shape, s.channels_last,
      {{t.x, {kKernel, 1, t.weight, t.bias}, nullptr, nullptr, partial, t.map, t.pooled},
       nullptr,
       false,
       t.y});
}

template <class T>
attn_kernels::SpatialGradient<T> spatial_gradient(const Sizes& s, const base::Tensors<T>& t) {
  const attn_kernels::Shape shape = shape_of(s);
  attn_kernels::SpatialGradient<T> of = {};
  of.x = t.x;
  of.conv = {kKernel, 1, t.weight, t.bias};
  of.map = t.map, of.pooled = t.pooled;
  of.partial = on_device<float>(attn_kernels::reduce_partials<T>(shape, s.channels_last));
  of.weights = on_device<float>(attn_kernels::weight_partials(shape, kKernel, 1));
  of.d_logit = t.d_logit, of.d_pooled = t.d_pooled;
  of.argmax = on_device<int>(s.pixels());
  of.dx = t.dx, of.d_weight = t.d_weight, of.d_bias = t.d_bias;
  return of;
}

template <class T>
void ours_backward(const Launch& launch, const Sizes& s, const base::Tensors<T>& t) {
  attn_kernels::spatial_gate_backward<T>(launch, shape_of(s), s.channels_last,
                                         {spatial_gradient(s, t), t.dy, nullptr, nullptr});
}
