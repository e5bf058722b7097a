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
  STD_TORCH_CHECK(statistics > 0 && statistics <= kAllStatistics,
                  "attn_kernels: statistics must be the sum of some of 1, 2, 4, 8, got ",
                  statistics);
  const auto wants = [&](Statistic s) { return (statistics & s) != 0; };
  const Tensor mean = per_channel(x, x.acc_dtype(), wants(kMean));
  const Tensor var = per_channel(x, x.acc_dtype(), wants(kVar));
  const Tensor max = per_channel(x, x.acc_dtype(), wants(kMax));
  const Tensor min = per_channel(x, x.acc_dtype(), wants(kMin));
  const Tensor argmax = per_channel(x, ScalarType::Long, wants(kMax));
  const Tensor argmin = per_channel(x, ScalarType::Long, wants(kMin));
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    const auto to = [&](const Tensor& result, Statistic s) {
      return wants(s) ? data<A>(result) : nullptr;
    };
    const auto place = [&](const Tensor& result, Statistic s) {
      return wants(s) ? data<int64_t>(result) : nullptr;
    };
    run_planes(kernels<T>().squeeze,
               Squeeze<T>{summing_planes(x), data<T>(x.tensor), to(mean, kMean), to(var, kVar),
                          to(max, kMax), to(min, kMin), place(argmax, kMax), place(argmin, kMin)});
  });
  return {mean, var, max, min, argmax, argmin};
}

// The places of an extreme, which come together with its gradient.
const int64_t* places(const char* name, const std::optional<Tensor>& at,
                      const std::optional<Tensor>& gradient, const FeatureMap& x) {
  STD_TORCH_CHECK(at.has_value() == gradient.has_value(), "attn_kernels: ", name,
                  " and its gradient come together");
  if (!at) return nullptr;
  STD_TORCH_CHECK(at->scalar_type() == ScalarType::Long && at->is_contiguous() && at->dim() == 2 &&
                      at->size(0) == x.n && at->size(1) == x.c,
                  "attn_kernels: ", name, " must be (N, C), contiguous and int64");
  return data<int64_t>(*at);
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
