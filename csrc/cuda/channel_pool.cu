// channel_pool and its gradient on CUDA: host side. Kernels: channel_pool.cuh, input_gradient.cuh.
#include "host.h"

namespace attn_kernels {
namespace {

Tensor channel_pool_cuda(const Tensor& x, const std::optional<Tensor>& scale,
                         const std::optional<Tensor>& shift) {
  const FeatureMap input = cuda_feature_map(x);
  const CudaView view(scale, shift, input);
  const CudaLaunch launch(x);
  const Tensor pooled = empty_planes(input, 2, x.scalar_type());
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    const Tensor partial = new_partial<T>(input);
    pool<T>(launch, shape_of(input), input.channels_last, in<T>(input.tensor), view.scale<Real>(),
            view.shift<Real>(), out<Real>(partial), out<T>(pooled));
  });
  return pooled;
}

std::tuple<Tensor, Tensor, Tensor> channel_pool_backward_cuda(const Tensor& d_pooled,
                                                              const Tensor& x,
                                                              const std::optional<Tensor>& scale,
                                                              const std::optional<Tensor>& shift) {
  const FeatureMap input = cuda_feature_map(x);
  const CudaView view(scale, shift, input);
  const CudaLaunch launch(x);
  const Tensor gradient = planes_gradient("d_pooled", d_pooled, 2, input);
  const Tensor dx = empty_like(input);
  const Tensor d_scale = view.new_gradient(input), d_shift = view.new_gradient(input);
  const Tensor argmax = empty_planes(input, 1, ScalarType::Int);
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    const Tensor partial = new_partial<T>(input), tiles = view.new_tiles<T>(input);
    channel_pool_backward<T>(launch, shape_of(input), input.channels_last,
                             {in<T>(input.tensor),
                              in<Real>(gradient),
                              view.scale<Real>(),
                              view.shift<Real>(),
                              out<Real>(partial),
                              out<int>(argmax),
                              out<T>(dx),
                              {out<Real>(tiles), out<Real>(d_scale), out<Real>(d_shift)}});
  });
  return {dx, d_scale, d_shift};
}

}  // namespace
}  // namespace attn_kernels

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CUDA, m) {
  m.impl("channel_pool", TORCH_BOX(&attn_kernels::channel_pool_cuda));
  m.impl("channel_pool_backward", TORCH_BOX(&attn_kernels::channel_pool_backward_cuda));
}
