// Statistics over the pixels of every channel, and the pass that writes their gradient: the native
// CPU kernels of squeeze and squeeze_backward.
#include "../common/squeeze.h"

#include <algorithm>
#include <tuple>

#include "planes_launch.h"

namespace attn_kernels {
namespace {

using Statistics = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Statistics squeeze(const Tensor& x_any, int64_t statistics) {
  const FeatureMap x = feature_map(x_any);
  check_statistics(statistics);
  const StatisticsResults to(x, statistics);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    const auto values = [&](const Tensor& result, Statistic s) {
      return to.wants(s) ? data<A>(result) : nullptr;
    };
    const auto places = [&](const Tensor& result, Statistic s) {
      return to.wants(s) ? data<int64_t>(result) : nullptr;
    };
    run_planes(kernels<T>().squeeze,
               Squeeze<T>{summing_planes(x), data<T>(x.tensor), values(to.mean, kMean),
                          values(to.var, kVar), values(to.max, kMax), values(to.min, kMin),
                          places(to.argmax, kMax), places(to.argmin, kMin)});
  });
  return {to.mean, to.var, to.max, to.min, to.argmax, to.argmin};
}

// The places of an extreme, which come together with its gradient.
const int64_t* places(const char* name, const std::optional<Tensor>& at,
                      const std::optional<Tensor>& gradient, const FeatureMap& x) {
  check_extreme(name, at, gradient, x);
  return optional_data<int64_t>(at);
}

// What brings the gradients of statistics to the pixels; each may be absent.
struct Gradients {
  const std::optional<Tensor>&slope, &offset, &argmax, &d_max, &argmin, &d_min;
};

void write_gradient(const FeatureMap& x, const std::optional<Tensor>& dr,
                    const std::optional<Tensor>& scale, const Gradients& g, const Tensor& dx) {
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    run_planes(kernels<T>().squeeze_backward,
               SqueezeBackward<T>{
                   elementwise_planes(x), optional_data<T>(dr), data<T>(x.tensor),
                   coefficient<A>("scale", scale, x), coefficient<A>("slope", g.slope, x),
                   coefficient<A>("offset", g.offset, x), places("argmax", g.argmax, g.d_max, x),
                   coefficient<A>("d_max", g.d_max, x), places("argmin", g.argmin, g.d_min, x),
                   coefficient<A>("d_min", g.d_min, x), data<T>(dx)});
  });
}

Tensor squeeze_backward(const std::optional<Tensor>& dr_any, const Tensor& x_any,
                        const std::optional<Tensor>& scale, const std::optional<Tensor>& slope,
                        const std::optional<Tensor>& offset, const std::optional<Tensor>& argmax,
                        const std::optional<Tensor>& d_max, const std::optional<Tensor>& argmin,
                        const std::optional<Tensor>& d_min) {
  const FeatureMap x = feature_map(x_any);
  STD_TORCH_CHECK(dr_any.has_value() == scale.has_value(),
                  "attn_kernels: dr and scale come together");
  const Tensor dx = empty_like(x);
  write_gradient(x, optional_map(dr_any, x), scale, {slope, offset, argmax, d_max, argmin, d_min},
                 dx);
  return dx;
}

void squeeze_backward_add_(const Tensor& dx_any, const Tensor& x_any,
                           const std::optional<Tensor>& slope, const std::optional<Tensor>& offset,
                           const std::optional<Tensor>& argmax, const std::optional<Tensor>& d_max,
                           const std::optional<Tensor>& argmin,
                           const std::optional<Tensor>& d_min) {
  const FeatureMap x = feature_map(x_any);
  const Tensor dx = laid_out_as(dx_any, x);
  STD_TORCH_CHECK(dx.data_ptr() == dx_any.data_ptr(),
                  "attn_kernels: dx must be dense and in x's memory format");
  const Tensor ones = per_channel(x, x.acc_dtype());
  with_dtype(x, [&](auto t) {
    using A = acc_t<decltype(t)>;
    std::fill_n(data<A>(ones), x.n * x.c, A(1));
  });
  write_gradient(x, dx, ones, {slope, offset, argmax, d_max, argmin, d_min}, dx);
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("squeeze", TORCH_BOX(&squeeze));
  m.impl("squeeze_backward", TORCH_BOX(&squeeze_backward));
  m.impl("squeeze_backward_add_", TORCH_BOX(&squeeze_backward_add_));
}

}  // namespace
}  // namespace attn_kernels
