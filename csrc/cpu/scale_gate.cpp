// y = x * sigmoid(a * scale[c] + shift[c]): the native CPU kernel of scale_gate.
#include <tuple>
#include <vector>

#include "launch.h"

namespace attn_kernels {
namespace {

ScaleGateProblem make_scale_gate_problem(const FeatureMap& x, const Tensor& a, const Tensor& scale,
                                         const Tensor& shift) {
  check_parameter("scale", scale, x, std::array{x.c}, true);
  check_parameter("shift", shift, x, std::array{x.c}, true);
  check_same_shape("a", a, x);
  if (pixels_outermost(x)) return {1, x.c, x.pixels(), true};
  return {x.n, x.c, x.h * x.w, false};
}

// kernel(args, begin, end) over all tasks, in as many threads as the work is worth.
template <class Args>
void run_tasks(void (*kernel)(const Args&, int64_t, int64_t), const Args& args) {
  constexpr int64_t kElementsPerThread = 1 << 14;
  const ScaleGateProblem& p = args.problem;
  const int64_t per_task =
      std::max<int64_t>(p.pixels_outermost ? kScaleGatePixels * p.c : p.pixels, 1);
  const int64_t tasks = p.pixels_outermost ? p.units() : p.n * p.c;
  torch::stable::parallel_for(0, tasks, kElementsPerThread / per_task + 1,
                              [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

Tensor scale_gate(const Tensor& x_any, const Tensor& a_any, const Tensor& scale,
                  const Tensor& shift) {
  const FeatureMap x = feature_map(x_any);
  const ScaleGateProblem problem = make_scale_gate_problem(x, a_any, scale, shift);
  const Tensor a = laid_out_as(a_any, x), y = empty_like(x);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    const Tensor acc_scale = parameter<T, A>(scale, x), acc_shift = parameter<T, A>(shift, x);
    run_tasks(kernels<T>().scale_gate,
              ScaleGate<T>{problem, data<T>(x.tensor), data<T>(a), data<A>(acc_scale),
                           data<A>(acc_shift), data<T>(y)});
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> scale_gate_backward(const Tensor& dy_any,
                                                               const Tensor& x_any,
                                                               const Tensor& a_any,
                                                               const Tensor& scale,
                                                               const Tensor& shift) {
  const FeatureMap x = feature_map(x_any);
  const ScaleGateProblem problem = make_scale_gate_problem(x, a_any, scale, shift);
  check_same_shape("dy", dy_any, x);
  const Tensor dy = laid_out_as(dy_any, x), a = laid_out_as(a_any, x);
  const Tensor dx = empty_like(x), da = empty_like(x);
  const Tensor d_scale = empty(x, std::array{x.c}, x.acc_dtype());
  const Tensor d_shift = empty(x, std::array{x.c}, x.acc_dtype());
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    std::vector<A> partials(static_cast<size_t>(problem.units() * 2 * x.c));
    const Tensor acc_scale = parameter<T, A>(scale, x), acc_shift = parameter<T, A>(shift, x);
    run_tasks(kernels<T>().scale_gate_backward,
              ScaleGateBackward<T>{problem, data<T>(dy), data<T>(x.tensor), data<T>(a),
                                   data<A>(acc_scale), data<A>(acc_shift), data<T>(dx), data<T>(da),
                                   partials.data()});
    std::vector<double> sum(static_cast<size_t>(2 * x.c));
    for (int64_t unit = 0; unit < problem.units(); ++unit)
      for (int64_t i = 0; i < 2 * x.c; ++i) sum[i] += partials[unit * 2 * x.c + i];
    std::copy_n(sum.begin(), x.c, data<A>(d_scale));
    std::copy_n(sum.begin() + x.c, x.c, data<A>(d_shift));
  });
  return {dx, da, d_scale, d_shift};
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("scale_gate", TORCH_BOX(&scale_gate));
  m.impl("scale_gate_backward", TORCH_BOX(&scale_gate_backward));
}

}  // namespace
}  // namespace attn_kernels
