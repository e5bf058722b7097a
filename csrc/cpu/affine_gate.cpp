// y = act(scale * x + shift + residual): the native CPU kernels of affine_gate and of the sums in
// its backward.
#include <string>
#include <tuple>

#include "planes_launch.h"

namespace attn_kernels {
namespace {

Tensor affine_gate(const Tensor& x_any, const Tensor& scale, const std::optional<Tensor>& shift,
                   const std::optional<Tensor>& residual_any, const std::string& activation) {
  const FeatureMap x = feature_map(x_any);
  STD_TORCH_CHECK(activation == "identity" || activation == "relu",
                  "attn_kernels: activation must be identity or relu, got ", activation);
  const std::optional<Tensor> residual = optional_map(residual_any, x);
  const Tensor y = empty_like(x);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    run_planes(kernels<T>().affine_gate,
               AffineGate<T>{elementwise_planes(x), data<T>(x.tensor),
                             coefficient<A>("scale", scale, x), coefficient<A>("shift", shift, x),
                             optional_data<T>(residual), activation == "relu", data<T>(y)});
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> affine_gate_sums(const Tensor& dy_any, const Tensor& x_any,
                                                    const std::optional<Tensor>& y_any) {
  const FeatureMap x = feature_map(x_any);
  const Tensor dy = laid_out_as(dy_any, x);
  const std::optional<Tensor> y = optional_map(y_any, x);
  const Tensor d_scale = per_channel(x, x.acc_dtype()), d_shift = per_channel(x, x.acc_dtype());
  const Tensor dr = y ? empty_like(x) : per_channel(x, x.dtype(), false);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    run_planes(
        kernels<T>().affine_gate_sums,
        AffineGateSums<T>{summing_planes(x), data<T>(dy), data<T>(x.tensor), optional_data<T>(y),
                          data<A>(d_scale), data<A>(d_shift), data<T>(dr)});
  });
  return {d_scale, d_shift, dr};
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("affine_gate", TORCH_BOX(&affine_gate));
  m.impl("affine_gate_sums", TORCH_BOX(&affine_gate_sums));
}

}  // namespace
}  // namespace attn_kernels
