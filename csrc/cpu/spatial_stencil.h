// What the CPU ops spatial_gate and spatial_attention share: all but the product, see their .cpp.
#pragma once

#include "spatial.h"

namespace attn_kernels {

// One partial gradient per unit of rows, added up in the order of the units.
template <class T>
void weight_backward(const Problem& problem, const Tensor& d_logit, const Tensor& pooled,
                     const Tensor& d_weight, const Tensor& d_bias) {
  using A = acc_t<T>;
  const int64_t units = problem.n * ((problem.h + kRowsPerPartial - 1) / kRowsPerPartial);
  const int64_t taps = 2 * problem.k * problem.k, size = taps + 1;
  std::vector<A> partials(static_cast<size_t>(units * size));
  const WeightBackward<A> args{problem, data<A>(d_logit), data<A>(pooled), partials.data()};
  const int64_t grain = 16384 / (std::min(problem.h, kRowsPerPartial) * problem.w) + 1;
  torch::stable::parallel_for(0, units, grain, [&](int64_t begin, int64_t end) {
    kernels<T>().weight_backward(args, begin, end);
  });
  const int64_t groups = d_bias.numel();
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t i = 0; i < size; ++i) {
      double sum = 0;
      for (int64_t unit = units / groups * g; unit < units / groups * (g + 1); ++unit)
        sum += partials[unit * size + i];
      (i < taps ? data<A>(d_weight)[g * taps + i] : data<A>(d_bias)[g]) = static_cast<A>(sum);
    }
}

// The gradients of x, weight, bias, scale and shift.
using SpatialGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// Exactly one of dy (dense, as x) and d_map (contiguous, acc dtype) is given; y and dr, dense as x,
// where a ReLU was.
struct SpatialUpstream {
  const Tensor *dy, *d_map, *y, *dr;
};

inline SpatialGradients spatial_backward(const FeatureMap& x, const SpatialUpstream& upstream,
                                         const Tensor& weight, const Tensor& map,
                                         const Tensor& pooled, const std::optional<Tensor>& scale,
                                         const std::optional<Tensor>& shift) {
  const Stencil stencil = check_stencil(weight, std::nullopt, x);
  const bool with_view = check_view(scale, shift, x);
  check_statistic(map, x, 1);
  check_statistic(pooled, x, 2);
  const int64_t k = stencil.k;
  const Problem problem = make_backward_problem(x, stencil, with_view);
  const Tensor dx = empty_like(x);
  const Tensor d_logit = empty(x, std::array{x.n, x.h, x.w}, x.acc_dtype());
  const Tensor d_weight = empty(x, std::array<int64_t, 4>{stencil.groups, 2, k, k}, x.acc_dtype());
  const Tensor d_bias = empty(x, std::array{stencil.groups}, x.acc_dtype());
  ViewGradients view = make_view_gradients(x, problem, with_view);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    const auto map_or_null = [](const Tensor* m) { return m ? data<T>(*m) : nullptr; };
    run_bands(kernels<T>().spatial_backward,
              SpatialBackward<T>{problem,
                                 view_of<T>(x, scale, shift),
                                 {map_or_null(upstream.dy), map_or_null(upstream.y)},
                                 upstream.d_map ? data<A>(*upstream.d_map) : nullptr,
                                 data<A>(weight),
                                 data<A>(map),
                                 data<A>(pooled),
                                 data<A>(d_logit),
                                 {data<T>(dx), map_or_null(upstream.dr), view.sums.data()}});
    weight_backward<T>(problem, d_logit, pooled, d_weight, d_bias);
    add_units<A>(problem, view);
  });
  return {dx, d_weight, d_bias, view.d_scale, view.d_shift};
}

}  // namespace attn_kernels
