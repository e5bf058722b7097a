// The project's launches for squeeze and excitation and for tails (launch_excite.h,
// launch_planes.h, launch_gate.h), in the order in which its autograd nodes call them. What a tail
// does with (N, C) tensors between them is PyTorch's, and left out.
#pragma once

#include "cuda/launch_excite.h"
#include "ours.cuh"

// dx is x's whole gradient, d_view that through the spatial gate; scale and shift are norm and gate
// as one view.
template <class T>
struct OursTail : base::Tensors<T> {
  bool cbam;
  T *residual, *dr, *d_view;
  float *scale, *shift, *ones, *slope, *offset;  // (N, C), as are the following
  attn_kernels::Statistics<float> statistics;
  attn_kernels::ExtremeGradient<float> max, min;
  float *d_scale, *d_shift;
};

template <class T>
void* squeeze_workspace(const Sizes& s) {
  return on_device<char>(attn_kernels::squeeze_bytes<T>(shape_of(s), s.channels_last));
}

template <class T>
attn_kernels::GateSumsStat<float>* sums_workspace(const Sizes& s) {
  return on_device<attn_kernels::GateSumsStat<float>>(
      attn_kernels::affine_gate_sums_partials<T>(shape_of(s), s.channels_last));
}

template <class T>
void ours_excite(const Launch& launch, const Sizes& s, const base::Tensors<T>& t,
                 const attn_kernels::ExciteArguments<float>& layers) {
  attn_kernels::squeeze_excite<T>(launch, shape_of(s), s.channels_last,
                                  {t.x, layers, squeeze_workspace<T>(s), t.y});
}

template <class T>
void ours_excite_backward(const Launch& launch, const Sizes& s, const base::Tensors<T>& t,
                          const attn_kernels::ExciteGradientArguments<float>& layers) {
  attn_kernels::squeeze_excite_backward<T>(
      launch, shape_of(s), s.channels_last,
      {t.dy, t.x, layers, sums_workspace<T>(s), on_device<float>(s.n * s.c),
       on_device<float>(s.n * s.c), t.dx});
}

template <class T>
void ours_tail(const Launch& launch, const Sizes& s, const OursTail<T>& t) {
  const attn_kernels::Shape shape = shape_of(s);
  attn_kernels::squeeze<T>(launch, shape, s.channels_last, t.x, squeeze_workspace<T>(s),
                           t.statistics);
  if (t.cbam) {
    float* partial = on_device<float>(attn_kernels::reduce_partials<T>(shape, s.channels_last));
    attn_kernels::spatial_gate<T>(
        launch, shape, s.channels_last,
        {{t.x, {kKernel, 1, t.weight, t.bias}, t.scale, t.shift, partial, t.map, t.pooled},
         t.residual,
         true,
         t.y});
  } else {
    attn_kernels::gate<T, false>(
        launch, s.channels_last,
        {shape, {}, t.x, nullptr, t.scale, t.shift, t.residual, t.y, true});
  }
}

template <class T>
void ours_tail_backward(const Launch& launch, const Sizes& s, const OursTail<T>& t) {
  const attn_kernels::Shape shape = shape_of(s);
  if (t.cbam) {
    attn_kernels::SpatialGradient<T> of = spatial_gradient(s, t);
    of.scale = t.scale, of.shift = t.shift, of.dx = t.d_view;
    of.view = {on_device<float>(attn_kernels::view_partials<T>(shape, s.channels_last)), t.d_scale,
               t.d_shift};
    attn_kernels::spatial_gate_backward<T>(launch, shape, s.channels_last, {of, t.dy, t.y, t.dr});
  } else {
    attn_kernels::affine_gate_sums<T>(
        launch, shape, s.channels_last,
        {t.dy, t.x, t.y, sums_workspace<T>(s), t.d_scale, t.d_shift, t.dr});
  }
  attn_kernels::squeeze_gradient<T>(launch, s.channels_last,
                                    {shape,
                                     {},
                                     t.cbam ? t.d_view : t.dr,
                                     t.x,
                                     t.cbam ? t.ones : t.scale,
                                     t.slope,
                                     t.offset,
                                     t.max,
                                     t.min,
                                     t.dx});
}
