// y = act(sum of s * map + residual) of maps that are never stacked: the native CPU kernels of mix.
#include <string>
#include <tuple>
#include <vector>

#include "planes_launch.h"

namespace attn_kernels {
namespace {

using Optional = std::optional<Tensor>;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// Whether planes, or in channels_last images, are dense: a slice of channels is.
bool is_in_place(const Tensor& t, bool channels_last) {
  const int64_t h = t.size(2), w = t.size(3);
  if (channels_last)
    return (t.size(1) == 1 || t.stride(1) == 1) &&
           (h == 1 || w == 1 || t.stride(2) == w * t.stride(3));
  return (w == 1 || t.stride(3) == 1) && (h == 1 || t.stride(2) == w);
}

// One of the maps that x is made of. Formats are those of feature_map, but a slice is no reason for
// a copy.
FeatureMap part_of(const Tensor& x, int64_t parts) {
  STD_TORCH_CHECK(x.dim() == 4 && x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0,
                  "attn_kernels: x must be (N, C, H, W), with C, H and W of at least 1");
  STD_TORCH_CHECK(parts > 0 && x.size(1) % parts == 0,
                  "attn_kernels: parts must divide x's channels");
  const bool last = !x.is_contiguous() && (is_channels_last(x) || is_channels_last_in_part(x));
  return {x, x.size(0), x.size(1) / parts, x.size(2), x.size(3), last};
}

// The maps of a mix: the parts of some tensors alike.
struct Maps {
  int64_t parts;
  FeatureMap like;  // shape and format of one map, dtype and device of all
  std::vector<Tensor> tensors;

  Maps(const Tensor& x, int64_t parts) : parts(parts), like(part_of(x, parts)) {}

  Maps(const Tensor& x, std::initializer_list<const Optional*> others, int64_t parts)
      : Maps(x, parts) {
    add(x);
    for (const Optional* t : others)
      if (*t) add(**t);
  }

  int64_t count() const { return static_cast<int64_t>(tensors.size()) * parts; }
  FeatureMap all_parts() const {
    return {like.tensor, like.n, like.c * parts, like.h, like.w, like.channels_last};
  }
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

 private:
  void add(const Tensor& t) {
    check_same_shape("a map", t, all_parts());
    const bool is_so = is_in_place(t, pixels_outermost(like));
    tensors.push_back(is_so ? t : torch::stable::contiguous(t, like.format()));
  }
};

// s, (n, maps, c).
template <class A>
const A* selection(const Tensor& s, const Maps& x) {
  check_parameter("s", s, x.like, std::array{x.like.n, x.count(), x.like.c});
  return data<A>(s);
}

Tensor mix(const Tensor& x0, const Optional& x1, const Optional& x2, const Optional& x3,
           const Tensor& s, const Optional& residual_any, const std::string& activation) {
  STD_TORCH_CHECK(activation == "identity" || activation == "relu",
                  "attn_kernels: activation must be identity or relu, got ", activation);
  STD_TORCH_CHECK(s.dim() == 3 && s.size(2) > 0 && x0.dim() == 4 && x0.size(1) % s.size(2) == 0,
                  "attn_kernels: s must be (N, maps, C), where C divides x's channels");
  const Maps x(x0, {&x1, &x2, &x3}, x0.size(1) / s.size(2));
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

Four mix_backward(const Optional& dr_any, const Tensor& x0, const Optional& s,
                  const Optional& offset, int64_t tensors, int64_t parts) {
  STD_TORCH_CHECK(dr_any.has_value() == s.has_value(), "attn_kernels: dr and s come together");
  STD_TORCH_CHECK(1 <= tensors && tensors <= 4, "attn_kernels: tensors must be from 1 to 4");
  Maps dx(x0, parts);
  const Optional dr = optional_map(dr_any, dx.like);
  for (int64_t i = 0; i < tensors; ++i) dx.tensors.push_back(empty_like(dx.all_parts()));
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
  const auto result = [&](int64_t i) {
    return i < tensors ? dx.tensors[i] : per_channel(dx.like, dx.like.dtype(), false);
  };
  return {result(0), result(1), result(2), result(3)};
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("mix", TORCH_BOX(&mix));
  m.impl("mix_sums", TORCH_BOX(&mix_sums));
  m.impl("mix_squeeze", TORCH_BOX(&mix_squeeze));
  m.impl("mix_backward", TORCH_BOX(&mix_backward));
}

}  // namespace
}  // namespace attn_kernels
