// Squeeze and excitation, and the tails of residual blocks in training, in plain loops and double
// precision:
//   y = relu(g + residual), g = s * f (SE's tail) or the spatial gate of s * f (CBAM's),
//   f = norm(x) by the batch's statistics, s = sigmoid(mean f) or sigmoid(mean f + max f)
// The layers that a tail's gate has between statistics and sigmoid are left out: (N, C) only.
#pragma once

#include "reference.h"

constexpr double kEpsilon = 1e-5;

using Values = std::vector<double>;

inline double logistic(double logit) { return 1 / (1 + std::exp(-logit)); }

// f(plane, channel, pixel, element)
template <class F>
void for_elements(const Sizes& s, F f) {
  for (int64_t plane = 0; plane < s.n * s.c; ++plane) {
    for (int64_t p = 0; p < s.hw(); ++p)
      f(plane, plane % s.c, p, s.at(plane / s.c, plane % s.c, p));
  }
}

struct Excitation {
  int64_t r;
  Values w1, b1, w2, b2;       // (R, C), (R), (C, R), (C)
  Values mean, hidden, scale;  // (N, C), before the ReLU (N, R), (N, C)
  Values y;
};

// The rest from r, w1, b1, w2 and b2.
inline void excite(const Sizes& s, const Values& x, Excitation& of) {
  of.mean.resize(s.n * s.c);
  of.y.resize(s.elements());
  for_elements(
      s, [&](int64_t plane, int64_t, int64_t, int64_t e) { of.mean[plane] += x[e] / s.hw(); });
  for (int64_t image = 0; image < s.n; ++image) {
    for (int64_t r = 0; r < of.r; ++r) {
      double sum = of.b1[r];
      for (int64_t c = 0; c < s.c; ++c) sum += of.w1[r * s.c + c] * of.mean[image * s.c + c];
      of.hidden.push_back(sum);
    }
    for (int64_t c = 0; c < s.c; ++c) {
      double sum = of.b2[c];
      for (int64_t r = 0; r < of.r; ++r) {
        sum += of.w2[c * of.r + r] * std::max(of.hidden[image * of.r + r], 0.0);
      }
      of.scale.push_back(logistic(sum));
    }
  }
  for_elements(
      s, [&](int64_t plane, int64_t, int64_t, int64_t e) { of.y[e] = of.scale[plane] * x[e]; });
}

struct ExcitationGradient {
  Values dx, d_w1, d_w2;
};

inline ExcitationGradient excite_backward(const Sizes& s, const Values& dy, const Values& x,
                                          const Excitation& of) {
  ExcitationGradient out{Values(s.elements()), Values(of.w1.size()), Values(of.w2.size())};
  Values d_scale(s.n * s.c), d_mean(s.n * s.c);
  for_elements(s,
               [&](int64_t plane, int64_t, int64_t, int64_t e) { d_scale[plane] += dy[e] * x[e]; });
  for (int64_t image = 0; image < s.n; ++image) {
    for (int64_t r = 0; r < of.r; ++r) {
      const double hidden = of.hidden[image * of.r + r];
      double d_hidden = 0;
      for (int64_t c = 0; c < s.c; ++c) {
        const int64_t plane = image * s.c + c;
        const double d_logit = d_scale[plane] * of.scale[plane] * (1 - of.scale[plane]);
        out.d_w2[c * of.r + r] += d_logit * std::max(hidden, 0.0);
        if (hidden > 0) d_hidden += of.w2[c * of.r + r] * d_logit;
      }
      for (int64_t c = 0; c < s.c; ++c) {
        out.d_w1[r * s.c + c] += d_hidden * of.mean[image * s.c + c];
        d_mean[image * s.c + c] += of.w1[r * s.c + c] * d_hidden;
      }
    }
  }
  for_elements(s, [&](int64_t plane, int64_t, int64_t, int64_t e) {
    out.dx[e] = dy[e] * of.scale[plane] + d_mean[plane] / s.hw();
  });
  return out;
}

struct Tail {
  Values mean, rstd, a, b;          // (C); f = a x + b
  Values x_mean, f_mean, f_max, s;  // (N, C)
  std::vector<int64_t> argmax;
  Values f, scaled, y;  // (N, C, H, W); scaled: s * f
  Forward spatial;      // of `scaled`, with CBAM

  // What x - mean is multiplied with in dx, before a: product is the sum of df * (x - mean).
  double slope(int64_t c, double product, double count) const {
    return rstd[c] * rstd[c] * product / count;
  }
};

struct TailInputs {
  Values x, residual, gamma, beta, weight;
  double bias;
  bool cbam;
};

inline Tail tail(const Sizes& s, const TailInputs& in) {
  const double count = s.n * s.hw(), hw = s.hw();
  Tail out;
  for (Values* of : {&out.mean, &out.rstd, &out.a, &out.b}) of->resize(s.c);
  for (Values* of : {&out.f, &out.scaled, &out.y}) of->resize(s.elements());
  out.x_mean.resize(s.n * s.c);
  out.f_mean.resize(s.n * s.c);
  out.f_max.resize(s.n * s.c, -INFINITY);
  out.argmax.resize(s.n * s.c);
  for_elements(s, [&](int64_t, int64_t c, int64_t, int64_t e) { out.mean[c] += in.x[e] / count; });
  for_elements(s, [&](int64_t, int64_t c, int64_t, int64_t e) {
    out.rstd[c] += (in.x[e] - out.mean[c]) * (in.x[e] - out.mean[c]) / count;
  });
  for (int64_t c = 0; c < s.c; ++c) {
    out.rstd[c] = 1 / std::sqrt(out.rstd[c] + kEpsilon);
    out.a[c] = in.gamma[c] * out.rstd[c];
    out.b[c] = in.beta[c] - out.a[c] * out.mean[c];
  }
  for_elements(s, [&](int64_t plane, int64_t c, int64_t p, int64_t e) {
    out.f[e] = out.a[c] * in.x[e] + out.b[c];
    out.x_mean[plane] += in.x[e] / hw;
    out.f_mean[plane] += out.f[e] / hw;
    if (out.f[e] > out.f_max[plane]) out.f_max[plane] = out.f[e], out.argmax[plane] = p;
  });
  for (int64_t plane = 0; plane < s.n * s.c; ++plane) {
    out.s.push_back(logistic(out.f_mean[plane] + (in.cbam ? out.f_max[plane] : 0)));
  }
  for_elements(s, [&](int64_t plane, int64_t, int64_t, int64_t e) {
    out.scaled[e] = out.s[plane] * out.f[e];
  });
  if (in.cbam) out.spatial = forward(s, out.scaled, in.weight, in.bias);
  const Values& g = in.cbam ? out.spatial.y : out.scaled;
  for (int64_t e = 0; e < s.elements(); ++e) out.y[e] = std::max(g[e] + in.residual[e], 0.0);
  return out;
}

struct TailGradient {
  Values dr;                // dy through the ReLU
  Backward spatial;         // with CBAM: dx is the gradient of `scaled`
  Values d_scale, d_shift;  // (N, C): sums of d(scaled) * x, and of d(scaled)
  Values d_logit;           // (N, C): what reaches s' logit
  Values sum, product;      // (C): sums of df, and of df * (x - mean)
  Values dx;
};

inline TailGradient tail_backward(const Sizes& s, const Values& dy, const TailInputs& in,
                                  const Tail& saved) {
  const double count = s.n * s.hw();
  TailGradient out;
  out.dr = dy;
  for (int64_t e = 0; e < s.elements(); ++e) out.dr[e] = saved.y[e] > 0 ? dy[e] : 0;
  if (in.cbam) out.spatial = backward(s, out.dr, saved.scaled, in.weight, saved.spatial);
  const Values& d_scaled = in.cbam ? out.spatial.dx : out.dr;
  for (Values* of : {&out.d_scale, &out.d_shift, &out.d_logit}) of->resize(s.n * s.c);
  for (Values* of : {&out.sum, &out.product}) of->resize(s.c);
  for_elements(s, [&](int64_t plane, int64_t, int64_t, int64_t e) {
    out.d_scale[plane] += d_scaled[e] * in.x[e];
    out.d_shift[plane] += d_scaled[e];
    out.d_logit[plane] += d_scaled[e] * saved.f[e] * saved.s[plane] * (1 - saved.s[plane]);
  });
  Values& df = out.dx;
  df.resize(s.elements());
  for_elements(s, [&](int64_t plane, int64_t c, int64_t p, int64_t e) {
    const bool largest = in.cbam && p == saved.argmax[plane];
    df[e] = d_scaled[e] * saved.s[plane] + out.d_logit[plane] / s.hw() +
            (largest ? out.d_logit[plane] : 0);
    out.sum[c] += df[e];
    out.product[c] += df[e] * (in.x[e] - saved.mean[c]);
  });
  for_elements(s, [&](int64_t, int64_t c, int64_t, int64_t e) {
    const double slope = saved.slope(c, out.product[c], count);
    out.dx[e] = saved.a[c] * (df[e] - out.sum[c] / count - (in.x[e] - saved.mean[c]) * slope);
  });
  return out;
}
