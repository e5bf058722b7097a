// channel_pool and its gradient on CUDA: host side. Kernels: channel_pool.cuh.
#include "host.h"

namespace attn_kernels {
namespace {

Tensor channel_pool_cuda(const Tensor& x) {
  const FeatureMap input = cuda_feature_map(x);
  const Shape shape = shape_of(input);
  const CudaLaunch launch(x);
  const Tensor pooled = empty_planes(input, 2, x.scalar_type());
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    pool(launch, shape, input.channels_last, in<T>(input.tensor), out<T>(pooled));
  });
  return pooled;
}

Tensor channel_pool_backward_cuda(const Tensor& d_pooled, const Tensor& x) {
  const FeatureMap input = cuda_feature_map(x);
  const Shape shape = shape_of(input);
  const CudaLaunch launch(x);
  const Tensor gradient = planes_gradient("d_pooled", d_pooled, 2, input);
  const Tensor dx = empty_like(input);
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    pool_backward(launch, shape, input.channels_last, in<T>(input.tensor), in<Acc<T>>(gradient),
                  out<T>(dx));
  });
  return dx;
}

}  // namespace
}  // namespace attn_kernels

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CUDA, m) {
  m.impl("channel_pool", TORCH_BOX(&attn_kernels::channel_pool_cuda));
  m.impl("channel_pool_backward", TORCH_BOX(&attn_kernels::channel_pool_backward_cuda));
}
