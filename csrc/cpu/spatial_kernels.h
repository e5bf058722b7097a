// spatial_gate and spatial_attention on the CPU.
#pragma once

#include "layout_channels_last.h"
#include "layout_nchw.h"
#include "spatial_tasks.h"
#include "stencil.h"

namespace attn_kernels::ATTN_ISA {

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

// The stencil of an image.
template <class A>
const A* weight_of(const Problem& p, const A* weight, int64_t n) {
  return weight + n / p.images_per_group * 2 * p.k * p.k;
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
    const bool is_view = a_.f.scale != nullptr;
    with_flags(is_view, false, [&](auto view, auto) {
      Layout<T>::template pool<view>(p_, a_.f, span, mean_.get(), max_.get(), partial_.get());
    });
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
    make_logit(n, r, end - r);
    for (int64_t q = 0; q < count; q += kLanes<A>)
      store(logit_.get() + q, sigmoid(load(logit_.get() + q), VectorExp{}));
    close_gaps(logit_.get(), planes_[0].stride, end - r, p_.w, map_.get());
    const Span span{n, r * p_.w, (end - r) * p_.w};
    std::copy_n(map_.get(), span.count, a_.map + n * p_.h * p_.w + span.first);
    if (a_.y == nullptr) return;
    const bool has_epilogue = a_.residual != nullptr || a_.relu;
    with_flags(a_.f.scale != nullptr, has_epilogue, [&](auto view, auto epilogue) {
      Layout<T>::template gate<view, epilogue>(p_, a_.f, span, map_.get(), a_.residual, a_.relu,
                                               a_.y);
    });
  }

  void make_logit(int64_t n, int64_t r, int64_t rows) {
    const int64_t count = rows * planes_[0].stride, taps = p_.k * p_.k;
    const A* weight = weight_of(p_, a_.weight, n);
    const A bias = a_.bias != nullptr ? a_.bias[n / p_.images_per_group] : A(0);
    if (all_finite(weight, 2 * taps)) {
      with_width(p_.k,
                 [&](auto K) { stencil<K>(planes_, 0, p_.k, weight, bias, count, logit_.get()); });
      return;
    }
    const Rows inside{std::max<int64_t>(pad_ - r, 0), p_.h - r + pad_};
    const Buffer<A> other = make_buffer<A>(count);
    stencil_inside(planes_[0], inside, p_.k, weight, 1, rows, logit_.get());
    stencil_inside(planes_[1], inside, p_.k, weight + taps, 1, rows, other.get());
    for (int64_t q = 0; q < count; ++q) logit_[q] += other[q] + bias;
  }

  const SpatialForward<T>& a_;
  const Problem& p_;
  const int64_t pad_, rows_;
  Plane<A> planes_[2];
  Buffer<A> mean_, max_, partial_, logit_, map_;
};

// ---- Backward -----------------------------------------------------------------------------------

template <class T, template <class> class Layout>
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
  // A gate's gradient comes as dy and d_map is summed from it; else d_map is given.
  bool is_gate() const { return a_.upstream.dy != nullptr; }

  // fn(gate, view, relu) as types: passes are compiled for each kind, what is around them once.
  template <class Fn>
  void with_kind(const Fn& fn) const {
    constexpr std::false_type kNo;
    constexpr std::true_type kYes;
    with_flags(a_.f.scale != nullptr, a_.upstream.y != nullptr, [&](auto view, auto relu) {
      if (is_gate()) {
        fn(kYes, view, relu);
      } else if constexpr (!relu) {  // there is no ReLU without a gate
        fn(kNo, view, kNo);
      }
    });
  }

  // d_logit and argmax of rows [from, to); row 0 of both is row `top` of the image.
  void make_d_logit(const Band& b, int64_t from, int64_t to, int64_t top) {
    const int64_t first = std::clamp<int64_t>(from, 0, p_.h),
                  last = std::clamp<int64_t>(to, 0, p_.h);
    const Span span{b.n, first * p_.w, (last - first) * p_.w};
    const int64_t at = b.n * p_.h * p_.w + span.first;
    std::copy_n(a_.pooled + at + (b.n + 1) * p_.h * p_.w, span.count, max_.get());
    Int<A>* argmax = argmax_.get() + (first - top) * p_.w;
    with_kind([&](auto gate, auto view, auto relu) {
      Layout<T>::template dot_and_argmax<gate, view, relu>(p_, a_.upstream, a_.f, span, max_.get(),
                                                           d_map_.get(), argmax, partial_.get());
    });
    const A* d_map = is_gate() ? d_map_.get() : a_.d_map + at;
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
    make_d_pooled(n, r, end - r);
    const int64_t stride = d_logit_.stride;
    const Span span{n, r * p_.w, (end - r) * p_.w};
    close_gaps(d_mean_gaps_.get(), stride, end - r, p_.w, d_mean_.get());
    close_gaps(d_max_gaps_.get(), stride, end - r, p_.w, d_max_.get());
    const A channels = static_cast<A>(p_.c);
    for (int64_t i = 0; i < span.count; ++i) d_mean_[i] /= channels;
    std::copy_n(a_.map + n * p_.h * p_.w + span.first, span.count, map_.get());
    const PixelGradients<A> pixels{map_.get(), d_mean_.get(), d_max_.get(),
                                   argmax_.get() + pad_ * p_.w};
    with_kind([&](auto gate, auto view, auto relu) {
      Layout<T>::template scatter<gate, view, relu>(p_, a_.upstream, a_.f, span, pixels, a_.out);
    });
  }

  void make_d_pooled(int64_t n, int64_t r, int64_t rows) {
    const A* weight = weight_of(p_, a_.weight, n);
    const int64_t taps = p_.k * p_.k;
    if (all_finite(weight, 2 * taps)) {
      with_width(p_.k, [&](auto K) {
        stencil_transposed<K>(d_logit_, 0, p_.k, weight, rows * d_logit_.stride, d_mean_gaps_.get(),
                              d_max_gaps_.get());
      });
      return;
    }
    const Rows inside{std::max<int64_t>(pad_ - r, 0), p_.h - r + pad_};
    stencil_inside(d_logit_, inside, p_.k, weight + taps - 1, -1, rows, d_mean_gaps_.get());
    stencil_inside(d_logit_, inside, p_.k, weight + 2 * taps - 1, -1, rows, d_max_gaps_.get());
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
  const A* d_logit_rows = a.d_logit + (n * p.h + r) * p.w;
  Plane<A> d_logit(rows, p.w, p.k);
  d_logit.set_rows(0, rows, d_logit_rows);
  const bool finite = all_finite(d_logit_rows, rows * p.w);
  const int64_t first = std::max<int64_t>(r - pad, 0), last = std::min(r + rows + pad, p.h);
  A* d_weight = a.partials + unit * (2 * p.k * p.k + 1);
  for (int i = 0; i < 2; ++i, d_weight += p.k * p.k) {
    const Rows inside{first - (r - pad), last - (r - pad)};
    const A* values = a.pooled + ((n * 2 + i) * p.h + first) * p.w;
    Plane<A> in(rows + 2 * pad, p.w, p.k);
    in.set_rows(inside.begin, last - first, values);
    if (finite && all_finite(values, (last - first) * p.w)) {
      with_width(p.k, [&](auto K) {
        stencil_weight_backward<K>(in, d_logit.row(0), p.k, rows * in.stride, d_weight);
      });
    } else {
      stencil_weight_backward_inside(in, inside, p.k, d_logit_rows, rows, d_weight);
    }
  }
  *d_weight = sum_of_values(d_logit_rows, rows * p.w);
}

// ---- The table ----------------------------------------------------------------------------------

// Tasks [begin, end) by one object, which keeps its buffers from task to task.
template <class Walker, class Args>
void walk_bands(const Args& a, int64_t begin, int64_t end) {
  Walker walker(a);
  for (int64_t task = begin; task < end; ++task) walker.run(band(a.problem, task));
}

template <class T>
void spatial_forward(const SpatialForward<T>& a, int64_t begin, int64_t end) {
  a.problem.channels_last ? walk_bands<Forward<T, ChannelsLast>>(a, begin, end)
                          : walk_bands<Forward<T, Nchw>>(a, begin, end);
}

template <class T>
void spatial_backward(const SpatialBackward<T>& a, int64_t begin, int64_t end) {
  a.problem.channels_last ? walk_bands<Backward<T, ChannelsLast>>(a, begin, end)
                          : walk_bands<Backward<T, Nchw>>(a, begin, end);
}

template <class A>
void weight_backward(const WeightBackward<A>& a, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) weight_backward_unit(a, unit);
}

}  // namespace attn_kernels::ATTN_ISA
