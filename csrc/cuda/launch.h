// What runs after what: the launches of every op, without torch. The caller brings the memory and a
// `launch(kernel, blocks, threads, shared_bytes, arguments...)`, so that tests run these very
// lines.
//
// Pointers named as in the kernels' files, which also give the shapes. scale and shift are null
// without an affine view.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "channel_pool.cuh"
#include "conv_weight.cuh"
#include "gate.cuh"
#include "gate_gradient.cuh"
#include "input_gradient.cuh"
#include "stencil.cuh"

namespace attn_kernels {

// Of x: how it lies in memory, and the pointers that decide how wide it can be moved.
template <class T>
struct Layout {
  Shape shape;
  bool channels_last;
  std::initializer_list<const T*> tensors;

  bool aligned(int vector) const {
    return std::all_of(tensors.begin(), tensors.end(), [=](const T* tensor) {
      return reinterpret_cast<std::uintptr_t>(tensor) % (vector * sizeof(T)) == 0;
    });
  }
  // Can vectors of V be moved? With NCHW they may straddle two channels, not three.
  bool fits(int vector) const {
    if (!aligned(vector)) return false;
    if (channels_last) return shape.c % vector == 0;
    const int group = row_group(shape.hw, vector);
    return group == 1 || (shape.c % group == 0 && shape.hw >= vector);
  }
};

template <bool kValue>
using Bool = std::integral_constant<bool, kValue>;

// Calls run(channels_last, vector) with compile-time constants: 16 bytes at a time where rows and
// pointers allow, 8 for half precision in channels_last where only that does, else single elements.
template <class T, class Run>
void with_layout(const Layout<T>& layout, Run run) {
  constexpr int kFull = 16 / sizeof(T);
  const auto with_vector = [&](auto order) {
    if (layout.fits(kFull)) return run(order, Int<kFull>());
    if constexpr (sizeof(T) == 2 && decltype(order)::value) {
      if (layout.fits(4)) return run(order, Int<4>());
    }
    return run(order, Int<1>());
  };
  layout.channels_last ? with_vector(Bool<true>()) : with_vector(Bool<false>());
}

template <class Run>
void with_flag(bool flag, Run run) {
  flag ? run(Bool<true>()) : run(Bool<false>());
}

// What reductions that share out the channels want as workspace, in Acc<T>: two for each pixel and
// chunk. Whatever the pointers.
template <class T>
int64_t reduce_partials(const Shape& shape, bool channels_last) {
  int64_t most = 0;
  for (int vector = 1; vector * sizeof(T) <= 16; vector *= 2) {
    if (channels_last && shape.c % vector != 0) continue;
    if (!channels_last && shape.c % row_group(shape.hw, vector) != 0) continue;
    const int chunks = reduce_tiling(shape, channels_last, vector, 2 * sizeof(Acc<T>)).chunks;
    if (chunks > 1) most = std::max(most, chunks * 2 * shape.n * shape.hw);
  }
  return most;
}

// What a launch is made of.
template <class Arguments>
struct Stage {
  Arguments arguments;
  int64_t blocks;
  int threads;
  int64_t shared_bytes;

  template <class Launch>
  void operator()(const Launch& launch, void (*kernel)(Arguments)) const {
    launch(kernel, blocks, threads, shared_bytes, arguments);
  }
};

// A reduction (reduce.cuh) whose tiling is yet to be made.
template <bool kChannelsLast, int V, class Op>
Stage<Op> reduce_stage(Op op) {
  constexpr int64_t kStat = sizeof(typename Op::Stat);
  static_assert(kStat == 2 * sizeof(typename Op::Real), "as reduce_partials has it");
  op.tiling = reduce_tiling(op.shape, kChannelsLast, V, kStat);
  return {op, op.tiling.blocks, op.tiling.threads(),
          fold_bytes(op.tiling, kChannelsLast, V, kStat)};
}

template <bool kChannelsLast, int V, class Launch, class Op>
void reduce(const Launch& launch, Op of) {
  const Stage<Op> stage = reduce_stage<kChannelsLast, V>(of);
  stage(launch, reduce_kernel<Op, kChannelsLast, V>);
  const Op& op = stage.arguments;
  if (op.tiling.chunks == 1) return;
  const int64_t tiles = ceil_div(op.shape.hw, kThreads);
  launch(fold_kernel<Op>, op.shape.n * tiles, kThreads, 0, op, static_cast<unsigned>(tiles));
}

// x -> pooled.
template <class T, class Out, class Launch>
void pool(const Launch& launch, const Shape& shape, bool channels_last, const T* x,
          const Acc<T>* scale, const Acc<T>* shift, Acc<T>* partial, Out* pooled) {
  with_layout<T>({shape, channels_last, {x}}, [&](auto order, auto vector) {
    with_flag(scale != nullptr, [&](auto view) {
      using Op = Pool<T, Out, decltype(view)::value>;
      auto* stats = reinterpret_cast<typename Op::Stat*>(partial);
      reduce<decltype(order)::value, decltype(vector)::value>(
          launch, Op{{shape, {}, x, scale, shift, stats}, pooled});
    });
  });
}

// x -> argmax.
template <class T, class Launch>
void find_argmax(const Launch& launch, const Shape& shape, bool channels_last, const T* x,
                 const Acc<T>* scale, const Acc<T>* shift, Acc<T>* partial, int* argmax) {
  with_layout<T>({shape, channels_last, {x}}, [&](auto order, auto vector) {
    with_flag(scale != nullptr, [&](auto view) {
      using Op = ArgMax<T, decltype(view)::value>;
      auto* stats = reinterpret_cast<typename Op::Stat*>(partial);
      reduce<decltype(order)::value, decltype(vector)::value>(
          launch, Op{{shape, {}, x, scale, shift, stats}, argmax});
    });
  });
}

// Weights of the convolution: (groups, 2, K, K) and, or null, (groups).
template <class Real>
struct Convolution {
  int k;
  int64_t groups;
  const Real *weight, *bias;

  // That share weights: of a batch of `n`. (There is no group only in an empty batch.)
  unsigned images(int64_t n) const {
    return static_cast<unsigned>(n / std::max(groups, int64_t{1}));
  }
};

// Elements of shared memory of a stencil, with windows of `in` planes and results of `out`.
inline int64_t stencil_elements(const StencilTiling& tiling, int k, int in, int out) {
  const int64_t parts = (tiling.parts - 1) << tiling.quad_bits;
  return padded_taps(k) + in * window_elements(tiling, k) + out * kQuad * parts;
}

// pooled -> map.
template <class Real>
Stage<MapArguments<Real>> map_stage(const Shape& shape, const Convolution<Real>& conv,
                                    const Real* pooled, Real* map) {
  const StencilTiling tiling = stencil_tiling(shape, conv.k);
  const int64_t elements = stencil_elements(tiling, conv.k, 2, 1);
  return {{shape, tiling, conv.k, conv.images(shape.n), pooled, conv.weight, conv.bias, map},
          tiling.blocks,
          tiling.threads,
          elements * static_cast<int64_t>(sizeof(Real))};
}

template <class Real, class Launch>
void map_of_pooled(const Launch& launch, const Shape& shape, const Convolution<Real>& conv,
                   const Real* pooled, Real* map) {
  map_stage(shape, conv, pooled, map)(launch, map_kernel<Real>);
}

// d_logit -> d_pooled; or d_map, map -> d_logit, d_pooled.
template <class Real>
Stage<PooledGradientArguments<Real>> pooled_gradient_stage(const Shape& shape,
                                                           const Convolution<Real>& conv,
                                                           const Real* d_map, const Real* map,
                                                           Real* d_logit, Real* d_pooled) {
  const StencilTiling tiling = stencil_tiling(shape, conv.k);
  const int64_t elements = stencil_elements(tiling, conv.k, 1, 2);
  return {{shape, tiling, conv.k, conv.images(shape.n), d_map, map, conv.weight, d_logit, d_pooled},
          tiling.blocks,
          tiling.threads,
          elements * static_cast<int64_t>(sizeof(Real))};
}

template <class Real, class Launch>
void pooled_gradient(const Launch& launch, const Shape& shape, const Convolution<Real>& conv,
                     const Real* d_map, const Real* map, Real* d_logit, Real* d_pooled) {
  pooled_gradient_stage(shape, conv, d_map, map, d_logit, d_pooled)(launch,
                                                                    pooled_gradient_kernel<Real>);
}

template <class Real>
int64_t weight_bytes(const StencilTiling& tiling, int k) {
  const int64_t window = 2 * window_elements(tiling, k) + tiling.rows * tiling.pitch;
  const int64_t fold = kWeightRows / 2 * 2 * k * (k + 1);
  return std::max(window, fold) * sizeof(Real);
}

// d_logit, pooled -> d_weight, d_bias. partial: weight_partials() elements of workspace.
template <class Real, class Launch>
void weight_gradient(const Launch& launch, const Shape& shape, const Convolution<Real>& conv,
                     const Real* d_logit, const Real* pooled, Real* partial, Real* d_weight,
                     Real* d_bias) {
  const int k = conv.k;
  const WeightArguments<Real> arguments{
      shape, weight_tiling(shape, k, conv.groups), k, d_logit, pooled, partial};
  const StencilTiling& tiling = arguments.tiling.stencil;
  const int64_t bytes = weight_bytes<Real>(tiling, k);
  const auto run = [&](auto kernel) {
    launch(kernel, tiling.blocks, tiling.threads, bytes, arguments);
  };
  if (k == 3) {
    run(weight_kernel<3, Real>);
  } else if (k == 7) {
    run(weight_kernel<7, Real>);
  } else {
    run(weight_kernel<kLargestK, Real>);
  }
  const int64_t rows = arguments.tiling.rows;
  const int threads = kSumTaps * static_cast<int>(std::clamp<int64_t>(rows, 4, kSumParts));
  launch(weight_sum_kernel<Real>, conv.groups * ceil_div(weight_taps(k), kSumTaps), threads,
         threads * sizeof(Real), static_cast<int>(rows), k, partial, d_weight, d_bias);
}

// x, map -> y. scale, shift and residual may be null. Without a map only shift and residual.
// kMayHaveTail: where false there is neither residual nor ReLU.
template <class T, bool kMap = true, bool kMayHaveTail = true, class Launch>
void gate(const Launch& launch, bool channels_last, GateArguments<T> arguments) {
  const Layout<T> layout{
      arguments.shape, channels_last, {arguments.x, arguments.residual, arguments.y}};
  with_layout<T>(layout, [&](auto order, auto vector) {
    constexpr bool kChannelsLast = decltype(order)::value;
    constexpr int V = decltype(vector)::value;
    arguments.tiling = stream_tiling(arguments.shape, kChannelsLast, V);
    const auto run = [&](auto kernel) {
      launch(kernel, arguments.tiling.blocks, arguments.tiling.threads(), 0, arguments);
    };
    const auto with_tail = [&](auto tail) {
      constexpr bool kTail = decltype(tail)::value;
      if constexpr (kMap) {
        if (arguments.scale == nullptr) {
          return run(gate_kernel<T, kChannelsLast, V, true, false, kTail, false>);
        }
      }
      if constexpr (!kChannelsLast && V > 1) {
        if (arguments.tiling.group > 1) {
          return run(gate_kernel<T, kChannelsLast, V, kMap, true, kTail, true>);
        }
      }
      run(gate_kernel<T, kChannelsLast, V, kMap, true, kTail, false>);
    };
    if constexpr (kMayHaveTail) {
      with_flag(arguments.residual != nullptr || arguments.relu, with_tail);
    } else {
      with_tail(Bool<false>());
    }
  });
}

// Of an affine view: workspace and what leaves. tiles: view_partials() elements.
template <class Real>
struct ViewGradients {
  Real *tiles, *d_scale, *d_shift;
};

// Bytes of shared memory of a view's gradient for a row and a lane.
template <class Real>
constexpr int64_t view_row_bytes(bool split) {
  return sizeof(ViewGradient<Real>) * (split ? 2 : 1);
}

template <class T>
Tiling view_tiling(const Shape& shape, bool channels_last, int vector) {
  const bool split = !channels_last && row_group(shape.hw, vector) > 1;
  return stream_tiling(shape, channels_last, vector, view_row_bytes<Acc<T>>(split));
}

// Workspace of a view's gradient, whatever the pointers.
template <class T>
int64_t view_partials(const Shape& shape, bool channels_last) {
  int64_t most = 0;
  for (int vector = 1; vector * sizeof(T) <= 16; vector *= 2) {
    if (channels_last && shape.c % vector != 0) continue;
    if (!channels_last && shape.c % row_group(shape.hw, vector) != 0) continue;
    most = std::max(most, view_tiling<T>(shape, channels_last, vector).tiles);
  }
  return 2 * most * shape.n * shape.c;
}

// dr, x, map, d_pooled, argmax -> dx, and d_scale, d_shift where there is a view.
template <class T>
Stage<InputGradientArguments<T>> input_gradient_stage(bool channels_last, int vector,
                                                      InputGradientArguments<T> arguments,
                                                      const ViewGradients<Acc<T>>& view) {
  const Shape& shape = arguments.shape;
  if (arguments.scale == nullptr) {
    const Tiling tiling = arguments.tiling = stream_tiling(shape, channels_last, vector);
    return {arguments, tiling.blocks, tiling.threads(), 0};
  }
  const Tiling tiling = arguments.tiling = view_tiling<T>(shape, channels_last, vector);
  const bool whole = tiling.tiles == 1;
  arguments.d_scale = whole ? view.d_scale : view.tiles;
  arguments.d_shift = whole ? view.d_shift : view.tiles + shape.n * tiling.tiles * shape.c;
  const int64_t rows = tiling.channels / tiling.group;
  const int64_t bytes =
      channels_last ? tiling.threads() * vector * static_cast<int64_t>(sizeof(ViewGradient<Acc<T>>))
                    : rows * (tiling.lanes + 1) * view_row_bytes<Acc<T>>(tiling.group > 1);
  return {arguments, tiling.blocks, tiling.threads(), bytes};
}

// The rest of d_scale and d_shift, where an image has several tiles.
template <class T, class Launch>
void sum_tiles(const Launch& launch, const InputGradientArguments<T>& arguments,
               const ViewGradients<Acc<T>>& view) {
  const Shape& shape = arguments.shape;
  if (arguments.scale == nullptr || arguments.tiling.tiles == 1) return;
  launch(sum_tiles_kernel<Acc<T>>, ceil_div(shape.n * shape.c, kThreads), kThreads, 0, shape,
         arguments.tiling, arguments.d_scale, arguments.d_shift, view.d_scale, view.d_shift);
}

// kDr: with dr and map.
template <bool kDr, class T, class Launch>
void input_gradient(const Launch& launch, bool channels_last,
                    const InputGradientArguments<T>& arguments, const ViewGradients<Acc<T>>& view) {
  const bool has_view = arguments.scale != nullptr;
  const Layout<T> layout{arguments.shape,
                         channels_last,
                         {arguments.dr, has_view ? arguments.x : nullptr, arguments.dx}};
  with_layout<T>(layout, [&](auto order, auto vector) {
    constexpr bool kChannelsLast = decltype(order)::value;
    constexpr int V = decltype(vector)::value;
    const auto stage = input_gradient_stage(kChannelsLast, V, arguments, view);
    const bool split = stage.arguments.tiling.group > 1;
    if (!has_view) {
      stage(launch, input_gradient_kernel<T, kChannelsLast, V, kDr, true, false, false>);
    } else if (!split) {
      stage(launch, input_gradient_kernel<T, kChannelsLast, V, kDr, true, true, false>);
    } else if constexpr (!kChannelsLast && V > 1) {
      stage(launch, input_gradient_kernel<T, kChannelsLast, V, kDr, true, true, true>);
    }
    sum_tiles(launch, stage.arguments, view);
  });
}

// The ops. Their workspace: partial, of reduce_partials() elements, in Acc<T>; argmax (N, 1, H, W);
// d_logit (N, 1, H, W) and d_pooled (N, 2, H, W) in Acc<T>; weights, of weight_partials().

template <class T>
struct ChannelPoolBackward {
  const T* x;
  const Acc<T>*d_pooled, *scale, *shift;
  Acc<T>* partial;
  int* argmax;
  T* dx;
  ViewGradients<Acc<T>> view;
};

template <class T, class Launch>
void channel_pool_backward(const Launch& launch, const Shape& shape, bool channels_last,
                           const ChannelPoolBackward<T>& op) {
  find_argmax(launch, shape, channels_last, op.x, op.scale, op.shift, op.partial, op.argmax);
  input_gradient<false, T>(launch, channels_last,
                           {shape,
                            {},
                            nullptr,
                            op.x,
                            nullptr,
                            op.d_pooled,
                            op.argmax,
                            op.scale,
                            op.dx,
                            nullptr,
                            nullptr},
                           op.view);
}

template <class T>
struct SpatialAttention {
  const T* x;
  Convolution<Acc<T>> conv;
  const Acc<T>*scale, *shift;
  Acc<T>* partial;
  Acc<T>*map, *pooled;
};

template <class T, class Launch>
void spatial_attention(const Launch& launch, const Shape& shape, bool channels_last,
                       const SpatialAttention<T>& op) {
  pool(launch, shape, channels_last, op.x, op.scale, op.shift, op.partial, op.pooled);
  map_of_pooled(launch, shape, op.conv, static_cast<const Acc<T>*>(op.pooled), op.map);
}

// What the gradients of all ops with a map have in common.
template <class T>
struct SpatialGradient {
  using Element = T;

  const T* x;
  Convolution<Acc<T>> conv;
  const Acc<T>*map, *pooled, *scale, *shift;
  Acc<T>*partial, *weights, *d_logit, *d_pooled;
  int* argmax;
  T* dx;
  Acc<T>*d_weight, *d_bias;
  ViewGradients<Acc<T>> view;
};

template <class T, class Launch>
void spatial_attention_backward(const Launch& launch, const Shape& shape, bool channels_last,
                                const SpatialGradient<T>& of, const Acc<T>* d_map) {
  pooled_gradient(launch, shape, of.conv, d_map, of.map, of.d_logit, of.d_pooled);
  channel_pool_backward<T>(
      launch, shape, channels_last,
      {of.x, of.d_pooled, of.scale, of.shift, of.partial, of.argmax, of.dx, of.view});
  weight_gradient<Acc<T>>(launch, shape, of.conv, of.d_logit, of.pooled, of.weights, of.d_weight,
                          of.d_bias);
}

}  // namespace attn_kernels
