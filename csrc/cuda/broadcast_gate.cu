// broadcast_gate and the sums of its gradient on CUDA: host side. Kernels: broadcast_gate.cuh;
// their order: launch_box.h.
#include "host_box.h"

namespace attn_kernels {
namespace {

Tensor broadcast_gate_cuda(const Tensor& x_any, const Tensor& a, const std::optional<Tensor>& b,
                           const std::optional<Tensor>& residual_any, const std::string& combine,
                           const std::string& gate, bool skip, const std::string& activation) {
  const FeatureMap x = cuda_feature_map(x_any);
  const bool relu = check_activation(activation);
  const FactorOperands factor(x, a, b, combine, gate, skip);
  const CudaLaunch launch(x_any);
  const std::optional<Tensor> residual = cuda_map("residual", residual_any, x);
  const Tensor y = empty_like(x);
  with_dtype(x, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    broadcast_gate<T>(launch, {box_of(shape_of(x), x.channels_last),
                               {},
                               in<T>(x.tensor),
                               cuda_factor<Real>(factor, x),
                               Real(skip ? 1 : 0),
                               0,
                               {},
                               in<T>(residual),
                               relu,
                               out<T>(y)});
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> broadcast_gate_sums_cuda(
    const Tensor& dy_any, const Tensor& x_any, const Tensor& a, const std::optional<Tensor>& b,
    const std::optional<Tensor>& y_any, const std::string& combine, const std::string& gate) {
  const FeatureMap x = cuda_feature_map(x_any);
  const FactorOperands factor(x, a, b, combine, gate, false);
  const CudaLaunch launch(x_any);
  const Tensor dy = cuda_map("dy", dy_any, x);
  const std::optional<Tensor> y = cuda_map("y", y_any, x);
  const Tensor dr = y ? empty_like(x) : nothing(x, x.dtype());
  const Tensor d_a = empty_as(x, sizes_of(a), x.acc_dtype());
  const Tensor d_b = b ? empty_as(x, sizes_of(*b), x.acc_dtype()) : nothing(x, x.acc_dtype());
  with_dtype(x, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    const BroadcastGateSums<T> op{box_of(shape_of(x), x.channels_last),
                                  {},
                                  {},
                                  in<T>(dy),
                                  in<T>(x.tensor),
                                  in<T>(y),
                                  y ? out<T>(dr) : nullptr,
                                  cuda_factor<Real>(factor, x)};
    const BoxResults<Real> results{
        {out<Real>(d_a), 0, extents_of(sizes_of(a), x)},
        {b ? out<Real>(d_b) : nullptr, 1, b ? extents_of(sizes_of(*b), x) : Extents{}}};
    run_sums(launch, x, op, {op.dy, op.x, op.y, op.dr}, results);
  });
  return {d_a, d_b, dr};
}

}  // namespace
}  // namespace attn_kernels

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CUDA, m) {
  m.impl("broadcast_gate", TORCH_BOX(&attn_kernels::broadcast_gate_cuda));
  m.impl("broadcast_gate_sums", TORCH_BOX(&attn_kernels::broadcast_gate_sums_cuda));
}
