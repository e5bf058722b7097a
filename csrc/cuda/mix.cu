// mix, mix_squeeze and their gradients on CUDA: host side. Kernels: mix.cuh; plane_reduce.cuh with
// it; their order: launch_mix.h.
#include "../common/mix_operands.h"
#include "host_planes.h"
#include "launch_mix.h"

namespace attn_kernels {
namespace {

using Optional = std::optional<Tensor>;

// Pixels of channels_last that lie further apart than this are rare, and steps have 32 bits.
constexpr int64_t kFurthestPixel = (int64_t{1} << 32) / kThreads - 1;

int64_t pixel_step(const Tensor& t) { return t.stride(t.size(3) > 1 ? 3 : 2); }

bool can_read(const Tensor& t, const FeatureMap& like) {
  const int64_t channels = t.size(1), pixels = like.h * like.w;
  if (!is_in_place(t, like.channels_last)) return false;
  if (!like.channels_last) return channels == 1 || t.stride(1) == pixels;
  return pixels == 1 || (channels <= pixel_step(t) && pixel_step(t) <= kFurthestPixel);
}

// As the kernels take them.
struct CudaMaps : MixOperands {
  CudaMaps(const Tensor& x, int64_t parts) : MixOperands(x, parts) { check_cuda(like); }
  CudaMaps(const Tensor& x, std::initializer_list<const Optional*> others, int64_t parts)
      : MixOperands(x, others, parts, can_read) {
    check_cuda(like);
  }

  template <class E>
  MixMaps<E> maps() const {
    const int64_t pixels = like.h * like.w, of_map = like.c * pixels;
    MixMaps<E> found{{},
                     static_cast<int>(tensors.size()),
                     static_cast<int>(parts),
                     like.channels_last ? like.c : of_map};
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Tensor& t = tensors[i];
      const bool pixels_apart = like.channels_last && pixels > 1;
      found.tensor[i] = {out<std::remove_const_t<E>>(t), like.n > 1 ? t.stride(0) - of_map : 0,
                         pixels_apart ? pixel_step(t) - like.c : 0};
    }
    return found;
  }
};

Tensor mix_cuda(const Tensor& x0, const Optional& x1, const Optional& x2, const Optional& x3,
                const Tensor& s_any, const Optional& residual_any, const std::string& activation) {
  const bool relu = check_activation(activation);
  const CudaMaps x(x0, {&x1, &x2, &x3}, parts_of(x0, s_any));
  x.check_selection(s_any);
  const CudaLaunch launch(x0);
  const Tensor s = aligned(s_any), y = empty_like(x.like);
  const Optional residual = cuda_map("residual", residual_any, x.like);
  with_dtype(x.like, [&](auto type) {
    using T = decltype(type);
    mix<T>(
        launch, x.like.channels_last,
        {shape_of(x.like), {}, x.maps<const T>(), in<Acc<T>>(s), in<T>(residual), out<T>(y), relu});
  });
  return y;
}

// What mix_sums and mix_squeeze have in common.
void sum_maps(const CudaMaps& x, const Optional& dy, const Optional& y, const Tensor& dr,
              const Tensor& sums, bool is_mean) {
  const CudaLaunch launch(x.like.tensor);
  with_dtype(x.like, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    const Shape shape = shape_of(x.like);
    const int64_t partials = mix_sums_partials<T>(shape, x.like.channels_last);
    const Tensor partial = empty(x.like, std::array{kMixTogether * partials}, x.like.acc_dtype());
    mix_sums<T>(launch, x.like.channels_last,
                {{0, 0, 0, 0, 0, static_cast<typename MixSums<T>::Stat*>(out<void>(partial)),
                  is_mean ? nullptr : out<Real>(sums), is_mean ? out<Real>(sums) : nullptr},
                 shape,
                 {},
                 x.maps<const T>(),
                 in<T>(dy),
                 in<T>(y),
                 y ? out<T>(dr) : nullptr});
  });
}

std::tuple<Tensor, Tensor> mix_sums_cuda(const Tensor& dy_any, const Tensor& x0, const Optional& x1,
                                         const Optional& x2, const Optional& x3,
                                         const Optional& y_any, int64_t parts) {
  const CudaMaps x(x0, {&x1, &x2, &x3}, parts);
  const Tensor dy = cuda_map("dy", dy_any, x.like);
  const Optional y = cuda_map("y", y_any, x.like);
  const Tensor d_s = empty(x.like, std::array{x.like.n, x.count(), x.like.c}, x.like.acc_dtype());
  const Tensor dr = y ? empty_like(x.like) : nothing(x.like, x.like.dtype());
  sum_maps(x, dy, y, dr, d_s, false);
  return {d_s, dr};
}

Tensor mix_squeeze_cuda(const Tensor& x0, const Optional& x1, const Optional& x2,
                        const Optional& x3, int64_t parts) {
  const CudaMaps x(x0, {&x1, &x2, &x3}, parts);
  const Tensor mean = per_channel(x.like, x.like.acc_dtype());
  sum_maps(x, {}, {}, mean, mean, true);
  return mean;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mix_backward_cuda(const Optional& dr_any,
                                                             const Tensor& x, const Optional& s_any,
                                                             const Optional& offset,
                                                             int64_t tensors, int64_t parts) {
  check_selected(dr_any, s_any);
  CudaMaps dx(x, parts);
  const CudaLaunch launch(x);
  const Optional dr = cuda_map("dr", dr_any, dx.like);
  dx.add_results(tensors);
  if (s_any) dx.check_selection(*s_any);
  const Optional s = s_any ? Optional(aligned(*s_any)) : Optional();
  with_dtype(dx.like, [&](auto type) {
    using T = decltype(type);
    using Real = Acc<T>;
    mix_gradient<T>(launch, dx.like.channels_last,
                    {shape_of(dx.like),
                     {},
                     in<T>(dr),
                     in<Real>(s),
                     coefficient<Real>("offset", offset, dx.like),
                     dx.maps<T>()});
  });
  return dx.results();
}

}  // namespace
}  // namespace attn_kernels

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CUDA, m) {
  m.impl("mix", TORCH_BOX(&attn_kernels::mix_cuda));
  m.impl("mix_sums", TORCH_BOX(&attn_kernels::mix_sums_cuda));
  m.impl("mix_squeeze", TORCH_BOX(&attn_kernels::mix_squeeze_cuda));
  m.impl("mix_backward", TORCH_BOX(&attn_kernels::mix_backward_cuda));
}
