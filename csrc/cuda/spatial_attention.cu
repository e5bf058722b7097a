// spatial_attention and its gradient on CUDA: host side. Kernels: channel_pool.cuh, stencil.cuh,
// input_gradient.cuh and conv_weight.cuh; their order: launch.h.
#include "host.h"

namespace attn_kernels {
namespace {

std::tuple<Tensor, Tensor> spatial_attention_cuda(const Tensor& x, const Tensor& weight,
                                                  const std::optional<Tensor>& bias,
                                                  const std::optional<Tensor>& scale,
                                                  const std::optional<Tensor>& shift) {
  const FeatureMap input = cuda_feature_map(x);
  const Stencil stencil = cuda_stencil(weight, bias, input);
  const CudaView view(scale, shift, input);
  const CudaLaunch launch(x);
  const Tensor map = empty_planes(input, 1, input.acc_dtype());
  const Tensor pooled = empty_planes(input, 2, input.acc_dtype());
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    const Tensor partial = new_partial<T>(input);
    spatial_attention<T>(
        launch, shape_of(input), input.channels_last,
        {in<T>(input.tensor), convolution<Real>(stencil, weight, bias), view.scale<Real>(),
         view.shift<Real>(), out<Real>(partial), out<Real>(map), out<Real>(pooled)});
  });
  return {map, pooled};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> spatial_attention_backward_cuda(
    const Tensor& d_map, const Tensor& x, const Tensor& weight, const Tensor& map,
    const Tensor& pooled, const std::optional<Tensor>& scale, const std::optional<Tensor>& shift) {
  const CudaSpatialGradient spatial(x, weight, map, pooled, scale, shift);
  const Tensor gradient = planes_gradient("d_map", d_map, 1, spatial.input);
  spatial([&](const CudaLaunch& launch, const Shape& shape, bool channels_last, const auto& of) {
    using T = typename std::decay_t<decltype(of)>::Element;
    spatial_attention_backward<T>(launch, shape, channels_last, of, in<Acc<T>>(gradient));
  });
  return spatial.results();
}

}  // namespace
}  // namespace attn_kernels

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CUDA, m) {
  m.impl("spatial_attention", TORCH_BOX(&attn_kernels::spatial_attention_cuda));
  m.impl("spatial_attention_backward", TORCH_BOX(&attn_kernels::spatial_attention_backward_cuda));
}
