// pooled = cat[mean, max] over channels: the native CPU kernel of channel_pool.
#include "launch.h"

namespace attn_kernels {
namespace {

Tensor channel_pool(const Tensor& x_any) {
  const FeatureMap x = feature_map(x_any);
  const Tensor pooled = empty(x, std::array<int64_t, 4>{x.n, 2, x.h, x.w}, x.dtype());
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    run_bands(kernels<T>().channel_pool,
              ChannelPool<T>{make_problem(x, 1), data<T>(x.tensor), data<T>(pooled)});
  });
  return pooled;
}

Tensor channel_pool_backward(const Tensor& d_pooled_any, const Tensor& x_any) {
  const FeatureMap x = feature_map(x_any);
  const Tensor d_pooled = as_statistic(d_pooled_any, x, 2);
  const Tensor dx = empty_like(x);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    run_bands(kernels<T>().channel_pool_backward,
              ChannelPoolBackward<T>{make_problem(x, 1), data<acc_t<T>>(d_pooled),
                                     data<T>(x.tensor), data<T>(dx)});
  });
  return dx;
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("channel_pool", TORCH_BOX(&channel_pool));
  m.impl("channel_pool_backward", TORCH_BOX(&channel_pool_backward));
}

}  // namespace
}  // namespace attn_kernels
