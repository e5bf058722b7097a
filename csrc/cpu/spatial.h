// spatial_gate and spatial_attention share all but the product: see their .cpp.
#pragma once

#include <tuple>
#include <vector>

#include "launch.h"

namespace attn_kernels {

// map and pooled; y as well, where it is not null.
inline void spatial_forward(const FeatureMap& x, const Tensor& weight,
                            const std::optional<Tensor>& bias, const Tensor* y, const Tensor& map,
                            const Tensor& pooled) {
  const int k = stencil_width(weight, x);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    run_bands(kernels<T>().spatial_forward,
              SpatialForward<T>{make_problem(x, k), data<T>(x.tensor), data<A>(weight),
                                bias ? *data<A>(*bias) : A(0), y ? data<T>(*y) : nullptr,
                                data<A>(map), data<A>(pooled)});
  });
}

// One partial gradient per unit of rows, added up in the order of the units.
template <class T>
void weight_backward(const Problem& problem, const Tensor& d_logit, const Tensor& pooled,
                     const Tensor& d_weight, const Tensor& d_bias) {
  using A = acc_t<T>;
  const int64_t units = problem.n * ((problem.h + kRowsPerPartial - 1) / kRowsPerPartial);
  const int64_t size = 2 * problem.k * problem.k + 1;
  std::vector<A> partials(static_cast<size_t>(units * size));
  const WeightBackward<A> args{problem, data<A>(d_logit), data<A>(pooled), partials.data()};
  const int64_t grain = 16384 / (std::min(problem.h, kRowsPerPartial) * problem.w) + 1;
  torch::stable::parallel_for(0, units, grain, [&](int64_t begin, int64_t end) {
    kernels<T>().weight_backward(args, begin, end);
  });
  for (int64_t i = 0; i < size; ++i) {
    double sum = 0;
    for (int64_t unit = 0; unit < units; ++unit) sum += partials[unit * size + i];
    (i + 1 < size ? data<A>(d_weight)[i] : *data<A>(d_bias)) = static_cast<A>(sum);
  }
}

// Exactly one of dy (dense, as x) and d_map (contiguous, acc dtype) is given.
inline std::tuple<Tensor, Tensor, Tensor> spatial_backward(const FeatureMap& x, const Tensor* dy,
                                                           const Tensor* d_map,
                                                           const Tensor& weight, const Tensor& map,
                                                           const Tensor& pooled) {
  const int k = stencil_width(weight, x);
  check_statistic(map, x, 1);
  check_statistic(pooled, x, 2);
  const Tensor dx = empty_like(x);
  const Tensor d_logit = empty(x, std::array{x.n, x.h, x.w}, x.acc_dtype());
  const Tensor d_weight =
      empty(x, std::array<int64_t, 4>{1, 2, weight.size(2), weight.size(3)}, x.acc_dtype());
  const Tensor d_bias = empty(x, std::array<int64_t, 1>{1}, x.acc_dtype());
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    const Problem problem = make_problem(x, k);
    run_bands(
        kernels<T>().spatial_backward,
        SpatialBackward<T>{problem, dy ? data<T>(*dy) : nullptr, d_map ? data<A>(*d_map) : nullptr,
                           data<T>(x.tensor), data<A>(weight), data<A>(map), data<A>(pooled),
                           data<A>(d_logit), data<T>(dx)});
    weight_backward<T>(problem, d_logit, pooled, d_weight, d_bias);
  });
  return {dx, d_weight, d_bias};
}

}  // namespace attn_kernels
