// spatial_gate and its gradient on CUDA: host side. Kernels: channel_pool.cuh, stencil.cuh and
// gate.cuh; gate_gradient.cuh, stencil.cuh, input_gradient.cuh and conv_weight.cuh; their order:
// launch_gate.h.
#include <string>

#include "host.h"

namespace attn_kernels {
namespace {

std::tuple<Tensor, Tensor, Tensor> spatial_gate_cuda(const Tensor& x, const Tensor& weight,
                                                     const std::optional<Tensor>& bias,
                                                     const std::optional<Tensor>& scale,
                                                     const std::optional<Tensor>& shift,
                                                     const std::optional<Tensor>& residual_any,
                                                     const std::string& activation) {
  const FeatureMap input = cuda_feature_map(x);
  const Stencil stencil = cuda_stencil(weight, bias, input);
  const CudaView view(scale, shift, input);
  const bool relu = check_activation(activation);
  const CudaLaunch launch(x);
  const std::optional<Tensor> residual = cuda_map("residual", residual_any, input);
  const Tensor y = empty_like(input);
  const Tensor map = empty_planes(input, 1, input.acc_dtype());
  const Tensor pooled = empty_planes(input, 2, input.acc_dtype());
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    const Tensor partial = new_partial<T>(input);
    spatial_gate<T>(
        launch, shape_of(input), input.channels_last,
        {{in<T>(input.tensor), convolution<Real>(stencil, weight, bias), view.scale<Real>(),
          view.shift<Real>(), out<Real>(partial), out<Real>(map), out<Real>(pooled)},
         in<T>(residual),
         relu,
         out<T>(y),
         nullptr});
  });
  return {y, map, pooled};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> spatial_gate_backward_cuda(
    const Tensor& dy_any, const Tensor& x, const Tensor& weight, const Tensor& map,
    const Tensor& pooled, const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
    const std::optional<Tensor>& y_any) {
  const CudaSpatialGradient spatial(x, weight, map, pooled, scale, shift);
  const FeatureMap& input = spatial.input;
  const Tensor dy = cuda_map("dy", dy_any, input);
  const std::optional<Tensor> y = cuda_map("y", y_any, input);
  const Tensor dr = y ? empty_like(input) : nothing(input, input.dtype());
  spatial([&](const CudaLaunch& launch, const Shape& shape, bool channels_last, const auto& of) {
    using T = typename std::decay_t<decltype(of)>::Element;
    spatial_gate_backward<T>(launch, shape, channels_last,
                             {of, in<T>(dy), in<T>(y), y ? out<T>(dr) : nullptr, nullptr});
  });
  return std::tuple_cat(spatial.results(), std::tuple(dr));
}

}  // namespace
}  // namespace attn_kernels

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CUDA, m) {
  m.impl("spatial_gate", TORCH_BOX(&attn_kernels::spatial_gate_cuda));
  m.impl("spatial_gate_backward", TORCH_BOX(&attn_kernels::spatial_gate_backward_cuda));
}
