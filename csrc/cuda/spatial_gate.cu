// spatial_gate and its gradient on CUDA: host side. Kernels: channel_pool.cuh, spatial_gate.cuh and
// conv_weight.cuh; their order: launch.h.
#include "host.h"

namespace attn_kernels {
namespace {

std::tuple<Tensor, Tensor, Tensor> spatial_gate_cuda(const Tensor& x, const Tensor& weight,
                                                     const std::optional<Tensor>& bias) {
  const FeatureMap input = cuda_feature_map(x);
  const int k = checked_kernel_size(weight, input);
  check_bias(bias, input);
  const Shape shape = shape_of(input);
  const CudaLaunch launch(x);
  const Tensor y = empty_like(input);
  const Tensor map = empty_planes(input, 1, input.acc_dtype());
  const Tensor pooled = empty_planes(input, 2, input.acc_dtype());
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    spatial_gate(launch, shape, input.channels_last, k, in<T>(input.tensor), in<Real>(weight),
                 in<Real>(bias), out<T>(y), out<Real>(map), out<Real>(pooled));
  });
  return {y, map, pooled};
}

std::tuple<Tensor, Tensor, Tensor> spatial_gate_backward_cuda(const Tensor& dy, const Tensor& x,
                                                              const Tensor& weight,
                                                              const Tensor& map,
                                                              const Tensor& pooled) {
  const FeatureMap input = cuda_feature_map(x);
  const int k = checked_kernel_size(weight, input);
  check_saved(map, pooled, input);
  const Shape shape = shape_of(input);
  const CudaLaunch launch(x);
  const Tensor gradient = input_gradient("dy", dy, input);
  const ScalarType acc = input.acc_dtype();
  const Tensor d_logit = empty_planes(input, 1, acc);
  const Tensor argmax = empty_planes(input, 1, ScalarType::Int);
  const Tensor partial = empty(input, std::array{weight_partials(shape, k)}, acc);
  const Tensor dx = empty_like(input);
  const Tensor d_weight = empty(input, std::array<int64_t, 4>{1, 2, k, k}, acc);
  const Tensor d_bias = empty(input, std::array<int64_t, 1>{1}, acc);
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    spatial_gate_backward(launch, shape, input.channels_last, k, in<T>(gradient),
                          in<T>(input.tensor), in<Real>(weight), in<Real>(map), in<Real>(pooled),
                          out<Real>(d_logit), out<int>(argmax), out<Real>(partial), out<T>(dx),
                          out<Real>(d_weight), out<Real>(d_bias));
  });
  return {dx, d_weight, d_bias};
}

}  // namespace
}  // namespace attn_kernels

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CUDA, m) {
  m.impl("spatial_gate", TORCH_BOX(&attn_kernels::spatial_gate_cuda));
  m.impl("spatial_gate_backward", TORCH_BOX(&attn_kernels::spatial_gate_backward_cuda));
}
