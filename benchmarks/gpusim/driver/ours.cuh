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
       t.y,
       on_device<unsigned>(attn_kernels::ordered_counters(shape))});
}

template <class T>
void ours_backward(const Launch& launch, const Sizes& s, const base::Tensors<T>& t) {
  const attn_kernels::Shape shape = shape_of(s);
  attn_kernels::SpatialGateBackward<T> op = {};
  op.dy = t.dy, op.x = t.x;
  op.conv = {kKernel, 1, t.weight, t.bias};
  op.map = t.map, op.pooled = t.pooled;
  op.partial = on_device<float>(attn_kernels::reduce_partials<T>(shape, s.channels_last));
  op.weights = on_device<float>(attn_kernels::weight_partials(shape, kKernel, 1));
  op.d_logit = t.d_logit, op.d_pooled = t.d_pooled;
  op.argmax = on_device<int>(s.pixels());
  op.dx = t.dx, op.d_weight = t.d_weight, op.d_bias = t.d_bias;
  op.counters = on_device<unsigned>(attn_kernels::ordered_counters(shape));
  attn_kernels::spatial_gate_backward<T>(launch, shape, s.channels_last, op);
}
