// The spatial gate and its gradient in plain loops and double precision: what every chain's outputs
// are held against.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

struct Sizes {
  int64_t n, c, h, w;
  bool channels_last;

  int64_t hw() const { return h * w; }
  int64_t pixels() const { return n * h * w; }
  int64_t elements() const { return n * c * h * w; }
  int64_t at(int64_t image, int64_t channel, int64_t p) const {
    return channels_last ? (image * hw() + p) * c + channel : (image * c + channel) * hw() + p;
  }
};

constexpr int kKernel = 7;
constexpr int kTaps = kKernel * kKernel;

// f(tap, q) for the pixels q of the image that the window around p covers.
template <class F>
void for_window(const Sizes& s, int64_t p, F f) {
  for (int ky = 0; ky < kKernel; ++ky) {
    for (int kx = 0; kx < kKernel; ++kx) {
      const int64_t y = p / s.w + ky - kKernel / 2, x = p % s.w + kx - kKernel / 2;
      if (0 <= y && y < s.h && 0 <= x && x < s.w) f(ky * kKernel + kx, y * s.w + x);
    }
  }
}

struct Forward {
  std::vector<double> pooled, logit, map, y;
  std::vector<int64_t> argmax;
};

inline Forward forward(const Sizes& s, const std::vector<double>& x,
                       const std::vector<double>& weight, double bias) {
  const int64_t hw = s.hw();
  Forward out;
  out.pooled.resize(2 * s.pixels());
  out.logit.resize(s.pixels());
  out.map.resize(s.pixels());
  out.argmax.resize(s.pixels());
  out.y.resize(s.elements());
  for (int64_t image = 0; image < s.n; ++image) {
    double* mean = &out.pooled[image * 2 * hw];
    double* max = mean + hw;
    for (int64_t p = 0; p < hw; ++p) {
      max[p] = -INFINITY;
      for (int64_t c = 0; c < s.c; ++c) {
        const double value = x[s.at(image, c, p)];
        mean[p] += value / s.c;
        if (value > max[p]) max[p] = value, out.argmax[image * hw + p] = c;
      }
    }
    for (int64_t p = 0; p < hw; ++p) {
      double sum = bias;
      for_window(s, p, [&](int tap, int64_t q) {
        sum += weight[tap] * mean[q] + weight[kTaps + tap] * max[q];
      });
      const int64_t at = image * hw + p;
      out.logit[at] = sum;
      out.map[at] = 1 / (1 + std::exp(-sum));
      for (int64_t c = 0; c < s.c; ++c) {
        out.y[s.at(image, c, p)] = x[s.at(image, c, p)] * out.map[at];
      }
    }
  }
  return out;
}

struct Backward {
  std::vector<double> dx, d_weight, d_bias;
};

inline Backward backward(const Sizes& s, const std::vector<double>& dy,
                         const std::vector<double>& x, const std::vector<double>& weight,
                         const Forward& saved) {
  const int64_t hw = s.hw();
  Backward out{std::vector<double>(s.elements()), std::vector<double>(2 * kTaps),
               std::vector<double>(1)};
  std::vector<double> d_logit(hw);
  for (int64_t image = 0; image < s.n; ++image) {
    const double* map = &saved.map[image * hw];
    const double* pooled = &saved.pooled[image * 2 * hw];
    for (int64_t p = 0; p < hw; ++p) {
      double d_map = 0;
      for (int64_t c = 0; c < s.c; ++c) d_map += dy[s.at(image, c, p)] * x[s.at(image, c, p)];
      d_logit[p] = d_map * map[p] * (1 - map[p]);
    }
    for (int64_t p = 0; p < hw; ++p) {
      double d_mean = 0, d_max = 0;
      out.d_bias[0] += d_logit[p];
      for_window(s, p, [&](int tap, int64_t q) {
        out.d_weight[tap] += d_logit[p] * pooled[q];
        out.d_weight[kTaps + tap] += d_logit[p] * pooled[hw + q];
        d_mean += weight[kTaps - 1 - tap] * d_logit[q];
        d_max += weight[2 * kTaps - 1 - tap] * d_logit[q];
      });
      for (int64_t c = 0; c < s.c; ++c) {
        out.dx[s.at(image, c, p)] = dy[s.at(image, c, p)] * map[p] + d_mean / s.c +
                                    (c == saved.argmax[image * hw + p] ? d_max : 0);
      }
    }
  }
  return out;
}
