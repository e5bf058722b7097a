// map = sigmoid(conv(pooled)), the map alone: the native CPU kernel of spatial_attention.
#include "spatial.h"

namespace attn_kernels {
namespace {

std::tuple<Tensor, Tensor> spatial_attention(const Tensor& x_any, const Tensor& weight,
                                             const std::optional<Tensor>& bias) {
  const FeatureMap x = feature_map(x_any);
  const Tensor map = empty(x, std::array<int64_t, 4>{x.n, 1, x.h, x.w}, x.acc_dtype());
  const Tensor pooled = empty(x, std::array<int64_t, 4>{x.n, 2, x.h, x.w}, x.acc_dtype());
  spatial_forward(x, weight, bias, nullptr, map, pooled);
  return {map, pooled};
}

std::tuple<Tensor, Tensor, Tensor> spatial_attention_backward(const Tensor& d_map_any,
                                                              const Tensor& x_any,
                                                              const Tensor& weight,
                                                              const Tensor& map,
                                                              const Tensor& pooled) {
  const FeatureMap x = feature_map(x_any);
  const Tensor d_map = as_statistic(d_map_any, x, 1);
  return spatial_backward(x, nullptr, &d_map, weight, map, pooled);
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("spatial_attention", TORCH_BOX(&spatial_attention));
  m.impl("spatial_attention_backward", TORCH_BOX(&spatial_attention_backward));
}

}  // namespace
}  // namespace attn_kernels
