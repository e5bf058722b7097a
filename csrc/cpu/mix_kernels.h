// y = act(sum of s * map + residual) on the CPU, the mean of the sum of all maps, and both
// backwards. However many maps there are, no loop knows their number: kMixVectors vectors, one
// after the other in NCHW and of as many pixels in channels_last, go through all of them together.
#pragma once

#include <algorithm>

#include "buffer.h"
#include "planes_kernels.h"

namespace attn_kernels::ATTN_ISA {

constexpr int kMixVectors = 4;

// body(first, lanes, vectors) for all of `count` elements: kMixVectors at once, in the end one.
template <class A, class Body>
ATTN_INLINE void in_mix_vectors(int64_t count, const Body& body) {
  constexpr int64_t kAll = kLanes<A>, kGroup = kMixVectors * kAll;
  constexpr std::integral_constant<int64_t, kAll> kWhole;
  int64_t i = 0;
  for (; i + kGroup <= count; i += kGroup)
    body(i, kWhole, std::integral_constant<int, kMixVectors>{});
  for_each_vector<A>(count - i, [&](int64_t j, auto lanes) {
    body(i + j, lanes, std::integral_constant<int, 1>{});
  });
}

// body(pixel, first channel, lanes, pixels) for all of a task in channels_last.
template <class A, class Body>
ATTN_INLINE void in_mix_pixels(const PlaneBlock& t, const Body& body) {
  const auto row = [&](int64_t pixel, auto pixels) {
    for_each_vector<A>(t.channels,
                       [&](int64_t i, auto lanes) { body(pixel, t.channel + i, lanes, pixels); });
  };
  int64_t pixel = t.begin;
  for (; pixel + kMixVectors <= t.end; pixel += kMixVectors)
    row(pixel, std::integral_constant<int, kMixVectors>{});
  for (; pixel < t.end; ++pixel) row(pixel, std::integral_constant<int, 1>{});
}

// ---- Forward ------------------------------------------------------------------------------------

template <class T, int G, class Lanes>
ATTN_INLINE void finish_mix(const Mix<T>& a, Vec<acc_t<T>> (&y)[G], int64_t at, int64_t step,
                            Lanes lanes) {
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) {
    if (a.residual != nullptr) y[g] += load_lanes(a.residual + at + g * step, lanes);
    if (a.relu) y[g] = relu(y[g]);
    store_lanes(a.y + at + g * step, y[g], lanes, a.past_cache);
  }
}

template <class T>
void mix_plane(const Mix<T>& a, int64_t plane) {
  using A = acc_t<T>;
  const Planes& p = a.planes;
  const int64_t n = plane / p.c, c = plane % p.c;
  in_mix_vectors<A>(p.pixels, [&](int64_t i, auto lanes, auto vectors) {
    constexpr int G = decltype(vectors)::value;
    Vec<A> y[G]{};
    for (int64_t m = 0; m < a.x.count; ++m) {
      const Vec<A> s = broadcast(a.s[(n * a.x.count + m) * p.c + c]);
      const T* const x = a.x.map[m].at(n, c) + i;
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g)
        y[g] = affine(load_lanes(x + g * kLanes<A>, lanes), s, y[g], VectorFma{});
    }
    finish_mix(a, y, plane * p.pixels + i, kLanes<A>, lanes);
  });
}

template <class T>
void mix_pixels(const Mix<T>& a, const PlaneBlock& t) {
  using A = acc_t<T>;
  const Planes& p = a.planes;
  in_mix_pixels<A>(t, [&](int64_t pixel, int64_t c, auto lanes, auto pixels) {
    constexpr int G = decltype(pixels)::value;
    Vec<A> y[G]{};
    for (int64_t m = 0; m < a.x.count; ++m) {
      const Vec<A> s = load_lanes(a.s + (t.n * a.x.count + m) * p.c + c, lanes);
      const T* const x = a.x.map[m].at(t.n, pixel) + c;
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g)
        y[g] = affine(load_lanes(x + g * a.x.map[m].line, lanes), s, y[g], VectorFma{});
    }
    finish_mix(a, y, (t.n * p.pixels + pixel) * p.c + c, p.c, lanes);
  });
}

template <class T>
void mix(const Mix<T>& a, int64_t begin, int64_t end) {
  for (int64_t task = begin; task < end; ++task)
    a.planes.channels_last ? mix_pixels(a, plane_block(a.planes, task)) : mix_plane(a, task);
  end_stores(a.past_cache);
}

// ---- The mean of the sum ------------------------------------------------------------------------

template <class T>
void mix_squeeze_plane(const MixSqueeze<T>& a, int64_t plane) {
  constexpr int64_t kBlock = 128 * kLanes<acc_t<T>>;  // of sums in acc
  const Planes& p = a.planes;
  double sum = 0;
  for (int64_t m = 0; m < a.x.count; ++m) {
    const T* const x = a.x.map[m].at(plane / p.c, plane % p.c);
    for (int64_t first = 0; first < p.pixels; first += kBlock)
      sum += sum_of_values(x + first, std::min(kBlock, p.pixels - first));
  }
  a.mean[plane] = static_cast<acc_t<T>>(sum / static_cast<double>(p.pixels));
}

// Sums of the channels of a task, in parts of so many pixels, and these in double.
constexpr int64_t kMixPixels = 256;

template <class T>
class MixSqueezeChannels {
  using A = acc_t<T>;

 public:
  explicit MixSqueezeChannels(const MixSqueeze<T>& args)
      : a_(args),
        p_(args.planes),
        sum_(make_buffer<A>(p_.channel_block)),
        total_(make_buffer<double>(p_.channel_block)) {}

  void run(const PlaneBlock& t) {
    std::fill_n(total_.get(), t.channels, 0.0);
    for (int64_t first = t.begin; first < t.end; first += kMixPixels) {
      std::fill_n(sum_.get(), t.channels, A(0));
      for (int64_t m = 0; m < a_.x.count; ++m)
        in_groups(std::min(kMixPixels, t.end - first), [&](int64_t pixel, auto group) {
          add<group>(a_.x.map[m].at(t.n, first + pixel) + t.channel, a_.x.map[m].line, t.channels);
        });
      for (int64_t c = 0; c < t.channels; ++c) total_[c] += sum_[c];
    }
    A* const mean = a_.mean + t.n * p_.c + t.channel;
    for (int64_t c = 0; c < t.channels; ++c)
      mean[c] = static_cast<A>(total_[c] / static_cast<double>(p_.pixels));
  }

 private:
  template <int G>
  void add(const T* x, int64_t line, int64_t channels) {
    for_each_vector<A>(channels, [&](int64_t c, auto lanes) {
      Vec<A> v[G];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) v[g] = load_lanes(x + g * line + c, lanes);
      store(&sum_[c], load(&sum_[c]) + tree_sum(v));
    });
  }

  const MixSqueeze<T>& a_;
  const Planes& p_;
  Buffer<A> sum_;
  Buffer<double> total_;
};

template <class T>
void mix_squeeze(const MixSqueeze<T>& a, int64_t begin, int64_t end) {
  if (!a.planes.channels_last) {
    for (int64_t task = begin; task < end; ++task) mix_squeeze_plane(a, task);
    return;
  }
  MixSqueezeChannels<T> channels(a);
  for (int64_t task = begin; task < end; ++task) channels.run(plane_block(a.planes, task));
}

// ---- Sums of the backward -----------------------------------------------------------------------

template <class T>
class MixSumsOfTask {
  using A = acc_t<T>;
  using V = Vec<A>;

 public:
  explicit MixSumsOfTask(const MixSums<T>& args)
      : a_(args),
        p_(args.planes),
        sum_(make_buffer<A>(args.x.count * p_.channel_block)),
        total_(make_buffer<double>(args.x.count * p_.channel_block)) {}

  void run(int64_t task) {
    if (p_.channels_last) return channels(plane_block(p_, task));
    plane(task / p_.c, task % p_.c);
  }

 private:
  // Part by part, so that dr is in the cache for all maps but the first.
  void plane(int64_t n, int64_t c) {
    constexpr int64_t kPart = kVectorsPerSum * kLanes<A>;
    std::fill_n(total_.get(), a_.x.count, 0.0);
    for (int64_t part = 0; part < p_.pixels; part += kPart) {
      const int64_t count = std::min(kPart, p_.pixels - part);
      const T* const dr = masked((n * p_.c + c) * p_.pixels + part, count);
      for (int64_t m = 0; m < a_.x.count; ++m) {
        const T* const x = a_.x.map[m].at(n, c) + part;
        V sum{};
        for_each_vector<A>(count, [&](int64_t i, auto lanes) {
          sum += load_lanes(dr + i, lanes) * load_lanes(x + i, lanes);
        });
        total_[m] += sum_of_lanes<A>(sum);
      }
    }
    for (int64_t m = 0; m < a_.x.count; ++m)
      a_.d_s[(n * a_.x.count + m) * p_.c + c] = static_cast<A>(total_[m]);
  }

  // dr from here on, written if there was a ReLU.
  const T* masked(int64_t at, int64_t count) {
    if (a_.y == nullptr) return a_.dy + at;
    for_each_vector<A>(count, [&](int64_t i, auto lanes) {
      store_lanes(
          a_.dr + at + i,
          relu_backward(load_lanes(a_.dy + at + i, lanes), load_lanes(a_.y + at + i, lanes)),
          lanes);
    });
    return a_.dr + at;
  }

  void channels(const PlaneBlock& t) {
    const int64_t all = a_.x.count * t.channels;
    std::fill_n(total_.get(), all, 0.0);
    for (int64_t first = t.begin; first < t.end; first += kMixPixels) {
      std::fill_n(sum_.get(), all, A(0));
      in_groups(std::min(kMixPixels, t.end - first),
                [&](int64_t pixel, auto group) { pixels<group>(t, first + pixel); });
      for (int64_t i = 0; i < all; ++i) total_[i] += sum_[i];
    }
    for (int64_t m = 0; m < a_.x.count; ++m) {
      A* const d_s = a_.d_s + (t.n * a_.x.count + m) * p_.c + t.channel;
      for (int64_t c = 0; c < t.channels; ++c) d_s[c] = static_cast<A>(total_[m * t.channels + c]);
    }
  }

  template <int G>
  void pixels(const PlaneBlock& t, int64_t pixel) {
    const int64_t from = (t.n * p_.pixels + pixel) * p_.c + t.channel;
    for_each_vector<A>(t.channels, [&](int64_t c, auto lanes) {
      V dr[G];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        const int64_t at = from + g * p_.c + c;
        dr[g] = load_lanes(a_.dy + at, lanes);
        if (a_.y == nullptr) continue;
        dr[g] = relu_backward(dr[g], load_lanes(a_.y + at, lanes));
        store_lanes(a_.dr + at, dr[g], lanes);
      }
      for (int64_t m = 0; m < a_.x.count; ++m) {
        const T* const x = a_.x.map[m].at(t.n, pixel) + t.channel + c;
        V terms[G];
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) terms[g] = dr[g] * load_lanes(x + g * a_.x.map[m].line, lanes);
        A* const sum = &sum_[m * t.channels + c];
        store_lanes(sum, load_lanes(sum, lanes) + tree_sum(terms), lanes);
      }
    });
  }

  const MixSums<T>& a_;
  const Planes& p_;
  Buffer<A> sum_;  // (maps, channels of the task)
  Buffer<double> total_;
};

template <class T>
void mix_sums(const MixSums<T>& a, int64_t begin, int64_t end) {
  MixSumsOfTask<T> sums(a);
  for (int64_t task = begin; task < end; ++task) sums.run(task);
}

// ---- The final pass -----------------------------------------------------------------------------

template <class T>
void mix_backward_plane(const MixBackward<T>& a, int64_t plane) {
  using A = acc_t<T>;
  const Planes& p = a.planes;
  const int64_t n = plane / p.c, c = plane % p.c;
  const Vec<A> offset = broadcast(a.offset != nullptr ? a.offset[plane] : A(0));
  in_mix_vectors<A>(p.pixels, [&](int64_t i, auto lanes, auto vectors) {
    constexpr int G = decltype(vectors)::value;
    Vec<A> dr[G]{};
    if (a.dr != nullptr)
      for (int g = 0; g < G; ++g)
        dr[g] = load_lanes(a.dr + plane * p.pixels + i + g * kLanes<A>, lanes);
    for (int64_t m = 0; m < a.dx.count; ++m) {
      const A s = a.s != nullptr ? a.s[(n * a.dx.count + m) * p.c + c] : A(0);
      T* const dx = a.dx.map[m].at(n, c) + i;
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g)
        store_lanes(dx + g * kLanes<A>, affine(dr[g], broadcast(s), offset, VectorFma{}), lanes,
                    a.past_cache);
    }
  });
}

template <class T>
void mix_backward_pixels(const MixBackward<T>& a, const PlaneBlock& t) {
  using A = acc_t<T>;
  const Planes& p = a.planes;
  in_mix_pixels<A>(t, [&](int64_t pixel, int64_t c, auto lanes, auto pixels) {
    constexpr int G = decltype(pixels)::value;
    Vec<A> dr[G]{}, offset{};
    if (a.offset != nullptr) offset = load_lanes(a.offset + t.n * p.c + c, lanes);
    if (a.dr != nullptr)
      for (int g = 0; g < G; ++g)
        dr[g] = load_lanes(a.dr + (t.n * p.pixels + pixel + g) * p.c + c, lanes);
    for (int64_t m = 0; m < a.dx.count; ++m) {
      Vec<A> s{};
      if (a.s != nullptr) s = load_lanes(a.s + (t.n * a.dx.count + m) * p.c + c, lanes);
      T* const dx = a.dx.map[m].at(t.n, pixel) + c;
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g)
        store_lanes(dx + g * a.dx.map[m].line, affine(dr[g], s, offset, VectorFma{}), lanes,
                    a.past_cache);
    }
  });
}

template <class T>
void mix_backward(const MixBackward<T>& a, int64_t begin, int64_t end) {
  for (int64_t task = begin; task < end; ++task)
    a.planes.channels_last ? mix_backward_pixels(a, plane_block(a.planes, task))
                           : mix_backward_plane(a, task);
  end_stores(a.past_cache);
}

}  // namespace attn_kernels::ATTN_ISA
