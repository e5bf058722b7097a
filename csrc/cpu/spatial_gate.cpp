// y = act(f * map + residual) with f = scale * x + shift and map = sigmoid(conv(pool(f))): the
// native CPU kernel of spatial_gate.
#include <string>
#include <tuple>

#include "spatial_stencil.h"

namespace attn_kernels {
namespace {

std::tuple<Tensor, Tensor, Tensor> spatial_gate(const Tensor& x_any, const Tensor& weight,
                                                const std::optional<Tensor>& bias,
                                                const std::optional<Tensor>& scale,
                                                const std::optional<Tensor>& shift,
                                                const std::optional<Tensor>& residual_any,
                                                const std::string& activation) {
  const FeatureMap x = feature_map(x_any);
  const Stencil stencil = check_stencil(weight, bias, x);
  check_view(scale, shift, x);
  const bool relu = check_activation(activation);
  std::optional<Tensor> residual;
  if (residual_any) {
    check_same_shape("residual", *residual_any, x);
    residual = laid_out_as(*residual_any, x);
  }
  const Tensor y = empty_like(x);
  const Tensor map = empty(x, std::array<int64_t, 4>{x.n, 1, x.h, x.w}, x.acc_dtype());
  const Tensor pooled = empty(x, std::array<int64_t, 4>{x.n, 2, x.h, x.w}, x.acc_dtype());
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    run_bands(kernels<T>().spatial_forward,
              SpatialForward<T>{make_problem(x, stencil), view_of<T>(x, scale, shift),
                                data<A>(weight), data_or_null<A>(bias), data_or_null<T>(residual),
                                relu, data<T>(y), data<A>(map), data<A>(pooled)});
  });
  return {y, map, pooled};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> spatial_gate_backward(
    const Tensor& dy_any, const Tensor& x_any, const Tensor& weight, const Tensor& map,
    const Tensor& pooled, const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
    const std::optional<Tensor>& y_any) {
  const FeatureMap x = feature_map(x_any);
  check_same_shape("dy", dy_any, x);
  const Tensor dy = laid_out_as(dy_any, x);
  if (!y_any)
    return std::tuple_cat(
        spatial_backward(x, {&dy, nullptr, nullptr, nullptr}, weight, map, pooled, scale, shift),
        std::tuple{nothing(x, x.dtype())});
  check_same_shape("y", *y_any, x);
  const Tensor y = laid_out_as(*y_any, x), dr = empty_like(x);
  return std::tuple_cat(
      spatial_backward(x, {&dy, nullptr, &y, &dr}, weight, map, pooled, scale, shift),
      std::tuple{dr});
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("spatial_gate", TORCH_BOX(&spatial_gate));
  m.impl("spatial_gate_backward", TORCH_BOX(&spatial_gate_backward));
}

}  // namespace
}  // namespace attn_kernels
