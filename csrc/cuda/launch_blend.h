// The launches of blend and its gradient, without torch (see launch.h).
#pragma once

#include "blend.cuh"
#include "launch_planes.h"

namespace attn_kernels {

template <class T, class Launch>
void blend(const Launch& launch, bool channels_last, BlendArguments<T> of) {
  with_wide_layout<T>(
      {of.shape, channels_last, {of.x, of.y, of.a, of.z}}, [&](auto order, auto vector) {
        constexpr bool kChannelsLast = decltype(order)::value;
        constexpr int V = decltype(vector)::value;
        of.tiling = stream_tiling(of.shape, kChannelsLast, V);
        launch(blend_kernel<T, kChannelsLast, V>, of.tiling.blocks, of.tiling.threads(), 0, of);
      });
}

// of.partial: affine_gate_sums_partials().
template <class T, class Launch>
void blend_backward(const Launch& launch, bool channels_last, const BlendSums<T>& of) {
  with_wide_layout<T>({of.shape, channels_last, {of.dz, of.x, of.y, of.a, of.dx, of.dy, of.da}},
                      [&](auto order, auto vector) {
                        constexpr bool kChannelsLast = decltype(order)::value;
                        constexpr int V = decltype(vector)::value;
                        reduce_planes<kChannelsLast, V, !kChannelsLast && (V > 1)>(
                            launch, of, sizeof(typename BlendSums<T>::Stat));
                      });
}

}  // namespace attn_kernels
