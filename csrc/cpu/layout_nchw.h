// The passes of layout.h over NCHW maps: channels outermost, vectors along pixels.
#pragma once

#include "layout.h"

namespace attn_kernels::ATTN_ISA {

template <class T>
struct Nchw {
  using A = acc_t<T>;
  using V = Vec<A>;

  template <bool kView>
  static void pool(const Problem& p, const View<T>& f, const Span& s, A* mean, A* max, A* partial) {
    std::fill_n(mean, s.count, A(0));
    std::fill_n(max, s.count, -kInfinity<A>);
    for (int64_t block = 0; block < p.c; block += kChannelsPerPartial) {
      const int64_t end = std::min(block + kChannelsPerPartial, p.c);
      std::fill_n(partial, s.count, A(0));
      int64_t c = block;
      for (; c + 8 <= end; c += 8) pool_group<8, kView>(p, f, s, c, partial, max);
      for (; c < end; ++c) pool_group<1, kView>(p, f, s, c, partial, max);
      add(partial, s.count, mean);
    }
    const A channels = static_cast<A>(p.c);
    for (int64_t i = 0; i < s.count; ++i) mean[i] /= channels;
  }

  template <bool kDot, bool kView, bool kRelu>
  static void dot_and_argmax(const Problem& p, const Upstream<T>& upstream, const View<T>& f,
                             const Span& s, const A* max, A* d_map, Int<A>* argmax, A* partial) {
    std::fill_n(argmax, s.count, Int<A>(-1));
    if constexpr (kDot) std::fill_n(d_map, s.count, A(0));
    // Downwards, so that the lowest channel that holds the maximum is written last.
    for (int64_t end = p.c; end > 0;) {
      const int64_t block = std::max<int64_t>(end - kChannelsPerPartial, 0);
      if constexpr (kDot) std::fill_n(partial, s.count, A(0));
      int64_t c = end;
      for (; c - 4 >= block; c -= 4)
        dot_group<4, kDot, kView, kRelu>(p, upstream, f, s, c - 4, max, partial, argmax);
      for (; c > block; --c)
        dot_group<1, kDot, kView, kRelu>(p, upstream, f, s, c - 1, max, partial, argmax);
      if constexpr (kDot) add(partial, s.count, d_map);
      end = block;
    }
  }

  template <bool kView, bool kEpilogue>
  static void gate(const Problem& p, const View<T>& f, const Span& s, const A* map,
                   const T* residual, bool with_relu, T* y) {
    for (int64_t c = 0; c < p.c; ++c) {
      const int64_t at = offset(p, s, c);
      const Channels<1, kView> channel(p, f, s, c);
      for_each_vector<A>(s.count, [&](int64_t i, auto lanes) {
        const V v = channel(0, load_lanes(f.x + at + i, lanes));
        store_lanes(y + at + i,
                    gated<kEpilogue>(v, load(map + i), residual, with_relu, at + i, lanes), lanes);
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
        const int64_t count = std::min(unit_pixels, s.count - i);
        for (int64_t c = 0; c < p.c; ++c)
          scatter_unit<kGate, kRelu>(p, upstream, f, s, pixels, c, i, count, out,
                                     out.sums + unit * 2 * p.c + c);
      }
    } else {
      for (int64_t c = 0; c < p.c; ++c) {
        const int64_t at = offset(p, s, c);
        for_each_vector<A>(s.count, [&](int64_t i, auto lanes) {
          const V df = gradient<kGate, kRelu>(upstream, pixels, c, i, at, out.dr, lanes);
          store_lanes(out.dx + at + i, df, lanes);
        });
      }
    }
  }

 private:
  // f of channels c, c + 1, ..., from vectors of x.
  template <int G, bool kView>
  struct Channels {
    Channels(const Problem& p, const View<T>& f, const Span& s, int64_t c)
        : scale(f.scale + s.n * p.c + c), shift(f.shift + s.n * p.c + c) {}
    ATTN_INLINE V operator()(int g, V x) const {
      return affine(x, broadcast(scale[g]), broadcast(shift[g]), VectorFma{});
    }
    const A *scale, *shift;
  };
  template <int G>
  struct Channels<G, false> {
    Channels(const Problem&, const View<T>&, const Span&, int64_t) {}
    ATTN_INLINE V operator()(int, V x) const { return x; }
  };

  static int64_t offset(const Problem& p, const Span& s, int64_t c) {
    return (s.n * p.c + c) * p.h * p.w + s.first;
  }

  static void add(const A* partial, int64_t count, A* total) {
    for (int64_t i = 0; i < count; ++i) total[i] += partial[i];
  }

  // G channels at once: G streams from memory for one pass over the statistics in L1.
  template <int G, bool kView>
  static void pool_group(const Problem& p, const View<T>& f, const Span& s, int64_t c, A* sum,
                         A* max) {
    const int64_t plane = p.h * p.w;
    const T* x = f.x + offset(p, s, c);
    const Channels<G, kView> channels(p, f, s, c);
    for_each_vector<A>(s.count, [&](int64_t i, auto lanes) {
      V v[G], best = load(max + i);
      for (int g = 0; g < G; ++g) {
        v[g] = channels(g, load_lanes(x + g * plane + i, lanes));
        best = nan_max(best, v[g]);
      }
      for (int width = 1; width < G; width *= 2)
        for (int g = 0; g < G; g += 2 * width) v[g] += v[g + width];
      store(sum + i, load(sum + i) + v[0]);
      store(max + i, best);
    });
  }

  template <int G, bool kDot, bool kView, bool kRelu>
  static void dot_group(const Problem& p, const Upstream<T>& upstream, const View<T>& f,
                        const Span& s, int64_t c, const A* max, A* sum, Int<A>* argmax) {
    const int64_t plane = p.h * p.w, first = offset(p, s, c);
    const Channels<G, kView> channels(p, f, s, c);
    for_each_vector<A>(s.count, [&](int64_t i, auto lanes) {
      const V best = load(max + i);
      IntVec<A> winner = load_raw<IntVec<A>>(argmax + i);
      V dot{};
      for (int g = G - 1; g >= 0; --g) {
        const int64_t at = first + g * plane + i;
        const V v = channels(g, load_lanes(f.x + at, lanes));
        winner = if_max(v, best, IntVec<A>{} + static_cast<Int<A>>(c + g), winner);
        if constexpr (kDot) dot += load_dr<kRelu>(upstream, at, lanes) * v;
      }
      store_raw(argmax + i, winner);
      if constexpr (kDot) store(sum + i, load(sum + i) + dot);
    });
  }

  // df of channel c at pixels i, i + 1, ... of the span; dr is stored where it is not dy.
  template <bool kGate, bool kRelu, class Lanes>
  static ATTN_INLINE V gradient(const Upstream<T>& upstream, const PixelGradients<A>& pixels,
                                int64_t c, int64_t i, int64_t at, T* dr_at, Lanes lanes) {
    const IntVec<A> winner = load_raw<IntVec<A>>(pixels.argmax + i);
    V df =
        load(pixels.d_mean + i) + (winner == static_cast<Int<A>>(c) ? load(pixels.d_max + i) : V{});
    if constexpr (kGate) {
      const V dr = load_dr<kRelu>(upstream, at + i, lanes);
      if constexpr (kRelu) store_lanes(dr_at + at + i, dr, lanes);
      df = VectorFma{}(dr, load(pixels.map + i), df);
    }
    return df;
  }

  // scatter of channel c at pixels [from, from + count) of the span, one unit; its sums go to
  // sums[0] and sums[p.c].
  template <bool kGate, bool kRelu>
  static void scatter_unit(const Problem& p, const Upstream<T>& upstream, const View<T>& f,
                           const Span& s, const PixelGradients<A>& pixels, int64_t c, int64_t from,
                           int64_t count, const MapGradients<T>& out, double* sums) {
    constexpr int64_t kPart = kVectorsPerSum * kLanes<A>;
    const int64_t at = offset(p, s, c);
    const V scale = broadcast(f.scale[s.n * p.c + c]);
    double d_scale = 0, d_shift = 0;
    for (int64_t first = from; first < from + count; first += kPart) {
      V scale_part{}, shift_part{};
      for_each_vector<A>(std::min(kPart, from + count - first), [&](int64_t j, auto lanes) {
        const int64_t i = first + j;
        const V df = fill_missing<A>(
            gradient<kGate, kRelu>(upstream, pixels, c, i, at, out.dr, lanes), V{}, lanes);
        scale_part += df * load_lanes(f.x + at + i, lanes);
        shift_part += df;
        store_lanes(out.dx + at + i, df * scale, lanes);
      });
      d_scale += sum_of_lanes<A>(scale_part);
      d_shift += sum_of_lanes<A>(shift_part);
    }
    sums[0] = d_scale;
    sums[p.c] = d_shift;
  }
};

}  // namespace attn_kernels::ATTN_ISA
