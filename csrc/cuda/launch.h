// What runs after what: the launches of every op, without torch. The caller brings the memory and a
// `launch(kernel, blocks, threads, shared_bytes, arguments...)`, so that tests run these very
// lines.
//
// Pointers named as in the kernels' files, which also give the shapes.
#pragma once

#include <type_traits>

#include "channel_pool.cuh"
#include "conv_weight.cuh"
#include "spatial_attention.cuh"
#include "spatial_gate.cuh"

namespace attn_kernels {

// Can vectors of V be moved: do rows divide into them, and does every tensor start at a multiple?
template <int V, class T>
bool fits(int64_t row, std::initializer_list<const T*> tensors) {
  return row % V == 0 && std::all_of(tensors.begin(), tensors.end(), [](const T* tensor) {
           return reinterpret_cast<std::uintptr_t>(tensor) % (V * sizeof(T)) == 0;
         });
}

// Calls run(channels_last, vector) with compile-time constants: 16 bytes at a time where rows and
// pointers allow, 8 for half precision where only that does (14 x 14 maps), else single elements.
template <class T, class Run>
void with_layout(const Shape& shape, bool channels_last, std::initializer_list<const T*> tensors,
                 Run run) {
  const int64_t row = channels_last ? shape.c : shape.hw;
  const auto with_vector = [&](auto layout) {
    if constexpr (sizeof(T) == 2) {
      if (fits<8>(row, tensors)) return run(layout, std::integral_constant<int, 8>());
    }
    if constexpr (sizeof(T) <= 4) {
      if (fits<4>(row, tensors)) return run(layout, std::integral_constant<int, 4>());
    }
    return run(layout, std::integral_constant<int, 1>());
  };
  channels_last ? with_vector(std::true_type()) : with_vector(std::false_type());
}

template <class T, class Out, class Launch>
void pool(const Launch& launch, const Shape& shape, bool channels_last, const T* x, Out* pooled) {
  with_layout<T>(shape, channels_last, {x}, [&](auto layout, auto vector) {
    constexpr bool kChannelsLast = decltype(layout)::value;
    constexpr int V = decltype(vector)::value;
    const Tiling tiling = reduce_tiling(shape, kChannelsLast, V);
    const int64_t bytes = fold_elements(tiling, kChannelsLast) * sizeof(PoolStat<Acc<T>>);
    launch(pool_kernel<T, Out, kChannelsLast, V>, tiling.blocks, tiling.threads(), bytes, shape,
           tiling, x, pooled);
  });
}

template <class T, class Launch>
void pool_backward(const Launch& launch, const Shape& shape, bool channels_last, const T* x,
                   const Acc<T>* d_pooled, T* dx) {
  with_layout<T>(shape, channels_last, {x, dx}, [&](auto layout, auto vector) {
    constexpr bool kChannelsLast = decltype(layout)::value;
    constexpr int V = decltype(vector)::value;
    const Tiling tiling = reduce_tiling(shape, kChannelsLast, V);
    const int64_t bytes = fold_elements(tiling, kChannelsLast) * sizeof(Candidate<Acc<T>>) +
                          tiling.pixels * sizeof(int);
    launch(pool_backward_kernel<T, kChannelsLast, V>, tiling.blocks, tiling.threads(), bytes, shape,
           tiling, x, d_pooled, dx);
  });
}

// pooled -> map, y. bias may be null.
template <class T, class Launch>
void conv_gate(const Launch& launch, const Shape& shape, bool channels_last, int k, const T* x,
               const Acc<T>* pooled, const Acc<T>* weight, const Acc<T>* bias, T* y, Acc<T>* map) {
  with_layout<T>(shape, channels_last, {x, y}, [&](auto layout, auto vector) {
    constexpr bool kChannelsLast = decltype(layout)::value;
    constexpr int V = decltype(vector)::value;
    const Tiling tiling = stream_tiling(shape, kChannelsLast, V);
    const int64_t bytes = stencil_elements(tiling, k, 2, 1) * sizeof(Acc<T>);
    launch(conv_gate_kernel<T, kChannelsLast, V, true>, tiling.blocks, tiling.threads(), bytes,
           shape, tiling, k, x, pooled, weight, bias, y, map);
  });
}

// The same for the map alone.
template <class Real, class Launch>
void conv_map(const Launch& launch, const Shape& shape, int k, const Real* pooled,
              const Real* weight, const Real* bias, Real* map) {
  const Tiling tiling = pixel_tiling(shape);
  const int64_t bytes = stencil_elements(tiling, k, 2, 1) * sizeof(Real);
  launch(conv_gate_kernel<Real, true, 1, false>, tiling.blocks, tiling.threads(), bytes, shape,
         tiling, k, nullptr, pooled, weight, bias, nullptr, map);
}

// d_logit, pooled -> d_weight, d_bias. partial: weight_partials(shape, k) elements of workspace.
template <class Real, class Launch>
void conv_weight_backward(const Launch& launch, const Shape& shape, int k, const Real* d_logit,
                          const Real* pooled, Real* partial, Real* d_weight, Real* d_bias) {
  const Tiling tiling = weight_tiling(shape, k);
  const int64_t bytes = stencil_elements(tiling, k, 2, 1) * sizeof(Real);
  launch(d_weight_partial_kernel<Real>, tiling.blocks, tiling.threads(), bytes, shape, tiling, k,
         d_logit, pooled, partial);
  const int threads = kSumTaps * power_of_two(tiling.blocks, kSumParts);
  launch(d_weight_sum_kernel<Real>, ceil_div(weight_taps(k), kSumTaps), threads,
         threads * sizeof(Real), static_cast<int>(tiling.blocks), k, partial, d_weight, d_bias);
}

// x, weight, bias -> y, map, pooled.
template <class T, class Launch>
void spatial_gate(const Launch& launch, const Shape& shape, bool channels_last, int k, const T* x,
                  const Acc<T>* weight, const Acc<T>* bias, T* y, Acc<T>* map, Acc<T>* pooled) {
  pool(launch, shape, channels_last, x, pooled);
  conv_gate(launch, shape, channels_last, k, x, pooled, weight, bias, y, map);
}

// Workspace: d_logit (N, 1, H, W), argmax (N, 1, H, W), partial.
template <class T, class Launch>
void spatial_gate_backward(const Launch& launch, const Shape& shape, bool channels_last, int k,
                           const T* dy, const T* x, const Acc<T>* weight, const Acc<T>* map,
                           const Acc<T>* pooled, Acc<T>* d_logit, int* argmax, Acc<T>* partial,
                           T* dx, Acc<T>* d_weight, Acc<T>* d_bias) {
  with_layout<T>(shape, channels_last, {dy, x, dx}, [&](auto layout, auto vector) {
    constexpr bool kChannelsLast = decltype(layout)::value;
    constexpr int V = decltype(vector)::value;
    Tiling tiling = reduce_tiling(shape, kChannelsLast, V);
    int64_t bytes = fold_elements(tiling, kChannelsLast) * sizeof(GateStat<Acc<T>>);
    launch(d_logit_kernel<T, kChannelsLast, V>, tiling.blocks, tiling.threads(), bytes, shape,
           tiling, dy, x, map, pooled, d_logit, argmax);
    tiling = stream_tiling(shape, kChannelsLast, V);
    bytes = stencil_elements(tiling, k, 1, 2) * sizeof(Acc<T>);
    launch(d_input_kernel<T, kChannelsLast, V>, tiling.blocks, tiling.threads(), bytes, shape,
           tiling, k, dy, weight, map, d_logit, argmax, dx);
  });
  conv_weight_backward(launch, shape, k, d_logit, pooled, partial, d_weight, d_bias);
}

// x, weight, bias -> map, pooled.
template <class T, class Launch>
void spatial_attention(const Launch& launch, const Shape& shape, bool channels_last, int k,
                       const T* x, const Acc<T>* weight, const Acc<T>* bias, Acc<T>* map,
                       Acc<T>* pooled) {
  pool(launch, shape, channels_last, x, pooled);
  conv_map(launch, shape, k, pooled, weight, bias, map);
}

// Workspace: d_logit (N, 1, H, W), d_pooled (N, 2, H, W), partial.
template <class T, class Launch>
void spatial_attention_backward(const Launch& launch, const Shape& shape, bool channels_last, int k,
                                const Acc<T>* d_map, const T* x, const Acc<T>* weight,
                                const Acc<T>* map, const Acc<T>* pooled, Acc<T>* d_logit,
                                Acc<T>* d_pooled, Acc<T>* partial, T* dx, Acc<T>* d_weight,
                                Acc<T>* d_bias) {
  const Tiling tiling = pixel_tiling(shape);
  const int64_t bytes = stencil_elements(tiling, k, 1, 0) * sizeof(Acc<T>);
  launch(d_pooled_kernel<Acc<T>>, tiling.blocks, tiling.threads(), bytes, shape, tiling, k, d_map,
         map, weight, d_logit, d_pooled);
  pool_backward(launch, shape, channels_last, x, d_pooled, dx);
  conv_weight_backward(launch, shape, k, d_logit, pooled, partial, d_weight, d_bias);
}

}  // namespace attn_kernels
