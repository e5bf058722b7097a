// y = act(sum of s * map + residual) of maps that are never stacked: the native CPU kernels of mix.
#include <string>
#include <tuple>
#include <vector>

#include "../common/mix_operands.h"
#include "planes_launch.h"

namespace attn_kernels {
namespace {

using Optional = std::optional<Tensor>;

// Read where they are, with a single pixel's planes as those of many channels.
struct Maps : MixOperands {
  using MixOperands::MixOperands;
  Maps(const Tensor& x, std::initializer_list<const Optional*> others, int64_t parts)
      : MixOperands(x, others, parts, [](const Tensor& t, const FeatureMap& like) {
          return is_in_place(t, pixels_outermost(like));
        }) {}

  Planes planes() const { return {like.n, like.c, like.h * like.w, pixels_outermost(like), 1, 1}; }

  template <class E>
  std::vector<MixMap<E>> maps() const {
    std::vector<MixMap<E>> found;
    for (const Tensor& t : tensors) {
      const int64_t of_pixel = t.stride(like.w > 1 ? 3 : 2);
      const int64_t line = pixels_outermost(like) ? of_pixel : t.stride(1);
      for (int64_t i = 0; i < parts; ++i)
        found.push_back(
            {data<std::remove_const_t<E>>(t) + i * like.c * t.stride(1), t.stride(0), line});
    }
    return found;
  }
};

// s, (n, maps, c).
template <class A>
const A* selection(const Tensor& s, const Maps& x) {
  x.check_selection(s);
  return data<A>(s);
}

Tensor mix(const Tensor& x0, const Optional& x1, const Optional& x2, const Optional& x3,
           const Tensor& s, const Optional& residual_any, const std::string& activation) {
  STD_TORCH_CHECK(activation == "identity" || activation == "relu",
                  "attn_kernels: activation must be identity or relu, got ", activation);
  const Maps x(x0, {&x1, &x2, &x3}, parts_of(x0, s));
  const Optional residual = optional_map(residual_any, x.like);
  const Tensor y = empty_like(x.like);
  with_dtype(x.like, [&](auto t) {
    using T = decltype(t);
    const auto maps = x.maps<const T>();
    run_planes(kernels<T>().mix, Mix<T>{elementwise_planes(x.planes()),
                                        {maps.data(), x.count()},
                                        selection<acc_t<T>>(s, x),
                                        optional_data<T>(residual),
                                        activation == "relu",
                                        past_cache<T>(x.like, 1),
                                        data<T>(y)});
  });
  return y;
}

std::tuple<Tensor, Tensor> mix_sums(const Tensor& dy_any, const Tensor& x0, const Optional& x1,
                                    const Optional& x2, const Optional& x3, const Optional& y_any,
                                    int64_t parts) {
  const Maps x(x0, {&x1, &x2, &x3}, parts);
  const Tensor dy = laid_out_as(dy_any, x.like);
  const Optional y = optional_map(y_any, x.like);
  const Tensor d_s = empty(x.like, std::array{x.like.n, x.count(), x.like.c}, x.like.acc_dtype());
  const Tensor dr = y ? empty_like(x.like) : per_channel(x.like, x.like.dtype(), false);
  with_dtype(x.like, [&](auto t) {
    using T = decltype(t);
    const auto maps = x.maps<const T>();
    run_planes(kernels<T>().mix_sums, MixSums<T>{summing_planes(x.planes()),
                                                 {maps.data(), x.count()},
                                                 data<T>(dy),
                                                 optional_data<T>(y),
                                                 data<acc_t<T>>(d_s),
                                                 data<T>(dr)});
  });
  return {d_s, dr};
}

Tensor mix_squeeze(const Tensor& x0, const Optional& x1, const Optional& x2, const Optional& x3,
                   int64_t parts) {
  const Maps x(x0, {&x1, &x2, &x3}, parts);
  const Tensor mean = per_channel(x.like, x.like.acc_dtype());
  with_dtype(x.like, [&](auto t) {
    using T = decltype(t);
    const auto maps = x.maps<const T>();
    run_planes(
        kernels<T>().mix_squeeze,
        MixSqueeze<T>{summing_planes(x.planes()), {maps.data(), x.count()}, data<acc_t<T>>(mean)});
  });
  return mean;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mix_backward(const Optional& dr_any, const Tensor& x0,
                                                        const Optional& s, const Optional& offset,
                                                        int64_t tensors, int64_t parts) {
  check_selected(dr_any, s);
  Maps dx(x0, parts);
  const Optional dr = optional_map(dr_any, dx.like);
  dx.add_results(tensors);
  with_dtype(dx.like, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    const auto maps = dx.maps<T>();
    run_planes(kernels<T>().mix_backward, MixBackward<T>{elementwise_planes(dx.planes()),
                                                         optional_data<T>(dr),
                                                         s ? selection<A>(*s, dx) : nullptr,
                                                         coefficient<A>("offset", offset, dx.like),
                                                         past_cache<T>(dx.like, dx.count()),
                                                         {maps.data(), dx.count()}});
  });
  return dx.results();
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("mix", TORCH_BOX(&mix));
  m.impl("mix_sums", TORCH_BOX(&mix_sums));
  m.impl("mix_squeeze", TORCH_BOX(&mix_squeeze));
  m.impl("mix_backward", TORCH_BOX(&mix_backward));
}

}  // namespace
}  // namespace attn_kernels
