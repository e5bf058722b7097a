// y = act(x * (skip + gate(a * b)) + residual), or a + b: the native CPU kernels of broadcast_gate
// and of the sums in its backward.
#include <tuple>

#include "broadcast_launch.h"

namespace attn_kernels {
namespace {

Tensor broadcast_gate(const Tensor& x_any, const Tensor& a, const std::optional<Tensor>& b,
                      const std::optional<Tensor>& residual_any, const std::string& combine,
                      const std::string& gate, bool skip, const std::string& activation) {
  const FeatureMap x = feature_map(x_any);
  STD_TORCH_CHECK(activation == "identity" || activation == "relu",
                  "attn_kernels: activation must be identity or relu, got ", activation);
  const FactorOperands factor(x, a, b, combine, gate, skip);
  const std::optional<Tensor> residual = optional_map(residual_any, x);
  const Tensor y = empty_like(x);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    Bands bands = make_bands(x);
    const auto of = factor_of<acc_t<T>>(bands, factor);
    run_bands(kernels<T>().broadcast_gate,
              BroadcastGate<T>{bands, of, data<T>(x.tensor), optional_data<T>(residual),
                               activation == "relu", data<T>(y)});
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> broadcast_gate_sums(
    const Tensor& dy_any, const Tensor& x_any, const Tensor& a, const std::optional<Tensor>& b,
    const std::optional<Tensor>& y_any, const std::string& combine, const std::string& gate) {
  const FeatureMap x = feature_map(x_any);
  const FactorOperands factor(x, a, b, combine, gate, false);
  const Tensor dy = laid_out_as(dy_any, x);
  const std::optional<Tensor> y = optional_map(y_any, x);
  const Tensor dr = y ? empty_like(x) : empty(x, std::array<int64_t, 1>{0}, x.dtype());
  const bool sums_channels =
      factor.a->size(1) < x.c || (factor.b.has_value() && factor.b->size(1) < x.c);
  Bands bands = make_bands(x, sums_channels);
  SumsOf d_a(x, bands, sizes_of(*factor.a));
  SumsOf d_b(x, bands, b ? sizes_of(*factor.b) : Sizes{}, b.has_value());
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    const auto of = factor_of<acc_t<T>>(bands, factor);
    run_bands(kernels<T>().broadcast_gate_sums,
              BroadcastGateSums<T>{bands, of, data<T>(dy), data<T>(x.tensor), optional_data<T>(y),
                                   d_a.to(), d_b.to(), data<T>(dr)});
  });
  d_a.finish();
  d_b.finish();
  return {d_a.result, d_b.result, dr};
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("broadcast_gate", TORCH_BOX(&broadcast_gate));
  m.impl("broadcast_gate_sums", TORCH_BOX(&broadcast_gate_sums));
}

}  // namespace
}  // namespace attn_kernels
