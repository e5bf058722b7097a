// mix and blend of csrc/cuda, beside all others (plane_ops.h). The case's shape is that of one map.
#pragma once

#include "launch_blend.h"
#include "launch_mix.h"
#include "plane_ops.h"

namespace cuda_on_cpu {

template <class T>
struct MixOps : AllOps<T> {
  using Real = Acc<T>;

  MixOps(const Case& at, const std::vector<Bytes>& input) : AllOps<T>(at, input) {}

  using Buffers = std::vector<std::unique_ptr<Buffer<T>>>;

  // Of four tensors, from input `first` on, those that are not empty.
  Buffers buffers_of(int first) const {
    Buffers buffers;
    for (int i = first; i < first + attn_kernels::kMixTensors; ++i) {
      if (this->input.at(i).empty()) continue;
      buffers.push_back(std::make_unique<Buffer<T>>("a map", this->input[i], this->at.skew));
    }
    return buffers;
  }
  // Each of so many maps. Sliced: these are tensors of their own, which lie in one.
  attn_kernels::MixMaps<T> maps_in(Buffers& buffers, std::int64_t parts, bool sliced) const {
    const Shape& shape = this->at.shape;
    const bool last = this->at.channels_last;
    const std::int64_t more = (parts - 1) * shape.c;
    attn_kernels::MixMaps<T> maps{{}, 0, sliced ? 1 : static_cast<int>(parts), 0};
    maps.part = last ? shape.c : shape.c * shape.hw;
    for (auto& buffer : buffers) {
      for (std::int64_t slice = 0; slice < (sliced ? parts : 1); ++slice) {
        maps.tensor[maps.tensors++] = {buffer->data() + slice * maps.part, more * shape.hw,
                                       last ? more : 0};
      }
    }
    return maps;
  }
  static attn_kernels::MixMaps<const T> read(const attn_kernels::MixMaps<T>& maps) {
    attn_kernels::MixMaps<const T> found{{}, maps.tensors, maps.parts, maps.part};
    for (int t = 0; t < maps.tensors; ++t) {
      found.tensor[t] = {maps.tensor[t].data, maps.tensor[t].image, maps.tensor[t].pixel};
    }
    return found;
  }

  // x, x1, x2, x3, (parts, sliced), s, residual.
  std::vector<Bytes> mix() {
    Buffers x = buffers_of(0);
    auto layout = this->places("layout", 4);
    auto s = this->in("s", 5);
    auto residual = this->template in<T>("residual", 6);
    Buffer<T> y("y", this->elements, this->at.skew);
    attn_kernels::mix<T>(this->at.launch, this->at.channels_last,
                         {this->at.shape,
                          {},
                          read(maps_in(x, layout.data()[0], layout.data()[1])),
                          s.data(),
                          residual.data(),
                          y.data(),
                          this->at.relu});
    return {y.bytes()};
  }

  // x, x1, x2, x3, (parts, sliced), dy, y; without dy the mean is sought.
  std::vector<Bytes> mix_sums() {
    Buffers x = buffers_of(0);
    auto layout = this->places("layout", 4);
    auto dy = this->template in<T>("dy", 5), y = this->template in<T>("y", 6);
    const auto maps = read(maps_in(x, layout.data()[0], layout.data()[1]));
    Buffer<Real> sums("sums", this->planes * (dy.given ? maps.count() : 1));
    Buffer<T> dr("dr", y.given ? this->elements : 0, this->at.skew);
    using Stat = typename attn_kernels::MixSums<T>::Stat;
    Buffer<Stat> partial(
        "partial", attn_kernels::mix_sums_partials<T>(this->at.shape, this->at.channels_last));
    Real* const none = nullptr;
    attn_kernels::mix_sums<T>(this->at.launch, this->at.channels_last,
                              {{0, 0, 0, 0, 0, partial.data(), dy.given ? sums.data() : none,
                                dy.given ? none : sums.data()},
                               this->at.shape,
                               {},
                               maps,
                               dy.data(),
                               y.data(),
                               y.given ? dr.data() : nullptr});
    partial.bytes();
    return {sums.bytes(), dr.bytes()};
  }

  // dr, s, offset, (tensors, parts).
  std::vector<Bytes> mix_backward() {
    auto dr = this->template in<T>("dr", 0);
    auto s = this->in("s", 1), offset = this->in("offset", 2);
    auto layout = this->places("layout", 3);
    const std::int64_t parts = layout.data()[1];
    Buffers dx;
    for (std::int64_t i = 0; i < layout.data()[0]; ++i) {
      dx.push_back(std::make_unique<Buffer<T>>("dx", parts * this->elements, this->at.skew));
    }
    attn_kernels::mix_gradient<T>(
        this->at.launch, this->at.channels_last,
        {this->at.shape, {}, dr.data(), s.data(), offset.data(), maps_in(dx, parts, false)});
    std::vector<Bytes> results;
    for (auto& buffer : dx) results.push_back(buffer->bytes());
    return results;
  }

  // x, y, a, scale, shift, factor.
  std::vector<Bytes> blend() {
    auto x = this->template in<T>("x", 0), y = this->template in<T>("y", 1);
    auto a = this->template in<T>("a", 2);
    auto scale = this->in("scale", 3), shift = this->in("shift", 4), factor = this->in("factor", 5);
    Buffer<T> z("z", this->elements, this->at.skew);
    attn_kernels::blend<T>(this->at.launch, this->at.channels_last,
                           {this->at.shape,
                            {},
                            x.data(),
                            y.data(),
                            a.data(),
                            scale.data(),
                            shift.data(),
                            *factor.data(),
                            z.data()});
    return {z.bytes()};
  }

  // dz, x, y, a, scale, shift, factor.
  std::vector<Bytes> blend_backward() {
    const Case& at = this->at;
    auto dz = this->template in<T>("dz", 0), x = this->template in<T>("x", 1);
    auto y = this->template in<T>("y", 2), a = this->template in<T>("a", 3);
    auto scale = this->in("scale", 4), shift = this->in("shift", 5), factor = this->in("factor", 6);
    Buffer<T> dx("dx", this->elements, at.skew), dy("dy", this->elements, at.skew);
    Buffer<T> da("da", this->elements, at.skew);
    Buffer<Real> d_scale("d_scale", this->planes), d_shift("d_shift", this->planes);
    Buffer<attn_kernels::GateSumsStat<Real>> partial(
        "partial", attn_kernels::affine_gate_sums_partials<T>(at.shape, at.channels_last));
    attn_kernels::blend_backward<T>(at.launch, at.channels_last,
                                    {{0, partial.data(), d_scale.data(), d_shift.data()},
                                     at.shape,
                                     {},
                                     dz.data(),
                                     x.data(),
                                     y.data(),
                                     a.data(),
                                     scale.data(),
                                     shift.data(),
                                     *factor.data(),
                                     dx.data(),
                                     dy.data(),
                                     da.data()});
    partial.bytes();
    return {dx.bytes(), dy.bytes(), da.bytes(), d_scale.bytes(), d_shift.bytes()};
  }

  std::vector<Bytes> run(const std::string& op) {
    if (op == "mix") return mix();
    if (op == "mix_sums") return mix_sums();
    if (op == "mix_backward") return mix_backward();
    if (op == "blend") return blend();
    if (op == "blend_backward") return blend_backward();
    return AllOps<T>::run(op);
  }
};

// The launches of these ops on tensors that need not be there; false for any other op. `odd`: three
// maps and not two.
template <class T, class Launch>
bool launch_mix_ops(const Launch& launch, const std::string& op, const Shape& shape,
                    bool channels_last, T* x, bool odd) {
  using Real = Acc<T>;
  Real* const real = reinterpret_cast<Real*>(std::uintptr_t{64});
  const attn_kernels::MixTensor<T> one{x, 0, 0};
  const attn_kernels::MixMaps<T> to{{one, one, one}, odd ? 3 : 2, 1, 0};
  const attn_kernels::MixMaps<const T> maps = MixOps<T>::read(to);
  T* const y = odd ? x : nullptr;
  if (op == "mix") {
    attn_kernels::mix<T>(launch, channels_last, {shape, {}, maps, real, y, x, odd});
  } else if (op == "mix_sums") {
    attn_kernels::mix_sums<T>(launch, channels_last,
                              {{0, 0, 0, 0, 0, nullptr, real, nullptr}, shape, {}, maps, x, y, y});
  } else if (op == "mix_backward") {
    attn_kernels::mix_gradient<T>(launch, channels_last, {shape, {}, x, real, nullptr, to});
  } else if (op == "blend") {
    attn_kernels::blend<T>(launch, channels_last, {shape, {}, x, x, x, real, real, Real(1), x});
  } else if (op == "blend_backward") {
    attn_kernels::blend_backward<T>(
        launch, channels_last,
        {{0, nullptr, real, real}, shape, {}, x, x, x, x, real, real, Real(1), x, x, x});
  } else {
    return false;
  }
  return true;
}

}  // namespace cuda_on_cpu
