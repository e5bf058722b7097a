// channel_pool on the CPU: spatial attention without the stencil.
#pragma once

#include "buffer.h"
#include "layout_channels_last.h"
#include "layout_nchw.h"
#include "spatial_tasks.h"

namespace attn_kernels::ATTN_ISA {

template <class T, template <class> class Layout, bool kView>
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

  void run(const ChannelPool<T>& a, const Band& b) {
    for_each_chunk(b, [&](const Span& s) {
      Layout<T>::template pool<kView>(p_, a.f, s, mean_.get(), max_.get(), partial_.get());
      T* mean = a.pooled + b.n * 2 * p_.h * p_.w + s.first;
      for_each_vector<A>(s.count, [&](int64_t i, auto lanes) {
        store_lanes(mean + i, load(mean_.get() + i), lanes);
        store_lanes(mean + p_.h * p_.w + i, load(max_.get() + i), lanes);
      });
    });
  }

  // df = d_mean / C + (c == argmax ? d_max : 0); the maximum is found again from x.
  void run(const ChannelPoolBackward<T>& a, const Band& b) {
    constexpr Upstream<T> kNone{nullptr, nullptr};
    for_each_chunk(b, [&](const Span& s) {
      Layout<T>::template pool<kView>(p_, a.f, s, mean_.get(), max_.get(), partial_.get());
      Layout<T>::template dot_and_argmax<false, kView, false>(p_, kNone, a.f, s, max_.get(),
                                                              nullptr, argmax_.get(), nullptr);
      const A* d_mean = a.d_pooled + b.n * 2 * p_.h * p_.w + s.first;
      for (int64_t i = 0; i < s.count; ++i) mean_[i] = d_mean[i] / static_cast<A>(p_.c);
      std::copy_n(d_mean + p_.h * p_.w, s.count, max_.get());
      Layout<T>::template scatter<false, kView, false>(
          p_, kNone, a.f, s, {nullptr, mean_.get(), max_.get(), argmax_.get()}, a.out);
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

template <class P, class Args>
void pool_bands(const Args& a, int64_t begin, int64_t end) {
  P pool(a.problem);
  for (int64_t task = begin; task < end; ++task) pool.run(a, band(a.problem, task));
}

template <class T, class Args>
void pool_layouts(const Args& a, int64_t begin, int64_t end) {
  with_flags(a.f.scale != nullptr, a.problem.channels_last, [&](auto view, auto channels_last) {
    if constexpr (channels_last) {
      pool_bands<Pool<T, ChannelsLast, view>>(a, begin, end);
    } else {
      pool_bands<Pool<T, Nchw, view>>(a, begin, end);
    }
  });
}

template <class T>
void channel_pool(const ChannelPool<T>& a, int64_t begin, int64_t end) {
  pool_layouts<T>(a, begin, end);
}

template <class T>
void channel_pool_backward(const ChannelPoolBackward<T>& a, int64_t begin, int64_t end) {
  pool_layouts<T>(a, begin, end);
}

}  // namespace attn_kernels::ATTN_ISA
