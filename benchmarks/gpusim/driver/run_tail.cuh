// Runs a chain of squeeze and excitation or of a tail and compares its outputs with plain loops.
#pragma once

#include <string>

#include "ours_tail.cuh"
#include "squeeze_reference.h"
#include "tail_chains.cuh"
#include "testing.h"

inline bool is_backward(const std::string& chain) {
  return chain.size() > 4 && chain.compare(chain.size() - 4, 4, "_bwd") == 0;
}

inline bool is_of(const std::string& chain, const std::string& op) {
  return chain.rfind(op + "_", 0) == 0;
}

template <class T>
void run_excite(const std::string& chain, const Sizes& s) {
  Normals normals;
  const Values x = normals.of<T>(s.elements()), dy = normals.of<T>(s.elements());
  Excitation wanted;
  const int64_t hidden = wanted.r = std::max<int64_t>(1, s.c / 16);
  wanted.w1 = normals.of<float>(hidden * s.c, 0.1f), wanted.b1 = normals.of<float>(hidden);
  wanted.w2 = normals.of<float>(hidden * s.c, 0.1f), wanted.b2 = normals.of<float>(s.c);
  excite(s, x, wanted);

  base::Tensors<T> t = base::allocate<T>(s);
  t.x = to_device_as<T>(x), t.dy = to_device_as<T>(dy);
  attn_kernels::ExciteArguments<float> layers = {};
  layers.n = s.n, layers.c = t.c, layers.r = static_cast<int>(hidden);
  layers.activation = attn_kernels::ExciteActivation::kRelu;
  layers.gate = attn_kernels::ExciteGate::kSigmoid;
  layers.w1 = to_device_as<float>(wanted.w1), layers.b1 = to_device_as<float>(wanted.b1);
  layers.w2 = to_device_as<float>(wanted.w2), layers.b2 = to_device_as<float>(wanted.b2);
  const Launch launch;
  std::printf("BEGIN %s\n", chain.c_str());
  if (!is_backward(chain)) {
    layers.mean = on_device<float>(s.n * s.c), layers.scale = on_device<float>(s.n * s.c);
    layers.hidden = on_device<float>(s.n * hidden);
    if (chain == "se_ours") ours_excite(launch, s, t, layers);
    if (chain == "se_compile") base::compiled_excite(launch, t, layers);
    compare("mean", layers.mean, wanted.mean, kSums);
    compare("y", t.y, wanted.y, kMaps<T>);
    return;
  }
  attn_kernels::ExciteGradientArguments<float> gradient = {};
  gradient.n = s.n, gradient.c = layers.c, gradient.r = layers.r;
  gradient.activation = layers.activation, gradient.gate = layers.gate;
  gradient.w1 = layers.w1, gradient.w2 = layers.w2;
  gradient.scale = to_device_as<float>(wanted.scale);
  gradient.mean = to_device_as<float>(wanted.mean);
  gradient.hidden = to_device_as<float>(wanted.hidden);
  gradient.d_hidden = on_device<float>(s.n * hidden);
  gradient.offset = on_device<float>(s.n * s.c);
  gradient.d_w1 = on_device<float>(hidden * s.c), gradient.d_b1 = on_device<float>(hidden);
  gradient.d_w2 = on_device<float>(hidden * s.c), gradient.d_b2 = on_device<float>(s.c);
  if (chain == "se_ours_bwd") ours_excite_backward(launch, s, t, gradient);
  if (chain == "se_compile_bwd") base::compiled_excite_backward(launch, t, gradient);
  const ExcitationGradient right = excite_backward(s, dy, x, wanted);
  compare("dx", t.dx, right.dx, kMaps<T>);
  compare("d_w1", gradient.d_w1, right.d_w1, kSums);
  compare("d_w2", gradient.d_w2, right.d_w2, kSums);
}

// The coefficients of the last pass, dx = scale * dr + slope * x + offset (+ extreme at argmax), by
// what the tail's (N, C) operations would have made of the sums.
template <class T>
void set_coefficients(const Sizes& s, const Tail& saved, const TailGradient& gradient,
                      OursTail<T>& t) {
  const double count = s.n * s.hw();
  const int64_t planes = s.n * s.c;
  Values slope, offset, extreme;
  for (int64_t plane = 0; plane < planes; ++plane) {
    const int64_t c = plane % s.c;
    const double a = saved.a[c], of_x = saved.slope(c, gradient.product[c], count);
    slope.push_back(-a * of_x);
    offset.push_back(
        a * (gradient.d_logit[plane] / s.hw() - gradient.sum[c] / count + saved.mean[c] * of_x));
    extreme.push_back(a * gradient.d_logit[plane]);
  }
  t.slope = to_device_as<float>(slope), t.offset = to_device_as<float>(offset);
  if (!t.cbam) return;
  t.ones = to_device(std::vector<float>(planes, 1));
  t.max = {to_device(saved.argmax), to_device_as<float>(extreme)};
  t.min = {to_device(std::vector<int64_t>(planes)), to_device(std::vector<float>(planes))};
}

// What the forward has left of the view's maximum: to the last bit, by which its channel is found.
inline Values pooled_of_view(const Sizes& s, const Values& x, const std::vector<float>& scale,
                             const std::vector<float>& shift, Values pooled) {
  const auto max_at = [&](int64_t plane, int64_t p) -> double& {
    return pooled[(plane / s.c * 2 + 1) * s.hw() + p];
  };
  for_elements(s,
               [&](int64_t plane, int64_t, int64_t p, int64_t) { max_at(plane, p) = -INFINITY; });
  for_elements(s, [&](int64_t plane, int64_t, int64_t p, int64_t e) {
    const float value = std::fma(scale[plane], static_cast<float>(x[e]), shift[plane]);
    max_at(plane, p) = std::max<double>(max_at(plane, p), value);
  });
  return pooled;
}

template <class T>
void run_ours_tail(const Sizes& s, const base::Tensors<T>& tensors, const TailInputs& in,
                   const Tail& wanted, const TailGradient* gradient) {
  std::vector<float> scale, shift;
  for (int64_t plane = 0; plane < s.n * s.c; ++plane) {
    scale.push_back(wanted.s[plane] * wanted.a[plane % s.c]);
    shift.push_back(wanted.s[plane] * wanted.b[plane % s.c]);
  }
  OursTail<T> t = {tensors};
  t.cbam = in.cbam;
  t.x = to_device_as<T>(in.x), t.residual = to_device_as<T>(in.residual);
  t.scale = to_device(scale), t.shift = to_device(shift);
  const Launch launch;
  if (gradient == nullptr) {
    const auto results = [&] { return on_device<float>(s.n * s.c); };
    t.statistics.mean = results(), t.statistics.var = results();
    if (t.cbam) {
      t.statistics.max = results(), t.statistics.min = results();
      t.statistics.argmax = on_device<int64_t>(s.n * s.c);
      t.statistics.argmin = on_device<int64_t>(s.n * s.c);
    }
    ours_tail(launch, s, t);
    compare("mean", t.statistics.mean, wanted.x_mean, kSums);
    if (t.cbam)
      compare("argmax", t.statistics.argmax, Values(wanted.argmax.begin(), wanted.argmax.end()), 0);
    compare("y", t.y, wanted.y, kMaps<T>);
    return;
  }
  t.y = to_device_as<T>(wanted.y);
  if (t.cbam) {
    t.pooled = to_device_as<float>(pooled_of_view(s, in.x, scale, shift, wanted.spatial.pooled));
  }
  t.dr = t.temporary[0], t.d_view = t.temporary[1];
  t.d_scale = on_device<float>(s.n * s.c), t.d_shift = on_device<float>(s.n * s.c);
  set_coefficients(s, wanted, *gradient, t);
  ours_tail_backward(launch, s, t);
  compare("dr", t.dr, gradient->dr, 0);
  compare("d_scale", t.d_scale, gradient->d_scale, kMaps<T>);
  compare("d_shift", t.d_shift, gradient->d_shift, kMaps<T>);
  compare("dx", t.dx, gradient->dx, kMaps<T>);
}

template <class T>
void run_compiled_tail(const Sizes& s, const base::Tensors<T>& tensors, const TailInputs& in,
                       const Tail& wanted, const TailGradient* gradient) {
  base::Tensors<T> t = tensors;
  const auto map = [&] { return on_device<T>(s.elements()); };
  const auto of_planes = [&] { return on_device<float>(s.n * s.c); };
  base::TailTensors<T> tail = {t.c, t.hw()};
  tail.share = 1.f / static_cast<float>(s.n * s.hw());
  tail.z = to_device_as<T>(in.x), tail.residual = to_device_as<T>(in.residual), tail.y = t.y;
  tail.gamma = to_device_as<float>(in.gamma), tail.beta = to_device_as<float>(in.beta);
  tail.s = to_device_as<float>(wanted.s);
  tail.logit = t.logit, tail.d_pooled = t.d_pooled;
  const Launch launch;
  if (gradient == nullptr) {
    tail.f = map(), tail.scaled = map(), tail.stopped = on_device<uint8_t>(s.elements());
    tail.mean = of_planes(), tail.rstd = of_planes();
    tail.f_mean = of_planes(), tail.f_max = of_planes();
    in.cbam ? base::compiled_tail<true>(launch, t, tail)
            : base::compiled_tail<false>(launch, t, tail);
    compare("f_mean", tail.f_mean, wanted.f_mean, kSums);
    if (in.cbam) compare("f_max", tail.f_max, wanted.f_max, kSums);
    compare("y", tail.y, wanted.y, kMaps<T>);
    return;
  }
  std::vector<uint8_t> stopped;
  for (const double y : wanted.y) stopped.push_back(!(y > 0));
  tail.stopped = to_device(stopped);
  tail.f = to_device_as<T>(wanted.f);
  tail.mean = to_device_as<float>(wanted.mean), tail.rstd = to_device_as<float>(wanted.rstd);
  tail.d_logit = to_device_as<float>(gradient->d_logit);
  tail.dy = t.dy, tail.dr = t.y, tail.dz = t.dx, tail.df = map();
  tail.scattered = t.temporary[0], tail.of_max = t.temporary[1];
  tail.d_s = of_planes(), tail.sum = of_planes(), tail.product = of_planes();
  tail.argmax = on_device<int64_t>(s.n * s.c);
  t.x = to_device_as<T>(wanted.scaled);
  in.cbam ? base::compiled_cbam_tail_backward(launch, t, tail)
          : base::compiled_se_tail_backward(launch, t, tail);
  compare("dr", tail.dr, gradient->dr, 0);
  compare("sum", tail.sum, gradient->sum, kMaps<T>);
  compare("product", tail.product, gradient->product, kMaps<T>);
  compare("dx", tail.dz, gradient->dx, kMaps<T>);
}

template <class T>
void run_tail(const std::string& chain, const Sizes& s) {
  Normals normals;
  TailInputs in;
  in.cbam = is_of(chain, "cbam_tail");
  in.x = normals.of<T>(s.elements()), in.residual = normals.of<T>(s.elements());
  const Values dy = normals.of<T>(s.elements());
  in.beta = normals.of<float>(s.c, 0.1f), in.gamma = Values(s.c, 0.75);
  in.weight = normals.of<float>(2 * kTaps, 0.1f), in.bias = 0.125;
  const Tail wanted = tail(s, in);

  base::Tensors<T> t = base::allocate<T>(s);
  t.dy = to_device_as<T>(dy);
  t.weight = to_device_as<float>(in.weight), t.bias = to_device_as<float>(Values{in.bias});
  TailGradient gradient;
  const bool backwards = is_backward(chain);
  if (backwards) gradient = tail_backward(s, dy, in, wanted);
  if (backwards && in.cbam) base::save(t, wanted.spatial);
  std::printf("BEGIN %s\n", chain.c_str());
  const auto run =
      chain.find("_ours") != std::string::npos ? run_ours_tail<T> : run_compiled_tail<T>;
  run(s, t, in, wanted, backwards ? &gradient : nullptr);
  if (backwards && in.cbam) compare("d_weight", t.d_weight, gradient.spatial.d_weight, kSums);
}
