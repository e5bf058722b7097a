// The passes of layout.h over channels_last maps: pixels outermost, vectors along channels.
#pragma once

#include "layout.h"

namespace attn_kernels::ATTN_ISA {

template <class T>
struct ChannelsLast {
  using A = acc_t<T>;
  using V = Vec<A>;
  using I = IntVec<A>;

  template <bool kView>
  static void pool(const Problem& p, const View<T>& f, const Span& s, A* mean, A* max,
                   A* /*partial*/) {
    for (int64_t i = 0; i < s.count; ++i) {
      const int64_t at = offset(p, s, i);
      V sum[kUnroll] = {}, best[kUnroll];
      for (auto& b : best) b = broadcast(-kInfinity<A>);
      for_each_group(p.c, [&](int u, int64_t c, auto lanes) {
        const V v = load_f<kView>(p, f, s, at, c, lanes);
        sum[u] += v;
        best[u] = nan_max(best[u], fill_missing<A>(v, broadcast(-kInfinity<A>), lanes));
      });
      mean[i] = sum_of_lanes<A>((sum[0] + sum[1]) + (sum[2] + sum[3])) / static_cast<A>(p.c);
      best[0] = nan_max(nan_max(best[0], best[1]), nan_max(best[2], best[3]));
      max[i] = reduce_lanes<A>(best[0], [](A a, A b) { return nan_max(a, b); });
    }
  }

  template <bool kDot, bool kView, bool kRelu>
  static void dot_and_argmax(const Problem& p, const Upstream<T>& upstream, const View<T>& f,
                             const Span& s, const A* max, A* d_map, Int<A>* argmax,
                             A* /*partial*/) {
    const I iota = lane_indices<A>();
    for (int64_t i = 0; i < s.count; ++i) {
      const int64_t at = offset(p, s, i);
      V sum[kUnroll] = {};
      I lowest[kUnroll];
      const V best = broadcast(max[i]);
      const Int<A> none = std::numeric_limits<Int<A>>::max();
      for (auto& l : lowest) l = I{} + none;
      for_each_group(p.c, [&](int u, int64_t c, auto lanes) {
        const V v = load_f<kView>(p, f, s, at, c, lanes);
        const I found = fill_missing<A>(if_max(v, best, iota + static_cast<Int<A>>(c), I{} + none),
                                        I{} + none, lanes);
        lowest[u] = found < lowest[u] ? found : lowest[u];
        if constexpr (kDot) sum[u] += load_dr<kRelu>(upstream, at + c, lanes) * v;
      });
      for (int u = 1; u < kUnroll; ++u) lowest[0] = lowest[u] < lowest[0] ? lowest[u] : lowest[0];
      argmax[i] = reduce_lanes<Int<A>>(lowest[0], [](auto a, auto b) { return b < a ? b : a; });
      if constexpr (kDot) d_map[i] = sum_of_lanes<A>((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
  }

  template <bool kView, bool kEpilogue>
  static void gate(const Problem& p, const View<T>& f, const Span& s, const A* map,
                   const T* residual, bool with_relu, T* y) {
    for (int64_t i = 0; i < s.count; ++i) {
      const int64_t at = offset(p, s, i);
      for_each_vector<A>(p.c, [&](int64_t c, auto lanes) {
        const V v = load_f<kView>(p, f, s, at, c, lanes);
        store_lanes(y + at + c,
                    gated<kEpilogue>(v, broadcast(map[i]), residual, with_relu, at + c, lanes),
                    lanes);
      });
    }
  }

  template <bool kGate, bool kView, bool kRelu>
  static void scatter(const Problem& p, const Upstream<T>& upstream, const View<T>& f,
                      const Span& s, const PixelGradients<A>& pixels, const MapGradients<T>& out) {
    if constexpr (kView) {
      const int64_t unit_pixels = p.rows_per_unit * p.w, units = p.units();
      for (int64_t i = 0; i < s.count; i += unit_pixels) {
        const int64_t unit = s.n * units + (s.first + i) / unit_pixels;
        double* sums = out.sums + unit * 2 * p.c;
        std::fill_n(sums, 2 * p.c, 0.0);
        const int64_t end = std::min(i + unit_pixels, s.count);
        for (int64_t part = i; part < end; part += kPixelsPerPart)
          scatter_part<kGate, kRelu>(p, upstream, f, s, pixels, part,
                                     std::min(part + kPixelsPerPart, end), out, sums);
      }
    } else {
      for (int64_t i = 0; i < s.count; ++i) {
        const int64_t at = offset(p, s, i);
        for_each_vector<A>(p.c, [&](int64_t c, auto lanes) {
          const V df = gradient<kGate, kRelu>(upstream, pixels, c, i, at, out.dr, lanes);
          store_lanes(out.dx + at + c, df, lanes);
        });
      }
    }
  }

 private:
  static constexpr int kUnroll = 4;
  static constexpr int64_t kPixelsPerPart = 64;

  // Pixel i of the span.
  static ATTN_INLINE int64_t offset(const Problem& p, const Span& s, int64_t i) {
    return (s.n * p.h * p.w + s.first + i) * p.c;
  }

  template <bool kView, class Lanes>
  static ATTN_INLINE V load_f(const Problem& p, const View<T>& f, const Span& s, int64_t at,
                              int64_t c, Lanes lanes) {
    const V x = load_lanes(f.x + at + c, lanes);
    if constexpr (!kView) return x;
    const int64_t channel = s.n * p.c + c;
    return affine(x, load_lanes(f.scale + channel, lanes), load_lanes(f.shift + channel, lanes),
                  VectorFma{});
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

  // df of pixel i at channels c, c + 1, ...; dr is stored where it is not dy.
  template <bool kGate, bool kRelu, class Lanes>
  static ATTN_INLINE V gradient(const Upstream<T>& upstream, const PixelGradients<A>& pixels,
                                int64_t c, int64_t i, int64_t at, T* dr_at, Lanes lanes) {
    const I channel = lane_indices<A>() + static_cast<Int<A>>(c);
    V df = broadcast(pixels.d_mean[i]) +
           (channel == pixels.argmax[i] ? broadcast(pixels.d_max[i]) : V{});
    if constexpr (kGate) {
      const V dr = load_dr<kRelu>(upstream, at + c, lanes);
      if constexpr (kRelu) store_lanes(dr_at + at + c, dr, lanes);
      df = VectorFma{}(dr, broadcast(pixels.map[i]), df);
    }
    return df;
  }

  // scatter of pixels [first, last) of the span; their sums are added to `sums`.
  template <bool kGate, bool kRelu>
  static void scatter_part(const Problem& p, const Upstream<T>& upstream, const View<T>& f,
                           const Span& s, const PixelGradients<A>& pixels, int64_t first,
                           int64_t last, const MapGradients<T>& out, double* sums) {
    const A* scale = f.scale + s.n * p.c;
    for_each_vector<A>(p.c, [&](int64_t c, auto lanes) {
      const V channel_scale = load_lanes(scale + c, lanes);
      V d_scale{}, d_shift{};
      for (int64_t i = first; i < last; ++i) {
        const int64_t at = offset(p, s, i);
        const V df = gradient<kGate, kRelu>(upstream, pixels, c, i, at, out.dr, lanes);
        d_scale += df * load_lanes(f.x + at + c, lanes);
        d_shift += df;
        store_lanes(out.dx + at + c, df * channel_scale, lanes);
      }
      for (int64_t lane = 0; lane < lanes; ++lane) {
        sums[c + lane] += d_scale[lane];
        sums[p.c + c + lane] += d_shift[lane];
      }
    });
  }
};

}  // namespace attn_kernels::ATTN_ISA
