// squeeze_excite and its gradient on CUDA: host side. Kernels: excite.cuh between those of squeeze
// and affine_gate; their order: launch_excite.h.
#include <string>

#include "../common/excite_operands.h"
#include "host_planes.h"
#include "launch_excite.h"

namespace attn_kernels {
namespace {

void check_bias(const char* name, const std::optional<Tensor>& b, int64_t units,
                const FeatureMap& x) {
  if (b) check_parameter(name, *b, x, std::array{units});
}

std::tuple<Tensor, Tensor, Tensor, Tensor> squeeze_excite_cuda(
    const Tensor& x, const Tensor& w1, const std::optional<Tensor>& b1, const Tensor& w2,
    const std::optional<Tensor>& b2, const std::string& activation, const std::string& gate) {
  const FeatureMap input = cuda_feature_map(x);
  const int64_t r = check_excite_weights(w1, w2, input);
  check_bias("b1", b1, r, input);
  check_bias("b2", b2, input.c, input);
  const ExciteActivation act = check_excite_activation(activation);
  const ExciteGate kind = check_excite_gate(gate);
  const CudaLaunch launch(x);
  const Tensor y = empty_like(input);
  const Tensor scale = per_channel(input, input.acc_dtype());
  const Tensor mean = per_channel(input, input.acc_dtype());
  const Tensor hidden = empty(input, std::array{input.n, r}, input.acc_dtype());
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    const Shape shape = shape_of(input);
    const Tensor partial =
        empty(input, std::array{squeeze_bytes<T>(shape, input.channels_last)}, ScalarType::Byte);
    const ExciteArguments<Real> excite{shape.n,
                                       shape.c,
                                       static_cast<int>(r),
                                       0,
                                       0,
                                       act,
                                       kind,
                                       {},
                                       out<Real>(mean),
                                       in<Real>(w1),
                                       in<Real>(b1),
                                       in<Real>(w2),
                                       in<Real>(b2),
                                       out<Real>(hidden),
                                       out<Real>(scale)};
    squeeze_excite<T>(launch, shape, input.channels_last,
                      {in<T>(input.tensor), excite, out<void>(partial), out<T>(y)});
  });
  return {y, scale, mean, hidden};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> squeeze_excite_backward_cuda(
    const Tensor& dy_any, const Tensor& x, const Tensor& w1, const Tensor& w2, const Tensor& scale,
    const Tensor& mean, const Tensor& hidden, const std::string& activation,
    const std::string& gate) {
  const FeatureMap input = cuda_feature_map(x);
  const int64_t r = check_excite_weights(w1, w2, input);
  check_parameter("scale", scale, input, std::array{input.n, input.c});
  check_parameter("mean", mean, input, std::array{input.n, input.c});
  check_parameter("hidden", hidden, input, std::array{input.n, r});
  const ExciteActivation act = check_excite_activation(activation);
  const ExciteGate kind = check_excite_gate(gate);
  const CudaLaunch launch(x);
  const Tensor dy = cuda_map("dy", dy_any, input);
  const auto gradient = [&](auto... sizes) {
    return empty(input, std::array<int64_t, sizeof...(sizes)>{sizes...}, input.acc_dtype());
  };
  const Tensor dx = empty_like(input), d_w1 = gradient(r, input.c, 1, 1), d_b1 = gradient(r);
  const Tensor d_w2 = gradient(input.c, r, 1, 1), d_b2 = gradient(input.c);
  const Tensor d_scale = gradient(input.n, input.c), d_shift = gradient(input.n, input.c);
  const Tensor offset = gradient(input.n, input.c), d_hidden = gradient(input.n, r);
  with_dtype(input, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    const Shape shape = shape_of(input);
    const Tensor partial = gradient(2 * affine_gate_sums_partials<T>(shape, input.channels_last));
    const ExciteGradientArguments<Real> excite{shape.n,
                                               shape.c,
                                               static_cast<int>(r),
                                               act,
                                               kind,
                                               in<Real>(w1),
                                               in<Real>(w2),
                                               in<Real>(scale),
                                               in<Real>(mean),
                                               in<Real>(hidden),
                                               nullptr,
                                               0,
                                               out<Real>(d_hidden),
                                               out<Real>(offset),
                                               out<Real>(d_w1),
                                               out<Real>(d_b1),
                                               out<Real>(d_w2),
                                               out<Real>(d_b2)};
    squeeze_excite_backward<T>(launch, shape, input.channels_last,
                               {in<T>(dy), in<T>(input.tensor), excite,
                                static_cast<GateSumsStat<Real>*>(out<void>(partial)),
                                out<Real>(d_scale), out<Real>(d_shift), out<T>(dx)});
  });
  return {dx, d_w1, d_b1, d_w2, d_b2};
}

}  // namespace
}  // namespace attn_kernels

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CUDA, m) {
  m.impl("squeeze_excite", TORCH_BOX(&attn_kernels::squeeze_excite_cuda));
  m.impl("squeeze_excite_backward", TORCH_BOX(&attn_kernels::squeeze_excite_backward_cuda));
}
