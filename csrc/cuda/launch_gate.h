// The launches of spatial_gate and its gradient: three kernels after one another, or, of launchers
// that say kOrdered, where x is large one that does the work of all three (ordered.h). Both run the
// same items, so that the results are the same bits.
#pragma once

#include "launch.h"
#include "ordered.h"

namespace attn_kernels {

// What the ordered launch calls, item by item.
template <class Op, bool kChannelsLast, int V>
struct ReduceItems {
  Op op;
  __device__ void operator()(unsigned item) const { reduce_item<Op, kChannelsLast, V>(op, item); }
};

template <class Real>
struct MapItems {
  MapArguments<Real> arguments;
  __device__ void operator()(unsigned item) const { map_item(arguments, item); }
};

template <class T, bool kChannelsLast, int V, bool kView, bool kTail>
struct GateItems {
  GateArguments<T> arguments;
  __device__ void operator()(unsigned item) const {
    gate_item<T, kChannelsLast, V, true, kView, kTail, false>(arguments, item);
  }
};

template <class Real>
struct PooledGradientItems {
  PooledGradientArguments<Real> arguments;
  __device__ void operator()(unsigned item) const { pooled_gradient_item(arguments, item); }
};

template <class T, bool kChannelsLast, int V, bool kView>
struct InputGradientItems {
  InputGradientArguments<T> arguments;
  __device__ void operator()(unsigned item) const {
    input_gradient_item<T, kChannelsLast, V, true, true, kView, false>(arguments, item);
  }
};

// `stage`, to be called item by item.
template <class Items, class Arguments>
Stage<Items> by_item(const Stage<Arguments>& stage) {
  return {{stage.arguments}, stage.blocks, stage.threads, stage.shared_bytes};
}

template <class T>
int64_t bytes_of(const Shape& shape) {
  return shape.n * shape.c * shape.hw * static_cast<int64_t>(sizeof(T));
}

// Can maps like x go the ordered way? Those whose vectors straddle two channels can't where there
// is an affine view, nor those in float64: rare, and each would be a kernel of its own.
template <class T>
bool can_be_ordered(const Device& device, const Layout<T>& layout, bool view) {
  constexpr int kFull = 16 / sizeof(T);
  return sizeof(T) < 8 && bytes_of<T>(layout.shape) > device.l2_bytes && layout.fits(kFull) &&
         !(view && !layout.channels_last && row_group(layout.shape.hw, kFull) > 1);
}

// Calls run(channels_last, view, flag) with compile-time constants.
template <class Run>
void with_flags(bool channels_last, bool view, bool flag, Run run) {
  with_flag(channels_last, [&](auto a) {
    with_flag(view, [&](auto b) { with_flag(flag, [&](auto c) { run(a, b, c); }); });
  });
}

// counters: ordered_counters() elements of workspace, of launchers that say kOrdered.

template <class T>
struct SpatialGate {
  SpatialAttention<T> attention;
  const T* residual;  // may be null
  bool relu;
  T* y;
  unsigned* counters;
};

// The one launch, if it pays; says whether it ran.
template <class T, class Launch>
bool ordered_spatial_gate(const Launch& launch, const Shape& shape, bool channels_last,
                          const SpatialGate<T>& op) {
  using Real = Acc<T>;
  const SpatialAttention<T>& of = op.attention;
  const bool has_view = of.scale != nullptr;
  const Device device = launch.device();
  if (!can_be_ordered<T>(device, {shape, channels_last, {of.x, op.residual, op.y}}, has_view)) {
    return false;
  }
  bool ran = false;
  const bool has_tail = op.residual != nullptr || op.relu;
  with_flags(channels_last, has_view, has_tail, [&](auto order, auto view, auto tail) {
    constexpr bool kChannelsLast = decltype(order)::value, kView = decltype(view)::value;
    constexpr int V = 16 / sizeof(T);
    using Op = Pool<T, Acc<T>, kView>;
    const auto first = reduce_stage<kChannelsLast, V>(
        Op{{shape, {}, of.x, of.scale, of.shift, nullptr}, of.pooled});
    const Real* pooled = of.pooled;
    const auto stencil = map_stage<Real>(shape, of.conv, pooled, of.map);
    const int64_t wanted = ceil_div(bytes_of<T>(shape), kOrderedItemBytes);
    const Tiling tiling = stream_tiling(shape, kChannelsLast, V, 0, wanted);
    const Stage<GateItems<T, kChannelsLast, V, kView, decltype(tail)::value>> second{
        {{shape, tiling, of.x, of.map, of.scale, of.shift, op.residual, op.y, op.relu}},
        tiling.blocks,
        tiling.threads(),
        0};
    ran = launch_ordered(launch, {shape.n, bytes_of<T>(shape), bytes_of<T>(shape)},
                         first.arguments.tiling.chunks,
                         by_item<ReduceItems<Op, kChannelsLast, V>>(first),
                         by_item<MapItems<Real>>(stencil), second, op.counters);
  });
  return ran;
}

template <class T, class Launch>
void spatial_gate(const Launch& launch, const Shape& shape, bool channels_last,
                  const SpatialGate<T>& op) {
  if constexpr (Launch::kOrdered && sizeof(T) < 8) {
    if (ordered_spatial_gate(launch, shape, channels_last, op)) return;
  }
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
  unsigned* counters;
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

// The one launch of dr, d_logit, argmax, d_pooled and dx, if it pays; says whether it ran.
template <class T, class Launch>
bool ordered_input_gradient(const Launch& launch, const Shape& shape, bool channels_last,
                            const SpatialGateBackward<T>& op, InputGradientArguments<T> arguments) {
  const SpatialGradient<T>& of = op.gradient;
  const bool has_view = of.scale != nullptr;
  const Device device = launch.device();
  const Layout<T> layout{shape, channels_last, {op.dy, of.x, op.y, op.dr, of.dx}};
  if (!can_be_ordered<T>(device, layout, has_view)) return false;
  bool ran = false;
  with_flags(channels_last, has_view, op.y != nullptr, [&](auto order, auto view, auto relu) {
    constexpr bool kChannelsLast = decltype(order)::value, kView = decltype(view)::value;
    constexpr int V = 16 / sizeof(T);
    using Real = Acc<T>;
    using Op = GateGradient<T, kView, decltype(relu)::value>;
    const auto first =
        reduce_stage<kChannelsLast, V>(Op{{shape, {}, of.x, of.scale, of.shift, nullptr},
                                          op.dy,
                                          op.y,
                                          of.map,
                                          of.pooled,
                                          op.dr,
                                          of.d_logit,
                                          of.argmax});
    // With a view x is read twice, too.
    const int64_t map_bytes = bytes_of<T>(shape), bytes = map_bytes * (kView ? 2 : 1);
    const auto stencil =
        pooled_gradient_stage<Real>(shape, of.conv, nullptr, nullptr, of.d_logit, of.d_pooled);
    auto second = input_gradient_stage(kChannelsLast, V, arguments, of.view);
    if constexpr (!kView) {
      const int64_t wanted = ceil_div(bytes_of<T>(shape), kOrderedItemBytes);
      const Tiling tiling = stream_tiling(shape, kChannelsLast, V, 0, wanted);
      second.arguments.tiling = tiling;
      second.blocks = tiling.blocks;
    }
    ran = launch_ordered(launch, {shape.n, bytes, map_bytes}, first.arguments.tiling.chunks,
                         by_item<ReduceItems<Op, kChannelsLast, V>>(first),
                         by_item<PooledGradientItems<Real>>(stencil),
                         by_item<InputGradientItems<T, kChannelsLast, V, kView>>(second),
                         op.counters);
    if (ran) sum_tiles(launch, second.arguments, of.view);
  });
  return ran;
}

template <class T, class Launch>
void spatial_gate_backward(const Launch& launch, const Shape& shape, bool channels_last,
                           const SpatialGateBackward<T>& op) {
  const SpatialGradient<T>& of = op.gradient;
  const T* dr = op.y != nullptr ? op.dr : op.dy;
  const InputGradientArguments<T> arguments{
      shape, {}, dr, of.x, of.map, of.d_pooled, of.argmax, of.scale, of.dx, nullptr, nullptr};
  bool ran = false;
  if constexpr (Launch::kOrdered && sizeof(T) < 8) {
    ran = ordered_input_gradient(launch, shape, channels_last, op, arguments);
  }
  if (!ran) {
    gate_gradient(launch, shape, channels_last, op);
    pooled_gradient<Acc<T>>(launch, shape, of.conv, nullptr, nullptr, of.d_logit, of.d_pooled);
    input_gradient<true, T>(launch, channels_last, arguments, of.view);
  }
  weight_gradient<Acc<T>>(launch, shape, of.conv, of.d_logit, of.pooled, of.weights, of.d_weight,
                          of.d_bias);
}

}  // namespace attn_kernels
