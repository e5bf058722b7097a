// The order of what Inductor makes of squeeze and excitation and of tails, by the graphs and
// kernels that torch 2.13 prints (README). What a gate does with (N, C) tensors is left out of
// tails.
#pragma once

#include "baseline_chains.cuh"
#include "baselines_tail.cuh"
#include "cuda/launch_excite.h"

namespace base {

template <class Op, class Launch>
void reduce_rows(const Launch& launch, const Op& op, Rows rows) {
  // A power of two: few for rows that four vectors each would fill.
  for (rows.lanes = 32; rows.lanes < 256 && 4 * rows.lanes < rows.vectors();) rows.lanes *= 2;
  launch(row_kernel<Op>, rows.blocks(), 256, 0, op, rows);
}

template <class T, class Launch, class F>
void pointwise(const Launch& launch, int count, const T* a, const T* b, T* out, const F& f) {
  launch(pointwise_kernel<T, F>, ceil_div(count, 2048), 256, 0, count, a, b, out, f);
}

template <class T>
Rows planes(const Tensors<T>& t) {
  return {t.n * t.c, 1, 0, t.hw(), 0};
}

template <class T>
Rows channels(const Tensors<T>& t) {
  return {t.c, t.n, t.c, t.hw(), 0};
}

// The mean, the layers as ours have them, the product. 3 maps.
template <class T, class Launch>
void compiled_excite(const Launch& launch, const Tensors<T>& t,
                     const attn_kernels::ExciteArguments<float>& layers) {
  reduce_rows(launch, PlaneSum<T>{t.x, nullptr, layers.mean, 1.f / t.hw()}, planes(t));
  attn_kernels::excite(launch, layers);
  pointwise(launch, t.elements(), t.x, static_cast<const T*>(nullptr), t.y,
            ScaledPlanes{layers.scale, nullptr, t.hw()});
}

// The product's sums, the layers as ours have them, dx. 4 maps.
template <class T, class Launch>
void compiled_excite_backward(const Launch& launch, const Tensors<T>& t,
                              const attn_kernels::ExciteGradientArguments<float>& layers) {
  float* d_scale = on_device<float>(t.n * t.c);
  reduce_rows(launch, PlaneSum<T>{t.x, t.dy, d_scale, 1.f}, planes(t));
  attn_kernels::excite_backward(launch, layers, d_scale, t.hw());
  pointwise(launch, t.elements(), t.dy, static_cast<const T*>(nullptr), t.dx,
            ScaledPlanes{layers.scale, layers.offset, t.hw()});
}

// The batch's moments; f and its means; the end, which reads f. 6.25 maps. With CBAM s * f is
// written for the channels' statistics, and read by the end. 8.25 maps.
template <bool kCbam, class T, class Launch>
void compiled_tail(const Launch& launch, const Tensors<T>& t, const TailTensors<T>& tail) {
  reduce_rows(launch, Moments<T>{tail}, channels(t));
  reduce_rows(launch, Norm<T, kCbam>{tail}, planes(t));
  if constexpr (kCbam) {
    reduce<kMean | kMaxIndex | kScaled>(launch, t, tail.f, t.pooled, t.pooled + t.hw(), t.index, 2,
                                        {tail.s, tail.scaled});
    conv(launch, t);
  }
  const T* from = kCbam ? tail.scaled : tail.f;
  pointwise(launch, t.elements(), from, tail.residual, tail.y, TailEnd<T, kCbam>{tail});
}

// dr and the gate's sums, the norm's sums, dz. 8.25 maps.
template <class T, class Launch>
void compiled_se_tail_backward(const Launch& launch, const Tensors<T>& t,
                               const TailTensors<T>& tail) {
  reduce_rows(launch, MaskedSum<T>{tail}, planes(t));
  reduce_rows(launch, NormSums<T, false>{tail}, channels(t));
  pointwise(launch, t.elements(), tail.dr, tail.z, tail.dz, NormGradient<T, true>{tail});
}

// dr and d_logit, convolution, zeros and scatter; what reaches s; zeros and scatter of the maximum;
// df and the norm's sums; dz. 16.25 maps.
template <class T, class Launch>
void compiled_cbam_tail_backward(const Launch& launch, const Tensors<T>& t,
                                 const TailTensors<T>& tail) {
  dot<false, true>(launch, t, {tail.stopped, tail.dr});
  conv_backward(launch, t);
  scatter(launch, t, tail.scattered);
  reduce_rows(launch, MappedSum<T>{tail}, planes(t));
  launch(zero_kernel<T>, ceil_div(t.elements(), 2048), 256, 0, t.elements(), tail.of_max);
  launch(plane_scatter_kernel<T>, ceil_div(t.n * t.c, 256), 256, 0, t.n * t.c, t.hw(), tail.argmax,
         tail.d_logit, tail.of_max);
  reduce_rows(launch, NormSums<T, true>{tail}, channels(t));
  pointwise(launch, t.elements(), tail.df, tail.z, tail.dz, NormGradient<T, false>{tail});
}

}  // namespace base
