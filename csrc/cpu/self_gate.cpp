// y = shuffle(x * sigmoid(p2 d^2 + p1 d + p0)), d = x - center: the native CPU kernels of
// self_gate.
#include <tuple>

#include "bands_launch.h"

namespace attn_kernels {
namespace {

using Coefficient = std::optional<Tensor>;

// (n, c) coefficients; in place of what is absent one 0 for all.
template <class A>
Operand<A> coefficient_of(const char* name, const Coefficient& t, const FeatureMap& x, Bands& b) {
  static constexpr A kZero = 0;
  if (!t) return {&kZero, {0, 0, 0, 0}};
  check_parameter(name, *t, x, std::array{x.n, x.c});
  return {data<A>(*t), joined(b, {x.n, x.c, 1, 1})};
}

template <class A>
SelfGateOperands<A> operands_of(const FeatureMap& x, Bands& b, const Coefficient& center,
                                const Coefficient& p2, const Coefficient& p1, const Tensor& p0) {
  return {coefficient_of<A>("center", center, x, b), coefficient_of<A>("p2", p2, x, b),
          coefficient_of<A>("p1", p1, x, b), coefficient_of<A>("p0", p0, x, b)};
}

Tensor self_gate(const Tensor& x_any, const Coefficient& center, const Coefficient& p2,
                 const Coefficient& p1, const Tensor& p0, int64_t groups) {
  const FeatureMap x = feature_map(x_any);
  check_groups(groups, x);
  const Tensor y = empty_like(x);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    Bands b = make_bands(x);
    const auto of = operands_of<acc_t<T>>(x, b, center, p2, p1, p0);
    run_bands(kernels<T>().self_gate, SelfGate<T>{b, of, groups, data<T>(x.tensor), data<T>(y)});
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> self_gate_sums(const Tensor& dy_any, const Tensor& x_any,
                                                  const Coefficient& center, const Coefficient& p2,
                                                  const Coefficient& p1, const Tensor& p0,
                                                  int64_t groups) {
  const FeatureMap x = feature_map(x_any);
  check_groups(groups, x);
  const Tensor dy = laid_out_as(dy_any, x);
  Bands b = make_bands(x);
  SumsOf d_p2 = channel_sums(x, b), d_p1 = channel_sums(x, b), d_p0 = channel_sums(x, b);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    const auto of = operands_of<acc_t<T>>(x, b, center, p2, p1, p0);
    run_bands(kernels<T>().self_gate_sums,
              SelfGateSums<T>{b, of, groups, data<T>(dy), data<T>(x.tensor), d_p2.to(), d_p1.to(),
                              d_p0.to()});
  });
  for (const SumsOf* sums : {&d_p2, &d_p1, &d_p0}) sums->finish();
  return {d_p2.result, d_p1.result, d_p0.result};
}

Tensor self_gate_backward(const Tensor& dy_any, const Tensor& x_any, const Coefficient& center,
                          const Coefficient& p2, const Coefficient& p1, const Tensor& p0,
                          const Coefficient& slope, const Coefficient& offset, int64_t groups) {
  const FeatureMap x = feature_map(x_any);
  check_groups(groups, x);
  const Tensor dy = laid_out_as(dy_any, x), dx = empty_like(x);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    Bands b = make_bands(x);
    const auto of = operands_of<A>(x, b, center, p2, p1, p0);
    const auto of_slope = coefficient_of<A>("slope", slope, x, b);
    const auto of_offset = coefficient_of<A>("offset", offset, x, b);
    run_bands(kernels<T>().self_gate_backward,
              SelfGateBackward<T>{b, of, groups, data<T>(dy), data<T>(x.tensor), of_slope,
                                  of_offset, data<T>(dx)});
  });
  return dx;
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("self_gate", TORCH_BOX(&self_gate));
  m.impl("self_gate_sums", TORCH_BOX(&self_gate_sums));
  m.impl("self_gate_backward", TORCH_BOX(&self_gate_backward));
}

}  // namespace
}  // namespace attn_kernels
