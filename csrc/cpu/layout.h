// The four passes over a span of pixels of one image, in both memory formats: all that spatial
// attention ever does with the feature map itself.
//
//   pool            mean, max     <- x
//   dot_and_argmax  d_map, argmax <- dy, x, max
//   gate            y             <- x, map
//   scatter         dx            <- dy, map, d_mean, d_max, argmax
//
// mean, max, d_map, map, d_mean, d_max, argmax are arrays of one value per pixel of the span, with
// room for a whole vector at the end. Sums over channels go through short partial sums, so that
// their rounding error grows with neither C nor the order.
#pragma once

#include <algorithm>
#include <limits>

#include "../common/spatial_gate.h"
#include "simd.h"

namespace attn_kernels::ATTN_ISA {

// Pixels [first, first + count) of image n.
struct Span {
  int64_t n, first, count;
};

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();
constexpr int64_t kChannelsPerPartial = 128;

// Channels outermost, vectors along pixels.
template <class T>
struct Nchw {
  using A = acc_t<T>;
  using V = Vec<A>;

  static int64_t offset(const Problem& p, const Span& s) { return s.n * p.c * p.h * p.w + s.first; }

  static void pool(const Problem& p, const T* x, const Span& s, A* mean, A* max, A* partial) {
    const int64_t plane = p.h * p.w;
    x += offset(p, s);
    std::fill_n(mean, s.count, A(0));
    std::fill_n(max, s.count, -kInfinity<A>);
    for (int64_t block = 0; block < p.c; block += kChannelsPerPartial) {
      const int64_t end = std::min(block + kChannelsPerPartial, p.c);
      std::fill_n(partial, s.count, A(0));
      int64_t c = block;
      for (; c + 8 <= end; c += 8) pool_group<8>(x + c * plane, plane, s.count, partial, max);
      for (; c < end; ++c) pool_group<1>(x + c * plane, plane, s.count, partial, max);
      add(partial, s.count, mean);
    }
    const A channels = static_cast<A>(p.c);
    for (int64_t i = 0; i < s.count; ++i) mean[i] /= channels;
  }

  template <bool kDot>
  static void dot_and_argmax(const Problem& p, const T* dy, const T* x, const Span& s, const A* max,
                             A* d_map, Int<A>* argmax, A* partial) {
    const int64_t plane = p.h * p.w, at = offset(p, s);
    x += at;
    std::fill_n(argmax, s.count, Int<A>(-1));
    if constexpr (kDot) {
      dy += at;
      std::fill_n(d_map, s.count, A(0));
    }
    // Downwards, so that the lowest channel that holds the maximum is written last.
    for (int64_t end = p.c; end > 0;) {
      const int64_t block = std::max<int64_t>(end - kChannelsPerPartial, 0);
      if constexpr (kDot) std::fill_n(partial, s.count, A(0));
      int64_t c = end;
      for (; c - 4 >= block; c -= 4)
        dot_group<4, kDot>(dy, x, c - 4, plane, s.count, max, partial, argmax);
      for (; c > block; --c) dot_group<1, kDot>(dy, x, c - 1, plane, s.count, max, partial, argmax);
      if constexpr (kDot) add(partial, s.count, d_map);
      end = block;
    }
  }

  static void gate(const Problem& p, const T* x, const Span& s, const A* map, T* y) {
    const int64_t plane = p.h * p.w, at = offset(p, s);
    for (int64_t c = 0; c < p.c; ++c) {
      const T* from = x + at + c * plane;
      T* to = y + at + c * plane;
      for_each_vector<A>(s.count, [&](int64_t i, auto lanes) {
        store_lanes(to + i, load_lanes(from + i, lanes) * load(map + i), lanes);
      });
    }
  }

  // dx = dy * map + d_mean / C + (c == argmax ? d_max : 0); without dy, the last two terms.
  template <bool kGate>
  static void scatter(const Problem& p, const T* dy, const Span& s, const A* map, const A* d_mean,
                      const A* d_max, const Int<A>* argmax, T* dx) {
    const int64_t plane = p.h * p.w, at = offset(p, s);
    for (int64_t c = 0; c < p.c; ++c) {
      const T* from = kGate ? dy + at + c * plane : nullptr;
      T* to = dx + at + c * plane;
      const Int<A> channel = static_cast<Int<A>>(c);
      for_each_vector<A>(s.count, [&](int64_t i, auto lanes) {
        const IntVec<A> winner = load_raw<IntVec<A>>(argmax + i);
        V d = load(d_mean + i) + (winner == channel ? load(d_max + i) : V{});
        if constexpr (kGate) d += load_lanes(from + i, lanes) * load(map + i);
        store_lanes(to + i, d, lanes);
      });
    }
  }

 private:
  static void add(const A* partial, int64_t count, A* total) {
    for (int64_t i = 0; i < count; ++i) total[i] += partial[i];
  }

  // G channels at once: G streams from memory for one pass over the statistics in L1.
  template <int G>
  static void pool_group(const T* x, int64_t plane, int64_t count, A* sum, A* max) {
    for_each_vector<A>(count, [&](int64_t i, auto lanes) {
      V v[G], best = load(max + i);
      for (int g = 0; g < G; ++g) {
        v[g] = load_lanes(x + g * plane + i, lanes);
        best = nan_max(best, v[g]);
      }
      for (int width = 1; width < G; width *= 2)
        for (int g = 0; g < G; g += 2 * width) v[g] += v[g + width];
      store(sum + i, load(sum + i) + v[0]);
      store(max + i, best);
    });
  }

  template <int G, bool kDot>
  static void dot_group(const T* dy, const T* x, int64_t c, int64_t plane, int64_t count,
                        const A* max, A* sum, Int<A>* argmax) {
    for_each_vector<A>(count, [&](int64_t i, auto lanes) {
      const V best = load(max + i);
      IntVec<A> winner = load_raw<IntVec<A>>(argmax + i);
      V dot{};
      for (int g = G - 1; g >= 0; --g) {
        const int64_t at = (c + g) * plane + i;
        const V v = load_lanes(x + at, lanes);
        winner = if_max(v, best, IntVec<A>{} + static_cast<Int<A>>(c + g), winner);
        if constexpr (kDot) dot += load_lanes(dy + at, lanes) * v;
      }
      store_raw(argmax + i, winner);
      if constexpr (kDot) store(sum + i, load(sum + i) + dot);
    });
  }
};

// Pixels outermost, vectors along channels.
template <class T>
struct ChannelsLast {
  using A = acc_t<T>;
  using V = Vec<A>;
  using I = IntVec<A>;

  static int64_t offset(const Problem& p, const Span& s) {
    return (s.n * p.h * p.w + s.first) * p.c;
  }

  static void pool(const Problem& p, const T* x, const Span& s, A* mean, A* max, A* /*partial*/) {
    x += offset(p, s);
    for (int64_t i = 0; i < s.count; ++i, x += p.c) {
      V sum[kUnroll] = {}, best[kUnroll];
      for (auto& b : best) b = broadcast(-kInfinity<A>);
      for_each_group(p.c, [&](int u, int64_t c, auto lanes) {
        const V v = load_lanes(x + c, lanes);
        sum[u] += v;
        best[u] = nan_max(best[u], fill_missing(v, broadcast(-kInfinity<A>), lanes));
      });
      mean[i] = sum_of_lanes<A>((sum[0] + sum[1]) + (sum[2] + sum[3])) / static_cast<A>(p.c);
      best[0] = nan_max(nan_max(best[0], best[1]), nan_max(best[2], best[3]));
      max[i] = reduce_lanes<A>(best[0], [](A a, A b) { return nan_max(a, b); });
    }
  }

  template <bool kDot>
  static void dot_and_argmax(const Problem& p, const T* dy, const T* x, const Span& s, const A* max,
                             A* d_map, Int<A>* argmax, A* /*partial*/) {
    const int64_t at = offset(p, s);
    const I iota = lane_indices();
    for (int64_t i = 0; i < s.count; ++i) {
      const T* v_at = x + at + i * p.c;
      V sum[kUnroll] = {};
      I lowest[kUnroll];
      const V best = broadcast(max[i]);
      const Int<A> none = std::numeric_limits<Int<A>>::max();
      for (auto& l : lowest) l = I{} + none;
      for_each_group(p.c, [&](int u, int64_t c, auto lanes) {
        const V v = load_lanes(v_at + c, lanes);
        const I found = fill_missing(if_max(v, best, iota + static_cast<Int<A>>(c), I{} + none),
                                     I{} + none, lanes);
        lowest[u] = found < lowest[u] ? found : lowest[u];
        if constexpr (kDot) sum[u] += load_lanes(dy + at + i * p.c + c, lanes) * v;
      });
      for (int u = 1; u < kUnroll; ++u) lowest[0] = lowest[u] < lowest[0] ? lowest[u] : lowest[0];
      argmax[i] = reduce_lanes<Int<A>>(lowest[0], [](auto a, auto b) { return b < a ? b : a; });
      if constexpr (kDot) d_map[i] = sum_of_lanes<A>((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
  }

  static void gate(const Problem& p, const T* x, const Span& s, const A* map, T* y) {
    x += offset(p, s);
    y += offset(p, s);
    for (int64_t i = 0; i < s.count; ++i, x += p.c, y += p.c) {
      for_each_vector<A>(p.c, [&](int64_t c, auto lanes) {
        store_lanes(y + c, load_lanes(x + c, lanes) * map[i], lanes);
      });
    }
  }

  template <bool kGate>
  static void scatter(const Problem& p, const T* dy, const Span& s, const A* map, const A* d_mean,
                      const A* d_max, const Int<A>* argmax, T* dx) {
    const int64_t at = offset(p, s);
    const I iota = lane_indices();
    for (int64_t i = 0; i < s.count; ++i) {
      for_each_vector<A>(p.c, [&](int64_t c, auto lanes) {
        const I channel = iota + static_cast<Int<A>>(c);
        V d = broadcast(d_mean[i]) + (channel == argmax[i] ? broadcast(d_max[i]) : V{});
        if constexpr (kGate) d += load_lanes(dy + at + i * p.c + c, lanes) * map[i];
        store_lanes(dx + at + i * p.c + c, d, lanes);
      });
    }
  }

 private:
  static constexpr int kUnroll = 4;

  static ATTN_INLINE I lane_indices() {
    I lanes;
    for (int i = 0; i < kLanes<A>; ++i) lanes[i] = i;
    return lanes;
  }

  template <class AnyVec, class Lanes>
  static ATTN_INLINE AnyVec fill_missing(AnyVec v, AnyVec fill, Lanes lanes) {
    if constexpr (std::is_same_v<Lanes, int64_t>) {
      return lane_indices() < static_cast<Int<A>>(lanes) ? v : fill;
    } else {
      return v;
    }
  }

  // body(u, c, lanes) with u = 0..kUnroll-1 in turn: independent accumulators.
  template <class Body>
  static ATTN_INLINE void for_each_group(int64_t channels, const Body& body) {
    constexpr int64_t kStep = kUnroll * kLanes<A>;
    using All = std::integral_constant<int64_t, kLanes<A>>;
    int64_t c = 0;
    for (; c + kStep <= channels; c += kStep)
      for (int u = 0; u < kUnroll; ++u) body(u, c + u * kLanes<A>, All{});
    for_each_vector<A>(channels - c, [&](int64_t i, auto lanes) { body(0, c + i, lanes); });
  }
};

}  // namespace attn_kernels::ATTN_ISA
