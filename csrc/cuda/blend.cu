// blend and its gradient on CUDA: host side. Kernels: blend.cuh; plane_reduce.cuh with it; their
// order: launch_blend.h.
#include "host_planes.h"
#include "launch_blend.h"

namespace attn_kernels {
namespace {

Tensor blend_cuda(const Tensor& x, const Tensor& y_any, const Tensor& a_any, const Tensor& scale,
                  const Tensor& shift, double factor) {
  const FeatureMap input = cuda_feature_map(x);
  const CudaLaunch launch(x);
  const Tensor y = cuda_map("y", y_any, input), a = cuda_map("a", a_any, input);
  const Tensor z = empty_like(input);
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    blend<T>(launch, input.channels_last,
             {shape_of(input),
              {},
              in<T>(input.tensor),
              in<T>(y),
              in<T>(a),
              coefficient<Real>("scale", scale, input),
              coefficient<Real>("shift", shift, input),
              static_cast<Real>(factor),
              out<T>(z)});
  });
  return z;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> blend_backward_cuda(
    const Tensor& dz_any, const Tensor& x, const Tensor& y_any, const Tensor& a_any,
    const Tensor& scale, const Tensor& shift, double factor) {
  const FeatureMap input = cuda_feature_map(x);
  const CudaLaunch launch(x);
  const Tensor dz = cuda_map("dz", dz_any, input), y = cuda_map("y", y_any, input);
  const Tensor a = cuda_map("a", a_any, input);
  const Tensor dx = empty_like(input), dy = empty_like(input), da = empty_like(input);
  const Tensor d_scale = per_channel(input, input.acc_dtype());
  const Tensor d_shift = per_channel(input, input.acc_dtype());
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    const Shape shape = shape_of(input);
    const int64_t partials = affine_gate_sums_partials<T>(shape, input.channels_last);
    const Tensor partial = empty(input, std::array{2 * partials}, input.acc_dtype());
    blend_backward<T>(launch, input.channels_last,
                      {{0, static_cast<GateSumsStat<Real>*>(out<void>(partial)), out<Real>(d_scale),
                        out<Real>(d_shift)},
                       shape,
                       {},
                       in<T>(dz),
                       in<T>(input.tensor),
                       in<T>(y),
                       in<T>(a),
                       coefficient<Real>("scale", scale, input),
                       coefficient<Real>("shift", shift, input),
                       static_cast<Real>(factor),
                       out<T>(dx),
                       out<T>(dy),
                       out<T>(da)});
  });
  return {dx, dy, da, d_scale, d_shift};
}

}  // namespace
}  // namespace attn_kernels

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CUDA, m) {
  m.impl("blend", TORCH_BOX(&attn_kernels::blend_cuda));
  m.impl("blend_backward", TORCH_BOX(&attn_kernels::blend_backward_cuda));
}
