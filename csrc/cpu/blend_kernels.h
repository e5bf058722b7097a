// z = factor * (x w + y (1 - w)), w = sigmoid(a * scale + shift) on the CPU, and its backward: one
// pass each, element by element, with two sums over pixels in the backward.
#pragma once

#include <algorithm>

#include "../common/blend.h"
#include "buffer.h"
#include "planes_kernels.h"

namespace attn_kernels::ATTN_ISA {

template <class T>
void blend(const Blend<T>& b, int64_t begin, int64_t end) {
  for (int64_t task = begin; task < end; ++task) {
    walk_task<T>(b.planes, task, {b.scale, b.shift}, [&](int64_t at, const auto& k, auto lanes) {
      const auto w = blend_weight(load_lanes(b.a + at, lanes), k[0], k[1], VectorExp{});
      const auto x = load_lanes(b.x + at, lanes), y = load_lanes(b.y + at, lanes);
      store_lanes(b.z + at, blended(x, y, w, b.factor), lanes, b.past_cache);
    });
  }
  end_stores(b.past_cache);
}

// ---- Backward -----------------------------------------------------------------------------------

// Writes dx, dy and da; the terms of d_scale and d_shift. Missing lanes add nothing to the sums,
// whatever zeros become with an infinite scale.
template <class T, class Lanes>
ATTN_INLINE void blend_gradients(const BlendBackward<T>& b, int64_t at, Vec<acc_t<T>> scale,
                                 Vec<acc_t<T>> shift, Vec<acc_t<T>>& d_scale,
                                 Vec<acc_t<T>>& d_shift, Lanes lanes) {
  using V = Vec<acc_t<T>>;
  const V a = load_lanes(b.a + at, lanes), w = blend_weight(a, scale, shift, VectorExp{});
  const auto d = blend_gradient(load_lanes(b.dz + at, lanes), load_lanes(b.x + at, lanes),
                                load_lanes(b.y + at, lanes), w, b.factor);
  const V d_logit = fill_missing<acc_t<T>>(d.logit, V{}, lanes);
  store_lanes(b.dx + at, d.x, lanes, b.past_cache);
  store_lanes(b.dy + at, d.y, lanes, b.past_cache);
  store_lanes(b.da + at, d_logit * scale, lanes, b.past_cache);
  d_scale = d_logit * a;
  d_shift = d_logit;
}

template <class T>
void blend_backward_plane(const BlendBackward<T>& b, int64_t plane) {
  using A = acc_t<T>;
  constexpr int64_t kPart = kVectorsPerSum * kLanes<A>;
  const int64_t pixels = b.planes.pixels, from = plane * pixels;
  const Vec<A> scale = broadcast(b.scale[plane]), shift = broadcast(b.shift[plane]);
  double d_scale = 0, d_shift = 0;
  for (int64_t part = 0; part < pixels; part += kPart) {
    Vec<A> scale_sum{}, shift_sum{};
    for_each_vector<A>(std::min(kPart, pixels - part), [&](int64_t i, auto lanes) {
      Vec<A> of_scale, of_shift;
      blend_gradients(b, from + part + i, scale, shift, of_scale, of_shift, lanes);
      scale_sum += of_scale;
      shift_sum += of_shift;
    });
    d_scale += sum_of_lanes<A>(scale_sum);
    d_shift += sum_of_lanes<A>(shift_sum);
  }
  b.d_scale[plane] = static_cast<A>(d_scale);
  b.d_shift[plane] = static_cast<A>(d_shift);
}

// A block of channels in channels_last: sums of so many pixels, and these in double.
template <class T>
class BlendBackwardOfChannels {
  using A = acc_t<T>;
  static constexpr int64_t kPixels = 256;

 public:
  explicit BlendBackwardOfChannels(const BlendBackward<T>& args)
      : b_(args),
        p_(args.planes),
        scale_(make_buffer<A>(p_.channel_block)),
        shift_(make_buffer<A>(p_.channel_block)),
        totals_(make_buffer<double>(2 * p_.channel_block)) {}

  void run(const PlaneBlock& t) {
    double *d_scale = totals_.get(), *d_shift = d_scale + t.channels;
    std::fill_n(totals_.get(), 2 * t.channels, 0.0);
    for (int64_t first = t.begin; first < t.end; first += kPixels) {
      std::fill_n(scale_.get(), t.channels, A(0));
      std::fill_n(shift_.get(), t.channels, A(0));
      in_groups(std::min(kPixels, t.end - first),
                [&](int64_t pixel, auto group) { add<group>(t, first + pixel); });
      for (int64_t c = 0; c < t.channels; ++c) {
        d_scale[c] += scale_[c];
        d_shift[c] += shift_[c];
      }
    }
    const int64_t to = t.n * p_.c + t.channel;
    for (int64_t c = 0; c < t.channels; ++c) {
      b_.d_scale[to + c] = static_cast<A>(d_scale[c]);
      b_.d_shift[to + c] = static_cast<A>(d_shift[c]);
    }
  }

 private:
  template <int G>
  void add(const PlaneBlock& t, int64_t pixel) {
    const int64_t of_channels = t.n * p_.c + t.channel;
    const int64_t from = (t.n * p_.pixels + pixel) * p_.c + t.channel;
    for_each_vector<A>(t.channels, [&](int64_t c, auto lanes) {
      const Vec<A> scale = load_lanes(b_.scale + of_channels + c, lanes);
      const Vec<A> shift = load_lanes(b_.shift + of_channels + c, lanes);
      Vec<A> of_scale[G], of_shift[G];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g)
        blend_gradients(b_, from + g * p_.c + c, scale, shift, of_scale[g], of_shift[g], lanes);
      store(&scale_[c], load(&scale_[c]) + tree_sum(of_scale));
      store(&shift_[c], load(&shift_[c]) + tree_sum(of_shift));
    });
  }

  const BlendBackward<T>& b_;
  const Planes& p_;
  Buffer<A> scale_, shift_;
  Buffer<double> totals_;
};

template <class T>
void blend_backward(const BlendBackward<T>& b, int64_t begin, int64_t end) {
  if (b.planes.channels_last) {
    BlendBackwardOfChannels<T> channels(b);
    for (int64_t task = begin; task < end; ++task) channels.run(plane_block(b.planes, task));
  } else {
    for (int64_t task = begin; task < end; ++task) blend_backward_plane(b, task);
  }
  end_stores(b.past_cache);
}

}  // namespace attn_kernels::ATTN_ISA
