// y = act(scale * x + shift + residual) on the CPU, and the sums over pixels of its backward.
#pragma once

#include <algorithm>

#include "buffer.h"
#include "planes_kernels.h"

namespace attn_kernels::ATTN_ISA {

template <class T, bool kResidual, bool kRelu>
void affine_gate_tasks(const AffineGate<T>& a, int64_t begin, int64_t end) {
  for (int64_t task = begin; task < end; ++task) {
    walk_task<T>(a.planes, task, {a.scale, a.shift}, [&](int64_t at, const auto& k, auto lanes) {
      auto y = affine(load_lanes(a.x + at, lanes), k[0], k[1], VectorFma{});
      if constexpr (kResidual) y += load_lanes(a.residual + at, lanes);
      if constexpr (kRelu) y = relu(y);
      store_lanes(a.y + at, y, lanes);
    });
  }
}

template <class T>
void affine_gate(const AffineGate<T>& a, int64_t begin, int64_t end) {
  if (a.residual != nullptr) {
    a.relu ? affine_gate_tasks<T, true, true>(a, begin, end)
           : affine_gate_tasks<T, true, false>(a, begin, end);
  } else {
    a.relu ? affine_gate_tasks<T, false, true>(a, begin, end)
           : affine_gate_tasks<T, false, false>(a, begin, end);
  }
}

// ---- Sums ---------------------------------------------------------------------------------------

// dr, which is written where there was a ReLU.
template <class T, bool kRelu, class Lanes>
ATTN_INLINE Vec<acc_t<T>> masked_gradient(const AffineGateSums<T>& a, int64_t at, Lanes lanes) {
  auto dr = load_lanes(a.dy + at, lanes);
  if constexpr (kRelu) {
    dr = relu_backward(dr, load_lanes(a.y + at, lanes));
    store_lanes(a.dr + at, dr, lanes);
  }
  return dr;
}

template <class T, bool kRelu>
void affine_gate_sums_of_plane(const AffineGateSums<T>& a, int64_t plane) {
  using A = acc_t<T>;
  constexpr int64_t kPart = kVectorsPerSum * kLanes<A>;
  const int64_t pixels = a.planes.pixels, from = plane * pixels;
  double d_scale = 0, d_shift = 0;
  for (int64_t part = 0; part < pixels; part += kPart) {
    Vec<A> scale{}, shift{};
    for_each_vector<A>(std::min(kPart, pixels - part), [&](int64_t i, auto lanes) {
      const auto dr = masked_gradient<T, kRelu>(a, from + part + i, lanes);
      scale += dr * load_lanes(a.x + from + part + i, lanes);
      shift += dr;
    });
    d_scale += sum_of_lanes<A>(scale);
    d_shift += sum_of_lanes<A>(shift);
  }
  a.d_scale[plane] = static_cast<A>(d_scale);
  a.d_shift[plane] = static_cast<A>(d_shift);
}

// The sums of a block of channels in channels_last.
template <class T, bool kRelu>
class AffineGateSumsOfChannels {
  using A = acc_t<T>;
  static constexpr int64_t kPixels = 256;  // per partial sum

 public:
  explicit AffineGateSumsOfChannels(const AffineGateSums<T>& args)
      : a_(args),
        p_(args.planes),
        scale_(make_buffer<A>(p_.channel_block)),
        shift_(make_buffer<A>(p_.channel_block)),
        totals_(make_buffer<double>(2 * p_.channel_block)) {}

  void run(const PlaneBlock& t) {
    double *d_scale = totals_.get(), *d_shift = d_scale + t.channels;
    std::fill_n(totals_.get(), 2 * t.channels, 0.0);
    for (int64_t first = t.begin; first < t.end; first += kPixels) {
      add(t, first, std::min(first + kPixels, t.end));
      for (int64_t c = 0; c < t.channels; ++c) {
        d_scale[c] += scale_[c];
        d_shift[c] += shift_[c];
      }
    }
    const int64_t to = t.n * p_.c + t.channel;
    for (int64_t c = 0; c < t.channels; ++c) {
      a_.d_scale[to + c] = static_cast<A>(d_scale[c]);
      a_.d_shift[to + c] = static_cast<A>(d_shift[c]);
    }
  }

 private:
  void add(const PlaneBlock& t, int64_t first, int64_t last) {
    std::fill_n(scale_.get(), t.channels, A(0));
    std::fill_n(shift_.get(), t.channels, A(0));
    const int64_t from = (t.n * p_.pixels + first) * p_.c + t.channel;
    in_groups(last - first, [&](int64_t pixel, auto group) {
      add_group<group>(from + pixel * p_.c, t.channels);
    });
  }

  template <int G>
  void add_group(int64_t from, int64_t channels) {
    for_each_vector<A>(channels, [&](int64_t c, auto lanes) {
      Vec<A> scale[G], shift[G];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        const int64_t at = from + g * p_.c + c;
        shift[g] = masked_gradient<T, kRelu>(a_, at, lanes);
        scale[g] = shift[g] * load_lanes(a_.x + at, lanes);
      }
      store(&scale_[c], load(&scale_[c]) + tree_sum(scale));
      store(&shift_[c], load(&shift_[c]) + tree_sum(shift));
    });
  }

  const AffineGateSums<T>& a_;
  const Planes& p_;
  Buffer<A> scale_, shift_;
  Buffer<double> totals_;
};

template <class T, bool kRelu>
void affine_gate_sums_tasks(const AffineGateSums<T>& a, int64_t begin, int64_t end) {
  if (!a.planes.channels_last) {
    for (int64_t task = begin; task < end; ++task) affine_gate_sums_of_plane<T, kRelu>(a, task);
    return;
  }
  AffineGateSumsOfChannels<T, kRelu> sums(a);
  for (int64_t task = begin; task < end; ++task) sums.run(plane_block(a.planes, task));
}

template <class T>
void affine_gate_sums(const AffineGateSums<T>& a, int64_t begin, int64_t end) {
  a.y != nullptr ? affine_gate_sums_tasks<T, true>(a, begin, end)
                 : affine_gate_sums_tasks<T, false>(a, begin, end);
}

}  // namespace attn_kernels::ATTN_ISA
