// Statistics that broadcast to the map, and the pass that writes their gradient and the gate's: the
// native CPU kernels of broadcast_squeeze and broadcast_squeeze_backward.
#include <tuple>

#include "broadcast_launch.h"

namespace attn_kernels {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> broadcast_squeeze(
    const Tensor& x_any, const std::optional<Tensor>& weight_any, int64_t statistics) {
  const FeatureMap x = feature_map(x_any);
  const BroadcastStatistics to(statistics, weight_any.has_value());
  const std::optional<Tensor> weight = operand("weight", weight_any, x);
  Bands bands = make_bands(x, to.wants(kSums));
  SumsOf mean(x, bands, {x.n, x.c, 1, 1}, to.wants(kMeans));
  SumsOf sum(x, bands, {x.n, 1, x.h, x.w}, to.wants(kSums));
  SumsOf rows(x, bands, {x.n, x.c, x.h, 1}, to.wants(kRows));
  SumsOf columns(x, bands, {x.n, x.c, 1, x.w}, to.wants(kColumns));
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    const auto of_weight = operand_of<acc_t<T>>(bands, weight);
    run_bands(kernels<T>().broadcast_squeeze,
              BroadcastSqueeze<T>{bands, data<T>(x.tensor), of_weight, mean.to(), sum.to(),
                                  rows.to(), columns.to()});
  });
  const double row = 1.0 / static_cast<double>(x.w), column = 1.0 / static_cast<double>(x.h);
  mean.finish(row * column);
  sum.finish();
  rows.finish(row);
  columns.finish(column);
  return {mean.result, sum.result, rows.result, columns.result};
}

std::tuple<Tensor, Tensor> broadcast_squeeze_backward(
    const std::optional<Tensor>& dr_any, const Tensor& x_any, const std::optional<Tensor>& a,
    const std::optional<Tensor>& b, const std::optional<Tensor>& weight_any,
    const std::optional<Tensor>& d_mean_any, const std::optional<Tensor>& d_sum_any,
    const std::optional<Tensor>& d_rows_any, const std::optional<Tensor>& d_columns_any,
    const std::string& combine, const std::string& gate, bool skip) {
  const FeatureMap x = feature_map(x_any);
  check_broadcast_gradients(dr_any.has_value(), a.has_value(), b.has_value(),
                            weight_any.has_value(), d_sum_any.has_value());
  const FactorOperands factor(x, a, b, combine, gate, skip);
  const std::optional<Tensor> dr = optional_map(dr_any, x);
  const std::optional<Tensor> weight = operand("weight", weight_any, x);
  const std::optional<Tensor> d_mean = operand("d_mean", d_mean_any, x);
  const std::optional<Tensor> d_sum = operand("d_sum", d_sum_any, x);
  const std::optional<Tensor> d_rows = operand("d_rows", d_rows_any, x);
  const std::optional<Tensor> d_columns = operand("d_columns", d_columns_any, x);
  const Tensor dx = empty_like(x);
  Bands bands = make_bands(x);
  SumsOf d_weight(x, bands, {x.n, x.c, 1, 1}, weight.has_value());
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    BroadcastSqueezeBackward<T> args{bands,
                                     factor_of<A>(bands, factor),
                                     optional_data<T>(dr),
                                     data<T>(x.tensor),
                                     operand_of<A>(bands, weight),
                                     operand_of<A>(bands, d_sum),
                                     operand_of<A>(bands, d_mean),
                                     operand_of<A>(bands, d_rows),
                                     operand_of<A>(bands, d_columns),
                                     d_weight.to(),
                                     data<T>(dx)};
    args.bands = bands;  // as all operands want it
    run_bands(kernels<T>().broadcast_squeeze_backward, args);
  });
  d_weight.finish();
  return {dx, d_weight.result};
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("broadcast_squeeze", TORCH_BOX(&broadcast_squeeze));
  m.impl("broadcast_squeeze_backward", TORCH_BOX(&broadcast_squeeze_backward));
}

}  // namespace
}  // namespace attn_kernels
