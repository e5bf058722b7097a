// The ops of csrc/cuda that see a map as planes, beside the spatial ones (ops.h).
#pragma once

#include "launch_excite.h"
#include "ops.h"

namespace cuda_on_cpu {

template <class T>
struct AllOps : Ops<T> {
  using Real = Acc<T>;
  std::int64_t planes = this->at.shape.n * this->at.shape.c;

  AllOps(const Case& at, const std::vector<Bytes>& input) : Ops<T>{at, input} {}

  // An input of which the contents count, not the type: (N, C) int64.
  auto places(const char* name, int i) const { return this->template in<std::int64_t>(name, i); }

  // x, statistics.
  std::vector<Bytes> squeeze() {
    const Case& at = this->at;
    auto x = this->template in<T>("x", 0);
    auto statistics = places("statistics", 1);
    const auto wants = [&](attn_kernels::Statistic s) { return (*statistics.data() & s) != 0; };
    const auto count = [&](attn_kernels::Statistic s) { return wants(s) ? planes : 0; };
    using attn_kernels::kMax, attn_kernels::kMean, attn_kernels::kMin, attn_kernels::kVar;
    Buffer<Real> mean("mean", count(kMean)), var("var", count(kVar));
    Buffer<Real> max("max", count(kMax)), min("min", count(kMin));
    Buffer<std::int64_t> argmax("argmax", count(kMax)), argmin("argmin", count(kMin));
    const auto given = [](auto& buffer, bool wanted) { return wanted ? buffer.data() : nullptr; };
    Buffer<char> partial("partial", attn_kernels::squeeze_bytes<T>(at.shape, at.channels_last));
    attn_kernels::squeeze<T>(
        at.launch, at.shape, at.channels_last, x.data(), partial.data(),
        {given(mean, wants(kMean)), given(var, wants(kVar)), given(max, wants(kMax)),
         given(min, wants(kMin)), given(argmax, wants(kMax)), given(argmin, wants(kMin))});
    partial.bytes();
    return {mean.bytes(), var.bytes(), max.bytes(), min.bytes(), argmax.bytes(), argmin.bytes()};
  }

  // dr, x, scale, slope, offset, argmax, d_max, argmin, d_min.
  std::vector<Bytes> squeeze_backward() {
    const Case& at = this->at;
    auto dr = this->template in<T>("dr", 0), x = this->template in<T>("x", 1);
    auto scale = this->in("scale", 2), slope = this->in("slope", 3);
    auto offset = this->in("offset", 4), d_max = this->in("d_max", 6);
    auto d_min = this->in("d_min", 8);
    auto argmax = places("argmax", 5), argmin = places("argmin", 7);
    Buffer<T> dx("dx", this->elements, at.skew);
    attn_kernels::squeeze_gradient<T>(at.launch, at.channels_last,
                                      {at.shape,
                                       {},
                                       dr.data(),
                                       x.data(),
                                       scale.data(),
                                       slope.data(),
                                       offset.data(),
                                       {argmax.data(), d_max.data()},
                                       {argmin.data(), d_min.data()},
                                       dx.data()});
    return {dx.bytes()};
  }

  // x, scale, shift, residual.
  std::vector<Bytes> affine_gate() {
    const Case& at = this->at;
    auto x = this->template in<T>("x", 0), residual = this->template in<T>("residual", 3);
    auto scale = this->in("scale", 1), shift = this->in("shift", 2);
    Buffer<T> y("y", this->elements, at.skew);
    attn_kernels::gate<T, false>(at.launch, at.channels_last,
                                 {at.shape,
                                  {},
                                  x.data(),
                                  nullptr,
                                  scale.data(),
                                  shift.data(),
                                  residual.data(),
                                  y.data(),
                                  at.relu});
    return {y.bytes()};
  }

  // dy, x, y.
  std::vector<Bytes> affine_gate_sums() {
    const Case& at = this->at;
    auto dy = this->template in<T>("dy", 0), x = this->template in<T>("x", 1);
    auto y = this->template in<T>("y", 2);
    Buffer<Real> d_scale("d_scale", planes), d_shift("d_shift", planes);
    Buffer<T> dr("dr", y.given ? this->elements : 0, at.skew);
    Buffer<attn_kernels::GateSumsStat<Real>> partial(
        "partial", attn_kernels::affine_gate_sums_partials<T>(at.shape, at.channels_last));
    attn_kernels::affine_gate_sums<T>(
        at.launch, at.shape, at.channels_last,
        {dy.data(), x.data(), y.data(), partial.data(), d_scale.data(), d_shift.data(),
         y.given ? dr.data() : nullptr});
    partial.bytes();
    return {d_scale.bytes(), d_shift.bytes(), dr.bytes()};
  }

  // x, w1, b1, w2, b2, and the numbers of activation and gate.
  std::vector<Bytes> squeeze_excite() {
    const Case& at = this->at;
    auto x = this->template in<T>("x", 0);
    auto w1 = this->in("w1", 1), b1 = this->in("b1", 2), w2 = this->in("w2", 3);
    auto b2 = this->in("b2", 4);
    auto kinds = places("kinds", 5);
    const int c = at.shape.c, r = static_cast<int>(this->input[1].size() / sizeof(Real)) / c;
    Buffer<Real> mean("mean", planes), scale("scale", planes), hidden("hidden", at.shape.n * r);
    Buffer<T> y("y", this->elements, at.skew);
    Buffer<char> partial("partial", attn_kernels::squeeze_bytes<T>(at.shape, at.channels_last));
    attn_kernels::squeeze_excite<T>(at.launch, at.shape, at.channels_last,
                                    {x.data(),
                                     {at.shape.n,
                                      c,
                                      r,
                                      0,
                                      0,
                                      attn_kernels::ExciteActivation(kinds.data()[0]),
                                      attn_kernels::ExciteGate(kinds.data()[1]),
                                      {},
                                      mean.data(),
                                      w1.data(),
                                      b1.data(),
                                      w2.data(),
                                      b2.data(),
                                      hidden.data(),
                                      scale.data()},
                                     partial.data(),
                                     y.data()});
    partial.bytes();
    return {y.bytes(), scale.bytes(), mean.bytes(), hidden.bytes()};
  }

  // dy, x, w1, w2, scale, mean, hidden, and the numbers of activation and gate.
  std::vector<Bytes> squeeze_excite_backward() {
    const Case& at = this->at;
    auto dy = this->template in<T>("dy", 0), x = this->template in<T>("x", 1);
    auto w1 = this->in("w1", 2), w2 = this->in("w2", 3), scale = this->in("scale", 4);
    auto mean = this->in("mean", 5), hidden = this->in("hidden", 6);
    auto kinds = places("kinds", 7);
    const int c = at.shape.c, r = static_cast<int>(this->input[2].size() / sizeof(Real)) / c;
    Buffer<Real> d_scale("d_scale", planes), d_shift("d_shift", planes), offset("offset", planes);
    Buffer<Real> d_hidden("d_hidden", at.shape.n * r), d_w1("d_w1", c * r), d_b1("d_b1", r);
    Buffer<Real> d_w2("d_w2", c * r), d_b2("d_b2", c);
    Buffer<T> dx("dx", this->elements, at.skew);
    Buffer<attn_kernels::GateSumsStat<Real>> partial(
        "partial", attn_kernels::affine_gate_sums_partials<T>(at.shape, at.channels_last));
    attn_kernels::squeeze_excite_backward<T>(
        at.launch, at.shape, at.channels_last,
        {dy.data(),
         x.data(),
         {at.shape.n, c, r, attn_kernels::ExciteActivation(kinds.data()[0]),
          attn_kernels::ExciteGate(kinds.data()[1]), w1.data(), w2.data(), scale.data(),
          mean.data(), hidden.data(), nullptr, 0, d_hidden.data(), offset.data(), d_w1.data(),
          d_b1.data(), d_w2.data(), d_b2.data()},
         partial.data(),
         d_scale.data(),
         d_shift.data(),
         dx.data()});
    partial.bytes(), d_scale.bytes(), d_shift.bytes(), offset.bytes(), d_hidden.bytes();
    return {dx.bytes(), d_w1.bytes(), d_b1.bytes(), d_w2.bytes(), d_b2.bytes()};
  }

  std::vector<Bytes> run(const std::string& op) {
    if (op == "squeeze_excite") return squeeze_excite();
    if (op == "squeeze_excite_backward") return squeeze_excite_backward();
    if (op == "squeeze") return squeeze();
    if (op == "squeeze_backward") return squeeze_backward();
    if (op == "affine_gate") return affine_gate();
    if (op == "affine_gate_sums") return affine_gate_sums();
    return Ops<T>::run(op);
  }
};

}  // namespace cuda_on_cpu
