// map = sigmoid(conv(pooled)), the map alone: the native CPU kernel of spatial_attention.
#include <tuple>

#include "spatial_stencil.h"

namespace attn_kernels {
namespace {

std::tuple<Tensor, Tensor> spatial_attention(const Tensor& x_any, const Tensor& weight,
                                             const std::optional<Tensor>& bias,
                                             const std::optional<Tensor>& scale,
                                             const std::optional<Tensor>& shift) {
  const FeatureMap x = feature_map(x_any);
  const Stencil stencil = check_stencil(weight, bias, x);
  check_view(scale, shift, x);
  const Tensor map = empty(x, std::array<int64_t, 4>{x.n, 1, x.h, x.w}, x.acc_dtype());
  const Tensor pooled = empty(x, std::array<int64_t, 4>{x.n, 2, x.h, x.w}, x.acc_dtype());
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    run_bands(kernels<T>().spatial_forward,
              SpatialForward<T>{make_problem(x, stencil), view_of<T>(x, scale, shift),
                                data<A>(weight), data_or_null<A>(bias), nullptr, false, nullptr,
                                data<A>(map), data<A>(pooled)});
  });
  return {map, pooled};
}

SpatialGradients spatial_attention_backward(const Tensor& d_map_any, const Tensor& x_any,
                                            const Tensor& weight, const Tensor& map,
                                            const Tensor& pooled,
                                            const std::optional<Tensor>& scale,
                                            const std::optional<Tensor>& shift) {
  const FeatureMap x = feature_map(x_any);
  const Tensor d_map = as_statistic(d_map_any, x, 1);
  return spatial_backward(x, {nullptr, &d_map, nullptr, nullptr}, weight, map, pooled, scale,
                          shift);
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("spatial_attention", TORCH_BOX(&spatial_attention));
  m.impl("spatial_attention_backward", TORCH_BOX(&spatial_attention_backward));
}

}  // namespace
}  // namespace attn_kernels
