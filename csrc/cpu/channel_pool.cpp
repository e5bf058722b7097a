// pooled = cat[mean, max] over channels of f = scale * x + shift: the native CPU kernel of
// channel_pool.
#include <tuple>

#include "spatial.h"

namespace attn_kernels {
namespace {

Tensor channel_pool(const Tensor& x_any, const std::optional<Tensor>& scale,
                    const std::optional<Tensor>& shift) {
  const FeatureMap x = feature_map(x_any);
  check_view(scale, shift, x);
  const Tensor pooled = empty(x, std::array<int64_t, 4>{x.n, 2, x.h, x.w}, x.dtype());
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    run_bands(kernels<T>().channel_pool,
              ChannelPool<T>{make_problem(x), view_of<T>(x, scale, shift), data<T>(pooled)});
  });
  return pooled;
}

std::tuple<Tensor, Tensor, Tensor> channel_pool_backward(const Tensor& d_pooled_any,
                                                         const Tensor& x_any,
                                                         const std::optional<Tensor>& scale,
                                                         const std::optional<Tensor>& shift) {
  const FeatureMap x = feature_map(x_any);
  const bool with_view = check_view(scale, shift, x);
  const Tensor d_pooled = as_statistic(d_pooled_any, x, 2);
  const Tensor dx = empty_like(x);
  const Problem problem = make_backward_problem(x, kNoStencil, with_view);
  ViewGradients view = make_view_gradients(x, problem, with_view);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    run_bands(kernels<T>().channel_pool_backward,
              ChannelPoolBackward<T>{problem,
                                     view_of<T>(x, scale, shift),
                                     data<A>(d_pooled),
                                     {data<T>(dx), nullptr, view.sums.data()}});
    add_units<A>(problem, view);
  });
  return {dx, view.d_scale, view.d_shift};
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("channel_pool", TORCH_BOX(&channel_pool));
  m.impl("channel_pool_backward", TORCH_BOX(&channel_pool_backward));
}

}  // namespace
}  // namespace attn_kernels
