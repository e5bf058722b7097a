// The launches of squeeze, affine_gate and their gradients, without torch (see launch.h).
#pragma once

#include "gate_sums.cuh"
#include "launch.h"
#include "squeeze.cuh"
#include "squeeze_gradient.cuh"

namespace attn_kernels {

// Calls run(channels_last, vector, straddles): whether vectors may belong to two planes.
template <class T, class Run>
void with_plane_layout(const Layout<T>& layout, Run run) {
  with_layout<T>(layout, [&](auto order, auto vector) {
    if constexpr (!decltype(order)::value && decltype(vector)::value > 1) {
      if (layout.shape.hw % vector != 0) return run(order, vector, Bool<true>());
    }
    run(order, vector, Bool<false>());
  });
}

// For ops of many tensors, with fewer kernels. Calls run(channels_last, vector): 16 bytes, which
// with NCHW may belong to two planes, or single elements, as always in float64.
template <class T, class Run>
void with_wide_layout(const Layout<T>& layout, Run run) {
  constexpr int kFull = sizeof(T) < 8 ? 16 / sizeof(T) : 1;
  with_flag(layout.channels_last, [&](auto order) {
    layout.fits(kFull) ? run(order, Int<kFull>()) : run(order, Int<1>());
  });
}

// Statistics of parts of planes, which a reduction wants as workspace, whatever the pointers.
template <class T>
int64_t plane_partials(const Shape& shape, bool channels_last, int64_t stat_bytes) {
  int64_t most = 0;
  for (int vector = 1; vector * sizeof(T) <= 16; vector *= 2) {
    if (channels_last && shape.c % vector != 0) continue;
    const int parts = plane_tiling(shape, channels_last, vector, stat_bytes).parts;
    if (parts > 1) most = std::max(most, parts * shape.n * shape.c);
  }
  return most;
}

// What a reduction has left in its workspace: statistics of so many parts of each plane; none if
// they are folded.
struct PlaneParts {
  int count;
  int64_t stat_bytes;
};

// stat_bytes: by which the work is cut.
template <bool kChannelsLast, int V, bool kStraddles, class Launch, class Op>
PlaneParts reduce_planes(const Launch& launch, Op op, int64_t stat_bytes, bool fold = true) {
  using Result = typename Op::Result;
  constexpr int64_t kStat = sizeof(typename Op::Stat);
  constexpr int kChannels = kChannelsLast ? V : 1;
  const PlaneTiling tiling = op.tiling = plane_tiling(op.shape, kChannelsLast, V, stat_bytes);
  op.planes = op.shape.n * op.shape.c;
  launch(plane_reduce_kernel<Op, kChannelsLast, V, kStraddles>, tiling.blocks, tiling.threads(),
         tiling.threads() * kChannels * kStat, op);
  if (tiling.parts == 1) return {0, kStat};
  if (!fold) return {tiling.parts, kStat};
  const int threads = kFoldPlanes * kFoldSlots;
  launch(plane_fold_kernel<Result>, ceil_div(op.planes, kFoldPlanes), threads, threads * kStat,
         static_cast<const Result&>(op), tiling.parts);
  return {0, kStat};
}

// Bytes of all statistics: the work is cut the same way for any of them, so that what is found does
// not depend on what else is asked for.
template <class T>
constexpr int64_t kSqueezeBytes = sizeof(SqueezeStat<Acc<T>, true, true>);

// Workspace of squeeze, in bytes.
template <class T>
int64_t squeeze_bytes(const Shape& shape, bool channels_last) {
  return plane_partials<T>(shape, channels_last, kSqueezeBytes<T>) * kSqueezeBytes<T>;
}

// x -> what `to` has a place for. partial: squeeze_bytes() of workspace. Without `fold` parts of
// planes are left there. kMeanAlone: nothing else is ever asked for.
template <class T, bool kMeanAlone = false, class Launch>
PlaneParts squeeze(const Launch& launch, const Shape& shape, bool channels_last, const T* x,
                   void* partial, const Statistics<Acc<T>>& to, bool fold = true) {
  PlaneParts parts;
  with_plane_layout<T>({shape, channels_last, {x}}, [&](auto order, auto vector, auto straddles) {
    constexpr bool kChannelsLast = decltype(order)::value;
    constexpr int V = decltype(vector)::value;
    const auto run = [&](auto var, auto extremes) {
      using Op = Squeeze<T, decltype(var)::value, decltype(extremes)::value>;
      const Op op{{0, shape.hw, static_cast<typename Op::Stat*>(partial), to}, shape, {}, x};
      parts = reduce_planes<kChannelsLast, V, decltype(straddles)::value>(launch, op,
                                                                          kSqueezeBytes<T>, fold);
    };
    if constexpr (kMeanAlone) {
      run(Bool<false>(), Bool<false>());
    } else if constexpr (V * sizeof(T) < 8 || sizeof(T) == 8) {
      run(Bool<true>(), Bool<true>());  // rare: a kernel each is enough
    } else {
      const bool has_extremes = to.max != nullptr || to.min != nullptr;
      with_flag(to.var != nullptr, [&](auto var) {
        with_flag(has_extremes, [&](auto extremes) { run(var, extremes); });
      });
    }
  });
  return parts;
}

template <class T>
struct AffineGateSums {
  const T *dy, *x, *y;  // y: null without a ReLU
  GateSumsStat<Acc<T>>* partial;
  Acc<T>*d_scale, *d_shift;
  T* dr;  // where y is given
};

template <class T>
int64_t affine_gate_sums_partials(const Shape& shape, bool channels_last) {
  return plane_partials<T>(shape, channels_last, sizeof(GateSumsStat<Acc<T>>));
}

template <class T, class Launch>
void affine_gate_sums(const Launch& launch, const Shape& shape, bool channels_last,
                      const AffineGateSums<T>& of) {
  with_flag(of.y != nullptr, [&](auto relu) {
    using Op = GateSums<T, decltype(relu)::value>;
    Op op{{0, of.partial, of.d_scale, of.d_shift}, shape, {}, of.dy, of.x, of.y, of.dr};
    with_plane_layout<T>({shape, channels_last, {of.dy, of.x, of.y, of.dr}}, [&](auto order,
                                                                                 auto vector,
                                                                                 auto straddles) {
      reduce_planes<decltype(order)::value, decltype(vector)::value, decltype(straddles)::value>(
          launch, op, sizeof(typename Op::Stat));
    });
  });
}

// dr, x -> dx.
template <class T, class Launch>
void squeeze_gradient(const Launch& launch, bool channels_last, SqueezeGradientArguments<T> of) {
  const bool extremes = of.max.at != nullptr || of.min.at != nullptr;
  // Without statistics but the mean this is the gate's own formula.
  if (of.dr != nullptr && of.slope == nullptr && !extremes) {
    return gate<T, false, false>(
        launch, channels_last,
        {of.shape, {}, of.dr, nullptr, of.scale, of.offset, nullptr, of.dx, false});
  }
  const T* x = of.slope != nullptr ? of.x : nullptr;
  with_plane_layout<T>(
      {of.shape, channels_last, {of.dr, x, of.dx}}, [&](auto order, auto vector, auto straddles) {
        constexpr bool kChannelsLast = decltype(order)::value;
        // float64 in vectors that straddle channels would take more registers than there are.
        constexpr bool kSplit = decltype(straddles)::value && sizeof(T) < 8;
        constexpr int V = kSplit || !decltype(straddles)::value ? decltype(vector)::value : 1;
        of.tiling = stream_tiling(of.shape, kChannelsLast, V);
        launch(squeeze_gradient_kernel<T, kChannelsLast, V, kSplit>, of.tiling.blocks,
               of.tiling.threads(), 0, of);
      });
}

}  // namespace attn_kernels
