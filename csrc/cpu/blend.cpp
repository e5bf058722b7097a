// z = factor * (x w + y (1 - w)), w = sigmoid(a * scale + shift): the native CPU kernels of blend.
#include <tuple>

#include "planes_launch.h"

namespace attn_kernels {
namespace {

Tensor blend(const Tensor& x_any, const Tensor& y_any, const Tensor& a_any, const Tensor& scale,
             const Tensor& shift, double factor) {
  const FeatureMap x = feature_map(x_any);
  const Tensor y = laid_out_as(y_any, x), a = laid_out_as(a_any, x), z = empty_like(x);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    run_planes(kernels<T>().blend,
               Blend<T>{elementwise_planes(x), data<T>(x.tensor), data<T>(y), data<T>(a),
                        coefficient<A>("scale", scale, x), coefficient<A>("shift", shift, x),
                        static_cast<A>(factor), past_cache<T>(x, 1), data<T>(z)});
  });
  return z;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> blend_backward(
    const Tensor& dz_any, const Tensor& x_any, const Tensor& y_any, const Tensor& a_any,
    const Tensor& scale, const Tensor& shift, double factor) {
  const FeatureMap x = feature_map(x_any);
  const Tensor dz = laid_out_as(dz_any, x), y = laid_out_as(y_any, x), a = laid_out_as(a_any, x);
  const Tensor dx = empty_like(x), dy = empty_like(x), da = empty_like(x);
  const Tensor d_scale = per_channel(x, x.acc_dtype()), d_shift = per_channel(x, x.acc_dtype());
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    run_planes(
        kernels<T>().blend_backward,
        BlendBackward<T>{summing_planes(x), data<T>(dz), data<T>(x.tensor), data<T>(y), data<T>(a),
                         coefficient<A>("scale", scale, x), coefficient<A>("shift", shift, x),
                         static_cast<A>(factor), past_cache<T>(x, 3), data<T>(dx), data<T>(dy),
                         data<T>(da), data<A>(d_scale), data<A>(d_shift)});
  });
  return {dx, dy, da, d_scale, d_shift};
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("blend", TORCH_BOX(&blend));
  m.impl("blend_backward", TORCH_BOX(&blend_backward));
}

}  // namespace
}  // namespace attn_kernels
