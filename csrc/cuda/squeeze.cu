// squeeze and squeeze_backward on CUDA: host side. Kernels: plane_reduce.cuh with squeeze.cuh;
// squeeze_gradient.cuh; their order: launch_planes.h.
#include "host_planes.h"

namespace attn_kernels {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> squeeze_cuda(const Tensor& x,
                                                                        int64_t statistics) {
  const FeatureMap input = cuda_feature_map(x);
  check_statistics(statistics);
  const CudaLaunch launch(x);
  const StatisticsResults to(input, statistics);
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    const auto values = [&](const Tensor& result, Statistic s) {
      return to.wants(s) ? out<Real>(result) : nullptr;
    };
    const auto places = [&](const Tensor& result, Statistic s) {
      return to.wants(s) ? out<int64_t>(result) : nullptr;
    };
    const Shape shape = shape_of(input);
    const Tensor partial =
        empty(input, std::array{squeeze_bytes<T>(shape, input.channels_last)}, ScalarType::Byte);
    squeeze<T>(launch, shape, input.channels_last, in<T>(input.tensor), out<void>(partial),
               {values(to.mean, kMean), values(to.var, kVar), values(to.max, kMax),
                values(to.min, kMin), places(to.argmax, kMax), places(to.argmin, kMin)});
  });
  return {to.mean, to.var, to.max, to.min, to.argmax, to.argmin};
}

// An extreme's places and gradient.
template <class Real>
ExtremeGradient<Real> extreme(const char* name, const std::optional<Tensor>& at,
                              const std::optional<Tensor>& gradient, const FeatureMap& x) {
  check_extreme(name, at, gradient, x);
  return {in<int64_t>(at), in<Real>(gradient)};
}

Tensor squeeze_backward_cuda(const std::optional<Tensor>& dr_any, const Tensor& x,
                             const std::optional<Tensor>& scale, const std::optional<Tensor>& slope,
                             const std::optional<Tensor>& offset,
                             const std::optional<Tensor>& argmax,
                             const std::optional<Tensor>& d_max,
                             const std::optional<Tensor>& argmin,
                             const std::optional<Tensor>& d_min) {
  const FeatureMap input = cuda_feature_map(x);
  STD_TORCH_CHECK(dr_any.has_value() == scale.has_value(),
                  "attn_kernels: dr and scale come together");
  const CudaLaunch launch(x);
  const std::optional<Tensor> dr = cuda_map("dr", dr_any, input);
  const Tensor dx = empty_like(input);
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    squeeze_gradient<T>(launch, input.channels_last,
                        {shape_of(input),
                         {},
                         in<T>(dr),
                         in<T>(input.tensor),
                         coefficient<Real>("scale", scale, input),
                         coefficient<Real>("slope", slope, input),
                         coefficient<Real>("offset", offset, input),
                         extreme<Real>("argmax", argmax, d_max, input),
                         extreme<Real>("argmin", argmin, d_min, input),
                         out<T>(dx)});
  });
  return dx;
}

}  // namespace
}  // namespace attn_kernels

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CUDA, m) {
  m.impl("squeeze", TORCH_BOX(&attn_kernels::squeeze_cuda));
  m.impl("squeeze_backward", TORCH_BOX(&attn_kernels::squeeze_backward_cuda));
}
