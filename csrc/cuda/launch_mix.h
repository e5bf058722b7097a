// The launches of mix, of its squeeze and of their gradients, without torch (see launch.h).
#pragma once

#include "launch_planes.h"
#include "mix.cuh"

namespace attn_kernels {

// A pointer that is aligned as far as every row of every map is.
template <class E>
const E* alignment_of(const MixMaps<E>& maps) {
  auto address = static_cast<std::uintptr_t>(maps.part) * sizeof(E);
  for (int t = 0; t < maps.tensors; ++t) {
    const MixTensor<E>& of = maps.tensor[t];
    address |= reinterpret_cast<std::uintptr_t>(of.data);
    address |= static_cast<std::uintptr_t>(of.image | of.pixel) * sizeof(E);
  }
  return reinterpret_cast<const E*>(address);
}

template <class T, class Launch>
void mix(const Launch& launch, bool channels_last, MixArguments<T> of) {
  with_wide_layout<T>({of.shape, channels_last, {alignment_of(of.x), of.residual, of.y}},
                      [&](auto order, auto vector) {
                        constexpr bool kChannelsLast = decltype(order)::value;
                        constexpr int V = decltype(vector)::value;
                        of.tiling = stream_tiling(of.shape, kChannelsLast, V);
                        launch(mix_kernel<T, kChannelsLast, V>, of.tiling.blocks,
                               of.tiling.threads(), 0, of);
                      });
}

// Statistics that mix_sums wants as workspace, in of.partial.
template <class T>
int64_t mix_sums_partials(const Shape& shape, bool channels_last) {
  return plane_partials<T>(shape, channels_last, sizeof(typename MixSums<T>::Stat));
}

// With of.d_s: dy, y, maps -> d_s, dr. With of.mean, without dy and y: maps -> mean.
template <class T, class Launch>
void mix_sums(const Launch& launch, bool channels_last, MixSums<T> of) {
  of.hw = of.shape.hw;
  of.c = of.shape.c;
  of.maps = of.x.count();
  with_wide_layout<T>({of.shape, channels_last, {alignment_of(of.x), of.dy, of.y, of.dr}},
                      [&](auto order, auto vector) {
                        constexpr bool kChannelsLast = decltype(order)::value;
                        constexpr int V = decltype(vector)::value;
                        for (of.first = 0; of.first < of.maps; of.first += kMixTogether) {
                          reduce_planes<kChannelsLast, V, !kChannelsLast && (V > 1)>(
                              launch, of, sizeof(typename MixSums<T>::Stat));
                          if (of.y != nullptr) of.dy = of.dr;
                          of.y = nullptr;
                        }
                      });
}

template <class T, class Launch>
void mix_gradient(const Launch& launch, bool channels_last, MixGradientArguments<T> of) {
  with_wide_layout<T>({of.shape, channels_last, {of.dr, alignment_of(of.dx)}}, [&](auto order,
                                                                                   auto vector) {
    constexpr bool kChannelsLast = decltype(order)::value;
    constexpr int V = decltype(vector)::value;
    of.tiling = stream_tiling(of.shape, kChannelsLast, V);
    launch(mix_gradient_kernel<T, kChannelsLast, V>, of.tiling.blocks, of.tiling.threads(), 0, of);
  });
}

}  // namespace attn_kernels
