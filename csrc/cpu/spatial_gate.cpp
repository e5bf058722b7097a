// y = x * map, map = sigmoid(conv(pooled)): the native CPU kernel of spatial_gate.
#include "spatial.h"

namespace attn_kernels {
namespace {

std::tuple<Tensor, Tensor, Tensor> spatial_gate(const Tensor& x_any, const Tensor& weight,
                                                const std::optional<Tensor>& bias) {
  const FeatureMap x = feature_map(x_any);
  const Tensor y = empty_like(x);
  const Tensor map = empty(x, std::array<int64_t, 4>{x.n, 1, x.h, x.w}, x.acc_dtype());
  const Tensor pooled = empty(x, std::array<int64_t, 4>{x.n, 2, x.h, x.w}, x.acc_dtype());
  spatial_forward(x, weight, bias, &y, map, pooled);
  return {y, map, pooled};
}

std::tuple<Tensor, Tensor, Tensor> spatial_gate_backward(const Tensor& dy_any, const Tensor& x_any,
                                                         const Tensor& weight, const Tensor& map,
                                                         const Tensor& pooled) {
  const FeatureMap x = feature_map(x_any);
  const Tensor dy = laid_out_as(dy_any, x);
  return spatial_backward(x, &dy, nullptr, weight, map, pooled);
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("spatial_gate", TORCH_BOX(&spatial_gate));
  m.impl("spatial_gate_backward", TORCH_BOX(&spatial_gate_backward));
}

}  // namespace
}  // namespace attn_kernels
