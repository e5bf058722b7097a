// The project's launches (csrc/cuda/launch.h), with the workspaces they take.
#pragma once

#include "baseline_chains.cuh"
#include "device.h"
#include "reference.h"

inline attn_kernels::Shape shape_of(const Sizes& s) { return {s.n, s.c, s.h, s.w}; }

template <class T>
void ours(const Launch& launch, const Sizes& s, const base::Tensors<T>& t) {
  attn_kernels::spatial_gate<T>(launch, shape_of(s), s.channels_last, kKernel, t.x, t.weight,
                                t.bias, t.y, t.map, t.pooled);
}

template <class T>
void ours_backward(const Launch& launch, const Sizes& s, const base::Tensors<T>& t) {
  const attn_kernels::Shape shape = shape_of(s);
  int* argmax = on_device<int>(s.pixels());
  float* partial = on_device<float>(attn_kernels::weight_partials(shape, kKernel));
  attn_kernels::spatial_gate_backward<T>(launch, shape, s.channels_last, kKernel, t.dy, t.x,
                                         t.weight, t.map, t.pooled, t.d_logit, argmax, partial,
                                         t.dx, t.d_weight, t.d_bias);
}
