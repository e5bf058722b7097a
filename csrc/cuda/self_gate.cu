// self_gate, the sums of its gradient and its backward on CUDA: host side. Kernels: self_gate.cuh;
// their order: launch_box.h.
#include "host_box.h"

namespace attn_kernels {
namespace {

using Coefficient = std::optional<Tensor>;

// What the three ops take beside maps. To them channels are (groups, channels of a group), and the
// other way around in what is shuffled.
struct SelfGateOperands {
  FeatureMap x;
  int64_t groups;
  Coefficient center, p2, p1, p0;

  SelfGateOperands(const Tensor& x_any, const Coefficient& center, const Coefficient& p2,
                   const Coefficient& p1, const Tensor& p0, int64_t groups)
      : x(cuda_feature_map(x_any)), groups(groups), center(center), p2(p2), p1(p1), p0(p0) {
    check_groups(groups, x);
  }

  Box box() const { return shuffled_box(shape_of(x), x.channels_last, groups); }

  template <class Real>
  Spread<const Real> per_channel(const char* name, const Coefficient& t) const {
    return shuffled_channels(coefficient<Real>(name, t, x), shape_of(x), x.channels_last, groups);
  }
  template <class Real>
  SelfGateCoefficients<Real> of() const {
    return {per_channel<Real>("center", center), per_channel<Real>("p2", p2),
            per_channel<Real>("p1", p1), per_channel<Real>("p0", p0)};
  }
  template <class T>
  Spread<T> shuffled(T* data) const {
    return shuffled_map(data, shape_of(x), x.channels_last, groups);
  }
};

Tensor self_gate_cuda(const Tensor& x_any, const Coefficient& center, const Coefficient& p2,
                      const Coefficient& p1, const Tensor& p0, int64_t groups) {
  const SelfGateOperands operands(x_any, center, p2, p1, p0, groups);
  const FeatureMap& x = operands.x;
  const CudaLaunch launch(x_any);
  const Tensor y = empty_like(x);
  with_dtype(x, [&](auto type) {
    using T = decltype(type);
    self_gate<T>(
        launch,
        {operands.box(), {}, in<T>(x.tensor), operands.of<Acc<T>>(), operands.shuffled(out<T>(y))});
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> self_gate_sums_cuda(const Tensor& dy_any, const Tensor& x_any,
                                                       const Coefficient& center,
                                                       const Coefficient& p2, const Coefficient& p1,
                                                       const Tensor& p0, int64_t groups) {
  const SelfGateOperands operands(x_any, center, p2, p1, p0, groups);
  const FeatureMap& x = operands.x;
  const CudaLaunch launch(x_any);
  const Tensor dy = cuda_map("dy", dy_any, x);
  const Tensor d_p2 = per_channel(x, x.acc_dtype()), d_p1 = per_channel(x, x.acc_dtype());
  const Tensor d_p0 = per_channel(x, x.acc_dtype());
  with_dtype(x, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    const SelfGateSums<T> op{
        operands.box(), {}, {}, operands.shuffled(in<T>(dy)), in<T>(x.tensor), operands.of<Real>()};
    const Extents size = shuffled_extents(x.c, 1, x.channels_last, groups);
    const BoxResults<Real> results{
        {out<Real>(d_p2), 0, size}, {out<Real>(d_p1), 1, size}, {out<Real>(d_p0), 2, size}};
    run_sums(launch, x, op, {op.x}, results);
  });
  return {d_p2, d_p1, d_p0};
}

Tensor self_gate_backward_cuda(const Tensor& dy_any, const Tensor& x_any, const Coefficient& center,
                               const Coefficient& p2, const Coefficient& p1, const Tensor& p0,
                               const Coefficient& slope, const Coefficient& offset,
                               int64_t groups) {
  const SelfGateOperands operands(x_any, center, p2, p1, p0, groups);
  const FeatureMap& x = operands.x;
  const CudaLaunch launch(x_any);
  const Tensor dy = cuda_map("dy", dy_any, x), dx = empty_like(x);
  with_dtype(x, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    self_gate_gradient<T>(launch, {operands.box(),
                                   {},
                                   operands.shuffled(in<T>(dy)),
                                   in<T>(x.tensor),
                                   operands.of<Real>(),
                                   operands.per_channel<Real>("slope", slope),
                                   operands.per_channel<Real>("offset", offset),
                                   out<T>(dx)});
  });
  return dx;
}

}  // namespace
}  // namespace attn_kernels

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CUDA, m) {
  m.impl("self_gate", TORCH_BOX(&attn_kernels::self_gate_cuda));
  m.impl("self_gate_sums", TORCH_BOX(&attn_kernels::self_gate_sums_cuda));
  m.impl("self_gate_backward", TORCH_BOX(&attn_kernels::self_gate_backward_cuda));
}
