// affine_gate and the sums of its gradient on CUDA: host side. Kernels: gate.cuh; plane_reduce.cuh
// with gate_sums.cuh; their order: launch_planes.h.
#include <string>

#include "host_planes.h"

namespace attn_kernels {
namespace {

Tensor affine_gate_cuda(const Tensor& x, const Tensor& scale, const std::optional<Tensor>& shift,
                        const std::optional<Tensor>& residual_any, const std::string& activation) {
  const FeatureMap input = cuda_feature_map(x);
  const bool relu = check_activation(activation);
  const CudaLaunch launch(x);
  const std::optional<Tensor> residual = cuda_map("residual", residual_any, input);
  const Tensor y = empty_like(input);
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    gate<T, false>(launch, input.channels_last,
                   {shape_of(input),
                    {},
                    in<T>(input.tensor),
                    nullptr,
                    coefficient<Real>("scale", scale, input),
                    coefficient<Real>("shift", shift, input),
                    in<T>(residual),
                    out<T>(y),
                    relu});
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> affine_gate_sums_cuda(const Tensor& dy_any, const Tensor& x,
                                                         const std::optional<Tensor>& y_any) {
  const FeatureMap input = cuda_feature_map(x);
  const CudaLaunch launch(x);
  const Tensor dy = cuda_map("dy", dy_any, input);
  const std::optional<Tensor> y = cuda_map("y", y_any, input);
  const Tensor d_scale = per_channel(input, input.acc_dtype());
  const Tensor d_shift = per_channel(input, input.acc_dtype());
  const Tensor dr = y ? empty_like(input) : nothing(input, input.dtype());
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    const Shape shape = shape_of(input);
    const int64_t partials = affine_gate_sums_partials<T>(shape, input.channels_last);
    const Tensor partial = empty(input, std::array{2 * partials}, input.acc_dtype());
    affine_gate_sums<T>(launch, shape, input.channels_last,
                        {in<T>(dy), in<T>(input.tensor), in<T>(y),
                         static_cast<GateSumsStat<Real>*>(out<void>(partial)), out<Real>(d_scale),
                         out<Real>(d_shift), y ? out<T>(dr) : nullptr});
  });
  return {d_scale, d_shift, dr};
}

}  // namespace
}  // namespace attn_kernels

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CUDA, m) {
  m.impl("affine_gate", TORCH_BOX(&attn_kernels::affine_gate_cuda));
  m.impl("affine_gate_sums", TORCH_BOX(&attn_kernels::affine_gate_sums_cuda));
}
