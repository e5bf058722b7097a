// broadcast_squeeze and its backward on CUDA: host side. Kernels: broadcast_gate.cuh; their order:
// launch_box.h.
#include "host_box.h"

namespace attn_kernels {
namespace {

// A result of these sizes, or an empty one where it is not asked for.
Tensor broadcast_statistic(const FeatureMap& x, const Sizes& sizes, bool asked_for) {
  return asked_for ? empty_as(x, sizes, x.acc_dtype()) : nothing(x, x.acc_dtype());
}

template <class Real>
BoxResult<Real> result_of(const FeatureMap& x, const Tensor& t, int value, double share = 1) {
  if (t.dim() == 1) return {};
  return {out<Real>(t), value, extents_of(sizes_of(t), x), static_cast<Real>(share)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> broadcast_squeeze_cuda(
    const Tensor& x_any, const std::optional<Tensor>& weight_any, int64_t statistics) {
  const FeatureMap x = cuda_feature_map(x_any);
  const BroadcastStatistics to(statistics, weight_any.has_value());
  const std::optional<Tensor> weight = operand("weight", weight_any, x);
  const CudaLaunch launch(x_any);
  const Tensor mean = broadcast_statistic(x, {x.n, x.c, 1, 1}, to.wants(kMeans));
  const Tensor sum = broadcast_statistic(x, {x.n, 1, x.h, x.w}, to.wants(kSums));
  const Tensor rows = broadcast_statistic(x, {x.n, x.c, x.h, 1}, to.wants(kRows));
  const Tensor columns = broadcast_statistic(x, {x.n, x.c, 1, x.w}, to.wants(kColumns));
  const double row = 1.0 / static_cast<double>(x.w), column = 1.0 / static_cast<double>(x.h);
  with_dtype(x, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    const BroadcastMap<T> op{
        box_of(shape_of(x), x.channels_last), {}, {}, in<T>(x.tensor), spread_of<Real>(weight, x)};
    run_sums<BroadcastMap<T>, Real>(
        launch, x, op, {op.x},
        {result_of<Real>(x, mean, 0, row * column), result_of<Real>(x, sum, 1),
         result_of<Real>(x, rows, 0, row), result_of<Real>(x, columns, 0, column)});
  });
  return {mean, sum, rows, columns};
}

// The gradients of statistics, of which some are given.
struct StatisticGradients {
  std::optional<Tensor> weight, sum, mean, rows, columns;

  // What they bring to each element, after `to`'s other terms.
  template <class T>
  void put(const FeatureMap& x, BroadcastGateArguments<T>& to) const {
    using Real = Acc<T>;
    const double row = 1.0 / static_cast<double>(x.w), column = 1.0 / static_cast<double>(x.h);
    const auto add = [&](const std::optional<Tensor>& gradient, double share,
                         const std::optional<Tensor>& by = {}) {
      if (!gradient) return;
      to.terms[to.term_count++] = {spread_of<Real>(gradient, x), spread_of<Real>(by, x),
                                   static_cast<Real>(share)};
    };
    add(mean, row * column);
    add(rows, row);
    add(columns, column);
    add(sum, 1, weight);
  }
};

std::tuple<Tensor, Tensor> broadcast_squeeze_backward_cuda(
    const std::optional<Tensor>& dr_any, const Tensor& x_any, const std::optional<Tensor>& a,
    const std::optional<Tensor>& b, const std::optional<Tensor>& weight_any,
    const std::optional<Tensor>& d_mean_any, const std::optional<Tensor>& d_sum_any,
    const std::optional<Tensor>& d_rows_any, const std::optional<Tensor>& d_columns_any,
    const std::string& combine, const std::string& gate, bool skip) {
  const FeatureMap x = cuda_feature_map(x_any);
  check_broadcast_gradients(dr_any.has_value(), a.has_value(), b.has_value(),
                            weight_any.has_value(), d_sum_any.has_value());
  const FactorOperands factor(x, a, b, combine, gate, skip);
  const StatisticGradients of{operand("weight", weight_any, x), operand("d_sum", d_sum_any, x),
                              operand("d_mean", d_mean_any, x), operand("d_rows", d_rows_any, x),
                              operand("d_columns", d_columns_any, x)};
  const CudaLaunch launch(x_any);
  const std::optional<Tensor> dr = cuda_map("dr", dr_any, x);
  const Tensor dx = empty_like(x);
  const Tensor d_weight = broadcast_statistic(x, {x.n, x.c, 1, 1}, of.sum.has_value());
  with_dtype(x, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    const Box box = box_of(shape_of(x), x.channels_last);
    BroadcastGateArguments<T> to{
        box,     {},    in<T>(dr), cuda_factor<Real>(factor, x), Real(skip ? 1 : 0), 0, {},
        nullptr, false, out<T>(dx)};
    of.put(x, to);
    broadcast_gate<T>(launch, to);
    if (!of.sum) return;
    const BroadcastMap<T> op{box, {}, {}, in<T>(x.tensor), spread_of<Real>(of.sum, x)};
    run_sums<BroadcastMap<T>, Real>(launch, x, op, {op.x}, {result_of<Real>(x, d_weight, 1)});
  });
  return {dx, d_weight};
}

}  // namespace
}  // namespace attn_kernels

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CUDA, m) {
  m.impl("broadcast_squeeze", TORCH_BOX(&attn_kernels::broadcast_squeeze_cuda));
  m.impl("broadcast_squeeze_backward", TORCH_BOX(&attn_kernels::broadcast_squeeze_backward_cuda));
}
