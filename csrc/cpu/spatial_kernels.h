// Spatial attention on the CPU: each band of an image is walked in chunks of rows small enough to
// stay in the L2 cache between the pass that takes their statistics and the pass that gates them.
#pragma once

#include <unistd.h>

#include "layout.h"
#include "stencil.h"

namespace attn_kernels::ATTN_ISA {

// ---- The task that a kernel is at ---------------------------------------------------------------

// Rows [begin, end) of image n.
struct Band {
  int64_t n, begin, end;
};

inline Band band(const Problem& p, int64_t task) {
  const int64_t n = task / p.bands, b = task % p.bands;
  return {n, p.h * b / p.bands, p.h * (b + 1) / p.bands};
}

inline int64_t level2_cache_bytes() {
  static const int64_t bytes = [] {
    const long known = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return known > 0 ? known : 1L << 20;
  }();
  return bytes;
}

// Rows per chunk: an image of x that fits into the L2 cache whole is not cut; else a chunk and the
// rows that its stencil looks ahead fill a quarter of it, since y, dy and dx want their share.
inline int64_t chunk_rows(const Problem& p, size_t element_bytes) {
  const int64_t row_bytes = p.c * p.w * static_cast<int64_t>(element_bytes);
  if (row_bytes * p.h <= level2_cache_bytes()) return p.h;
  const int64_t rows = level2_cache_bytes() / 4 / row_bytes - p.k / 2;
  return std::clamp<int64_t>(rows, std::min<int64_t>(4, p.h), p.h);
}

// fn(std::integral_constant<int, K>{}) for the widths that have a kernel of their own, else K = 0.
template <class Fn>
void with_width(int k, const Fn& fn) {
  switch (k) {
    case 3:
      return fn(std::integral_constant<int, 3>{});
    case 7:
      return fn(std::integral_constant<int, 7>{});
    default:
      return fn(std::integral_constant<int, 0>{});
  }
}

// Values of rows with gaps, one row after another without.
template <class A>
void close_gaps(const A* rows, int64_t stride, int64_t count, int64_t w, A* values) {
  for (int64_t j = 0; j < count; ++j) std::copy_n(rows + j * stride, w, values + j * w);
}

// ---- Forward ------------------------------------------------------------------------------------

template <class T, template <class> class Layout>
class Forward {
  using A = acc_t<T>;

 public:
  explicit Forward(const SpatialForward<T>& args)
      : a_(args),
        p_(args.problem),
        pad_(p_.k / 2),
        rows_(chunk_rows(p_, sizeof(T))),
        planes_{{rows_ + 2 * pad_, p_.w, p_.k}, {rows_ + 2 * pad_, p_.w, p_.k}},
        mean_(make_buffer<A>((rows_ + 2 * pad_) * p_.w)),
        max_(make_buffer<A>((rows_ + 2 * pad_) * p_.w)),
        partial_(make_buffer<A>((rows_ + 2 * pad_) * p_.w)),
        logit_(make_buffer<A>(rows_ * planes_[0].stride)),
        map_(make_buffer<A>(rows_ * p_.w)) {}

  void run(const Band& b) {
    int64_t known = b.begin - pad_;  // the first row that is not in the planes yet
    for (int64_t r = b.begin; r < b.end; r += rows_) {
      const int64_t end = std::min(r + rows_, b.end);
      pool(b, known, end + pad_, r - pad_);
      known = end + pad_;
      make_map(b.n, r, end);
      for (auto& plane : planes_) plane.scroll(end - r, 2 * pad_);
    }
  }

 private:
  // Statistics of rows [from, to), into the planes, whose first row is row `top` of the image.
  void pool(const Band& b, int64_t from, int64_t to, int64_t top) {
    const int64_t first = std::clamp<int64_t>(from, 0, p_.h),
                  last = std::clamp<int64_t>(to, 0, p_.h);
    const Span span{b.n, first * p_.w, (last - first) * p_.w};
    Layout<T>::pool(p_, a_.x, span, mean_.get(), max_.get(), partial_.get());
    const A* values[2] = {mean_.get(), max_.get()};
    for (int i = 0; i < 2; ++i) {
      planes_[i].clear_rows(from - top, first - from);
      planes_[i].set_rows(first - top, last - first, values[i]);
      planes_[i].clear_rows(last - top, to - last);
      // Rows beyond the band's own belong to its neighbour, which writes them itself.
      const int64_t own = std::max(first, b.begin), own_end = std::min(last, b.end);
      if (own < own_end)
        std::copy_n(values[i] + (own - first) * p_.w, (own_end - own) * p_.w,
                    a_.pooled + ((b.n * 2 + i) * p_.h + own) * p_.w);
    }
  }

  void make_map(int64_t n, int64_t r, int64_t end) {
    const int64_t count = (end - r) * planes_[0].stride;
    with_width(p_.k, [&](auto K) {
      stencil<K>(planes_, 0, p_.k, a_.weight, a_.bias, count, logit_.get());
    });
    for (int64_t q = 0; q < count; q += kLanes<A>)
      store(logit_.get() + q, sigmoid(load(logit_.get() + q), VectorExp{}));
    close_gaps(logit_.get(), planes_[0].stride, end - r, p_.w, map_.get());
    const Span span{n, r * p_.w, (end - r) * p_.w};
    std::copy_n(map_.get(), span.count, a_.map + n * p_.h * p_.w + span.first);
    if (a_.y != nullptr) Layout<T>::gate(p_, a_.x, span, map_.get(), a_.y);
  }

  const SpatialForward<T>& a_;
  const Problem& p_;
  const int64_t pad_, rows_;
  Plane<A> planes_[2];
  Buffer<A> mean_, max_, partial_, logit_, map_;
};

// ---- Backward -----------------------------------------------------------------------------------

// kGate: the gradient comes as dy and d_map is summed from it; else d_map is given.
template <class T, template <class> class Layout, bool kGate>
class Backward {
  using A = acc_t<T>;

 public:
  explicit Backward(const SpatialBackward<T>& args)
      : a_(args),
        p_(args.problem),
        pad_(p_.k / 2),
        rows_(chunk_rows(p_, sizeof(T))),
        d_logit_(rows_ + 2 * pad_, p_.w, p_.k),
        d_map_(make_buffer<A>((rows_ + 2 * pad_) * p_.w)),
        map_(make_buffer<A>((rows_ + 2 * pad_) * p_.w)),
        max_(make_buffer<A>((rows_ + 2 * pad_) * p_.w)),
        partial_(make_buffer<A>((rows_ + 2 * pad_) * p_.w)),
        argmax_(make_buffer<Int<A>>((rows_ + 2 * pad_) * p_.w)),
        d_mean_gaps_(make_buffer<A>(rows_ * d_logit_.stride)),
        d_max_gaps_(make_buffer<A>(rows_ * d_logit_.stride)),
        d_mean_(make_buffer<A>(rows_ * p_.w)),
        d_max_(make_buffer<A>(rows_ * p_.w)) {}

  void run(const Band& b) {
    int64_t known = b.begin - pad_;  // the first row whose d_logit and argmax are not known yet
    for (int64_t r = b.begin; r < b.end; r += rows_) {
      const int64_t end = std::min(r + rows_, b.end);
      make_d_logit(b, known, end + pad_, r - pad_);
      known = end + pad_;
      make_dx(b.n, r, end);
      d_logit_.scroll(end - r, 2 * pad_);
      std::copy_n(argmax_.get() + (end - r) * p_.w, 2 * pad_ * p_.w, argmax_.get());
    }
  }

 private:
  // d_logit and argmax of rows [from, to); row 0 of both is row `top` of the image.
  void make_d_logit(const Band& b, int64_t from, int64_t to, int64_t top) {
    const int64_t first = std::clamp<int64_t>(from, 0, p_.h),
                  last = std::clamp<int64_t>(to, 0, p_.h);
    const Span span{b.n, first * p_.w, (last - first) * p_.w};
    const int64_t at = b.n * p_.h * p_.w + span.first;
    std::copy_n(a_.pooled + at + (b.n + 1) * p_.h * p_.w, span.count, max_.get());
    Int<A>* argmax = argmax_.get() + (first - top) * p_.w;
    Layout<T>::template dot_and_argmax<kGate>(p_, a_.dy, a_.x, span, max_.get(), d_map_.get(),
                                              argmax, partial_.get());
    const A* d_map = kGate ? d_map_.get() : a_.d_map + at;
    for (int64_t i = 0; i < span.count; ++i) d_map_[i] = sigmoid_backward(d_map[i], a_.map[at + i]);
    d_logit_.clear_rows(from - top, first - from);
    d_logit_.set_rows(first - top, last - first, d_map_.get());
    d_logit_.clear_rows(last - top, to - last);
    const int64_t own = std::max(first, b.begin), own_end = std::min(last, b.end);
    if (own < own_end)
      std::copy_n(d_map_.get() + (own - first) * p_.w, (own_end - own) * p_.w,
                  a_.d_logit + (b.n * p_.h + own) * p_.w);
  }

  void make_dx(int64_t n, int64_t r, int64_t end) {
    const int64_t stride = d_logit_.stride, count = (end - r) * stride;
    with_width(p_.k, [&](auto K) {
      stencil_transposed<K>(d_logit_, 0, p_.k, a_.weight, count, d_mean_gaps_.get(),
                            d_max_gaps_.get());
    });
    const Span span{n, r * p_.w, (end - r) * p_.w};
    close_gaps(d_mean_gaps_.get(), stride, end - r, p_.w, d_mean_.get());
    close_gaps(d_max_gaps_.get(), stride, end - r, p_.w, d_max_.get());
    const A channels = static_cast<A>(p_.c);
    for (int64_t i = 0; i < span.count; ++i) d_mean_[i] /= channels;
    std::copy_n(a_.map + n * p_.h * p_.w + span.first, span.count, map_.get());
    Layout<T>::template scatter<kGate>(p_, a_.dy, span, map_.get(), d_mean_.get(), d_max_.get(),
                                       argmax_.get() + pad_ * p_.w, a_.dx);
  }

  const SpatialBackward<T>& a_;
  const Problem& p_;
  const int64_t pad_, rows_;
  Plane<A> d_logit_;
  Buffer<A> d_map_, map_, max_, partial_;
  Buffer<Int<A>> argmax_;
  Buffer<A> d_mean_gaps_, d_max_gaps_, d_mean_, d_max_;
};

// d_weight and d_bias of one unit of rows.
template <class A>
void weight_backward_unit(const WeightBackward<A>& a, int64_t unit) {
  const Problem& p = a.problem;
  const int64_t units = (p.h + kRowsPerPartial - 1) / kRowsPerPartial, pad = p.k / 2;
  const int64_t n = unit / units, r = unit % units * kRowsPerPartial;
  const int64_t rows = std::min(kRowsPerPartial, p.h - r);
  Plane<A> d_logit(rows, p.w, p.k);
  d_logit.set_rows(0, rows, a.d_logit + (n * p.h + r) * p.w);
  const int64_t first = std::max<int64_t>(r - pad, 0), last = std::min(r + rows + pad, p.h);
  A* d_weight = a.partials + unit * (2 * p.k * p.k + 1);
  for (int i = 0; i < 2; ++i, d_weight += p.k * p.k) {
    Plane<A> in(rows + 2 * pad, p.w, p.k);
    in.set_rows(first - (r - pad), last - first, a.pooled + ((n * 2 + i) * p.h + first) * p.w);
    with_width(p.k, [&](auto K) {
      stencil_weight_backward<K>(in, d_logit.row(0), p.k, rows * in.stride, d_weight);
    });
  }
  *d_weight = sum_of_values(a.d_logit + (n * p.h + r) * p.w, rows * p.w);
}

// ---- Channel pooling alone ----------------------------------------------------------------------

template <class T, template <class> class Layout>
class Pool {
  using A = acc_t<T>;

 public:
  explicit Pool(const Problem& p)
      : p_(p),
        rows_(chunk_rows(p, sizeof(T))),
        mean_(make_buffer<A>(rows_ * p.w)),
        max_(make_buffer<A>(rows_ * p.w)),
        partial_(make_buffer<A>(rows_ * p.w)),
        argmax_(make_buffer<Int<A>>(rows_ * p.w)) {}

  void forward(const ChannelPool<T>& a, const Band& b) {
    for_each_chunk(b, [&](const Span& s) {
      Layout<T>::pool(p_, a.x, s, mean_.get(), max_.get(), partial_.get());
      T* mean = a.pooled + b.n * 2 * p_.h * p_.w + s.first;
      for_each_vector<A>(s.count, [&](int64_t i, auto lanes) {
        store_lanes(mean + i, load(mean_.get() + i), lanes);
        store_lanes(mean + p_.h * p_.w + i, load(max_.get() + i), lanes);
      });
    });
  }

  // dx = d_mean / C + (c == argmax ? d_max : 0); the maximum is found again from x.
  void backward(const ChannelPoolBackward<T>& a, const Band& b) {
    for_each_chunk(b, [&](const Span& s) {
      Layout<T>::pool(p_, a.x, s, mean_.get(), max_.get(), partial_.get());
      Layout<T>::template dot_and_argmax<false>(p_, nullptr, a.x, s, max_.get(), nullptr,
                                                argmax_.get(), nullptr);
      const A* d_mean = a.d_pooled + b.n * 2 * p_.h * p_.w + s.first;
      for (int64_t i = 0; i < s.count; ++i) mean_[i] = d_mean[i] / static_cast<A>(p_.c);
      std::copy_n(d_mean + p_.h * p_.w, s.count, max_.get());
      Layout<T>::template scatter<false>(p_, nullptr, s, nullptr, mean_.get(), max_.get(),
                                         argmax_.get(), a.dx);
    });
  }

 private:
  template <class Fn>
  void for_each_chunk(const Band& b, const Fn& fn) {
    for (int64_t r = b.begin; r < b.end; r += rows_)
      fn(Span{b.n, r * p_.w, (std::min(r + rows_, b.end) - r) * p_.w});
  }

  const Problem& p_;
  const int64_t rows_;
  Buffer<A> mean_, max_, partial_;
  Buffer<Int<A>> argmax_;
};

// ---- The table ----------------------------------------------------------------------------------

template <class T, template <class> class Layout>
void forward_bands(const SpatialForward<T>& a, int64_t begin, int64_t end) {
  Forward<T, Layout> forward(a);
  for (int64_t task = begin; task < end; ++task) forward.run(band(a.problem, task));
}

template <class T>
void spatial_forward(const SpatialForward<T>& a, int64_t begin, int64_t end) {
  a.problem.channels_last ? forward_bands<T, ChannelsLast>(a, begin, end)
                          : forward_bands<T, Nchw>(a, begin, end);
}

template <class T, template <class> class Layout, bool kGate>
void backward_bands(const SpatialBackward<T>& a, int64_t begin, int64_t end) {
  Backward<T, Layout, kGate> backward(a);
  for (int64_t task = begin; task < end; ++task) backward.run(band(a.problem, task));
}

template <class T, bool kGate>
void backward_layouts(const SpatialBackward<T>& a, int64_t begin, int64_t end) {
  a.problem.channels_last ? backward_bands<T, ChannelsLast, kGate>(a, begin, end)
                          : backward_bands<T, Nchw, kGate>(a, begin, end);
}

template <class T>
void spatial_backward(const SpatialBackward<T>& a, int64_t begin, int64_t end) {
  a.dy != nullptr ? backward_layouts<T, true>(a, begin, end)
                  : backward_layouts<T, false>(a, begin, end);
}

template <class A>
void weight_backward(const WeightBackward<A>& a, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) weight_backward_unit(a, unit);
}

template <class T, template <class> class Layout, class Args, class Fn>
void pool_bands(const Args& a, int64_t begin, int64_t end, const Fn& fn) {
  Pool<T, Layout> pool(a.problem);
  for (int64_t task = begin; task < end; ++task) fn(pool, band(a.problem, task));
}

template <class T>
void channel_pool(const ChannelPool<T>& a, int64_t begin, int64_t end) {
  const auto forward = [&](auto& pool, const Band& b) { pool.forward(a, b); };
  a.problem.channels_last ? pool_bands<T, ChannelsLast>(a, begin, end, forward)
                          : pool_bands<T, Nchw>(a, begin, end, forward);
}

template <class T>
void channel_pool_backward(const ChannelPoolBackward<T>& a, int64_t begin, int64_t end) {
  const auto backward = [&](auto& pool, const Band& b) { pool.backward(a, b); };
  a.problem.channels_last ? pool_bands<T, ChannelsLast>(a, begin, end, backward)
                          : pool_bands<T, Nchw>(a, begin, end, backward);
}

}  // namespace attn_kernels::ATTN_ISA
