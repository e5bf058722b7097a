// y = x * gate(w2 activation(w1 mean(x) + b1) + b2): the native CPU kernels of squeeze_excite. They
// are those of squeeze and affine_gate with the perceptron between them, one image after the other
// where that keeps a map in the cache between the first look at it and the second.
#include <string>
#include <tuple>
#include <vector>

#include "../common/excite_operands.h"
#include "planes_launch.h"

namespace attn_kernels {
namespace {

// Whether each thread does whole images: there are enough for all, and the weights, which every
// image then reads anew, are not larger than it.
bool image_by_image(const FeatureMap& x, int64_t r) {
  const int64_t threads = torch::stable::get_num_threads(), pixels = x.h * x.w;
  return pixels > 1 && 2 * r <= pixels && (x.n % threads == 0 || x.n >= 4 * threads);
}

template <class Fn>
void for_images(const FeatureMap& x, const Fn& fn) {
  torch::stable::parallel_for(0, x.n, kElementsPerThread / (x.c * x.h * x.w) + 1,
                              [&](int64_t begin, int64_t end) {
                                for (int64_t image = begin; image < end; ++image) fn(image);
                              });
}

// The tasks of one image.
template <class Args>
void run_image(void (*kernel)(const Args&, int64_t, int64_t), const Args& args, int64_t image) {
  const int64_t tasks = args.planes.tasks() / args.planes.n;
  kernel(args, image * tasks, (image + 1) * tasks);
}

// kernel(args, begin, end) over tasks of so many multiplications each.
template <class Args>
void run_products(void (*kernel)(const Args&, int64_t, int64_t), const Args& args, int64_t tasks,
                  int64_t products) {
  constexpr int64_t kProductsPerThread = 1 << 17;
  torch::stable::parallel_for(0, tasks, kProductsPerThread / std::max<int64_t>(products, 1) + 1,
                              [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

// ---- Forward ------------------------------------------------------------------------------------

template <class T>
void forward(const FeatureMap& x, const Squeeze<T>& squeeze, const Excite<acc_t<T>>& excite,
             const AffineGate<T>& gate) {
  const Kernels<T>& k = kernels<T>();
  const int64_t hidden_blocks = excite_blocks(excite.r), blocks = excite_blocks(x.c);
  if (image_by_image(x, excite.r)) {
    return for_images(x, [&](int64_t image) {
      const auto own = of_image(excite, image);
      run_image(k.squeeze, squeeze, image);
      k.excite_hidden(own, 0, hidden_blocks);
      k.excite_scale(own, 0, blocks);
      run_image(k.affine_gate, gate, image);
    });
  }
  run_planes(k.squeeze, squeeze);
  run_products(k.excite_hidden, excite, hidden_blocks, x.n * x.c * kExciteBlock);
  run_products(k.excite_scale, excite, blocks, x.n * excite.r * kExciteBlock);
  run_planes(k.affine_gate, gate);
}

const Tensor* bias(const char* name, const std::optional<Tensor>& b, int64_t units,
                   const FeatureMap& x) {
  if (!b) return nullptr;
  check_parameter(name, *b, x, std::array{units});
  return &*b;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> squeeze_excite(
    const Tensor& x_any, const Tensor& w1, const std::optional<Tensor>& b1, const Tensor& w2,
    const std::optional<Tensor>& b2, const std::string& activation, const std::string& gate) {
  const FeatureMap x = feature_map(x_any);
  const int64_t r = check_excite_weights(w1, w2, x);
  const Tensor *bias1 = bias("b1", b1, r, x), *bias2 = bias("b2", b2, x.c, x);
  const ExciteActivation act = check_excite_activation(activation);
  const ExciteGate kind = check_excite_gate(gate);
  const Tensor y = empty_like(x), hidden = empty(x, std::array{x.n, r}, x.acc_dtype());
  const Tensor scale = per_channel(x, x.acc_dtype()), mean = per_channel(x, x.acc_dtype());
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    const auto data_of = [](const Tensor* b) { return b != nullptr ? data<A>(*b) : nullptr; };
    std::vector<A> active(static_cast<size_t>(x.n * r));
    const Excite<A> excite{0,
                           x.n,
                           x.c,
                           r,
                           act,
                           kind,
                           data<A>(mean),
                           data<A>(w1),
                           data_of(bias1),
                           data<A>(w2),
                           data_of(bias2),
                           data<A>(hidden),
                           active.data(),
                           data<A>(scale)};
    const T* map = data<T>(x.tensor);
    forward<T>(x, {summing_planes(x), map, data<A>(mean)}, excite,
               {elementwise_planes(x), map, data<A>(scale), nullptr, nullptr, false, data<T>(y)});
  });
  return {y, scale, mean, hidden};
}

// ---- Backward -----------------------------------------------------------------------------------

template <class T>
void backward(const FeatureMap& x, const AffineGateSums<T>& sums,
              const ExciteBackward<acc_t<T>>& excite, const SqueezeBackward<T>& final_pass) {
  const Kernels<T>& k = kernels<T>();
  const int64_t hidden_blocks = excite_blocks(excite.r), blocks = excite_blocks(x.c);
  if (image_by_image(x, excite.r)) {
    for_images(x, [&](int64_t image) {
      const auto own = of_image(excite, image);
      run_image(k.affine_gate_sums, sums, image);
      k.excite_logit_backward(own, image, image + 1);
      k.excite_hidden_backward(own, 0, hidden_blocks);
      k.excite_mean_backward(own, 0, blocks);
      run_image(k.squeeze_backward, final_pass, image);
    });
  } else {
    run_planes(k.affine_gate_sums, sums);
    run_products(k.excite_logit_backward, excite, x.n, x.c);
    run_products(k.excite_hidden_backward, excite, hidden_blocks, x.n * x.c * kExciteBlock);
    run_products(k.excite_mean_backward, excite, blocks, x.n * excite.r * kExciteBlock);
    run_planes(k.squeeze_backward, final_pass);
  }
  const int64_t rows = excite.r + x.c;
  run_products(k.excite_weights_backward, excite, rows, 2 * x.n * x.c * excite.r / rows);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> squeeze_excite_backward(
    const Tensor& dy_any, const Tensor& x_any, const Tensor& w1, const Tensor& w2,
    const Tensor& scale, const Tensor& mean, const Tensor& hidden, const std::string& activation,
    const std::string& gate) {
  const FeatureMap x = feature_map(x_any);
  const Tensor dy = laid_out_as(dy_any, x);
  const int64_t r = check_excite_weights(w1, w2, x);
  check_parameter("scale", scale, x, std::array{x.n, x.c});
  check_parameter("mean", mean, x, std::array{x.n, x.c});
  check_parameter("hidden", hidden, x, std::array{x.n, r});
  const ExciteActivation act = check_excite_activation(activation);
  const ExciteGate kind = check_excite_gate(gate);
  const auto gradient = [&](auto... sizes) {
    return empty(x, std::array<int64_t, sizeof...(sizes)>{sizes...}, x.acc_dtype());
  };
  const Tensor dx = empty_like(x), d_w1 = gradient(r, x.c, 1, 1), d_b1 = gradient(r);
  const Tensor d_w2 = gradient(x.c, r, 1, 1), d_b2 = gradient(x.c);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    const int64_t size = x.n * x.c, hidden_size = x.n * r;
    std::vector<A> scratch(static_cast<size_t>(3 * size + 2 * hidden_size));
    A *const d_logit = scratch.data(), *const offset = d_logit + size;
    A *const d_shift = offset + size, *const active = d_shift + size;
    const ExciteBackward<A> excite{0,
                                   x.n,
                                   x.c,
                                   r,
                                   act,
                                   kind,
                                   A(1) / static_cast<A>(x.h * x.w),
                                   data<A>(mean),
                                   data<A>(w1),
                                   data<A>(w2),
                                   data<A>(hidden),
                                   data<A>(scale),
                                   d_logit,
                                   active,
                                   active + hidden_size,
                                   offset,
                                   data<A>(d_w1),
                                   data<A>(d_b1),
                                   data<A>(d_w2),
                                   data<A>(d_b2)};
    const T* map = data<T>(x.tensor);
    backward<T>(x, {summing_planes(x), data<T>(dy), map, nullptr, d_logit, d_shift, nullptr},
                excite,
                {elementwise_planes(x), data<T>(dy), map, data<A>(scale), nullptr, offset, nullptr,
                 nullptr, nullptr, nullptr, data<T>(dx)});
  });
  return {dx, d_w1, d_b1, d_w2, d_b2};
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("squeeze_excite", TORCH_BOX(&squeeze_excite));
  m.impl("squeeze_excite_backward", TORCH_BOX(&squeeze_excite_backward));
}

}  // namespace
}  // namespace attn_kernels
