// Statistics over the pixels of every channel on the CPU.
//
// Pixels are walked in blocks that stay in the cache. The first pass over a block takes sum and
// extremes, the second, where the variance is asked for, the deviations from the block's own mean;
// blocks are merged in their order, in double.
#pragma once

#include <algorithm>
#include <limits>

#include "squeeze_moments.h"

namespace attn_kernels::ATTN_ISA {

// The extremes of what each lane has seen, and where it saw them first. NaN is passed over: who
// finds it in the sum looks for it.
template <class A>
struct LaneExtremes {
  using V = Vec<A>;
  using I = IntVec<A>;
  V max, min;
  I argmax, argmin;

  // Lanes that are not there hold NaN.
  ATTN_INLINE void add(V v, I at) {
    argmax = v > max ? at : argmax;
    max = v > max ? v : max;
    argmin = v < min ? at : argmin;
    min = v < min ? v : min;
  }
};

// An extreme of a channel, and its pixel.
template <class A>
struct Extreme {
  A value;
  int64_t at;

  template <bool kLargest>
  void merge(A other, int64_t other_at) {
    if (!takes<kLargest>(other, value)) return;
    value = other;
    at = other_at;
  }
};

template <class A>
struct Extremes {
  Extreme<A> max{-std::numeric_limits<A>::infinity(), 0};
  Extreme<A> min{std::numeric_limits<A>::infinity(), 0};

  void merge_nan(int64_t at) {
    max.template merge<true>(std::numeric_limits<A>::quiet_NaN(), at);
    min.template merge<false>(std::numeric_limits<A>::quiet_NaN(), at);
  }
};

// The first of `count` values that is NaN, each `stride` after the last; `count` if there is none.
template <class T>
int64_t first_nan(const T* x, int64_t count, int64_t stride) {
  for (int64_t i = 0; i < count; ++i) {
    const acc_t<T> value = load(x + i * stride, 1)[0];
    if (value != value) return i;
  }
  return count;
}

// ---- NCHW: one plane after the other ------------------------------------------------------------

constexpr int64_t kVectorsPerBlock =
    128;  // 8 KiB of AVX-512's float: the first level cache holds it

template <class T, bool kMoments, bool kExtremes>
class SqueezePlane {
  using A = acc_t<T>;
  using V = Vec<A>;
  using I = IntVec<A>;
  static constexpr int64_t kPart = kVectorsPerSum * kLanes<A>;

 public:
  SqueezePlane(const T* x, int64_t pixels) : x_(x) {
    constexpr int64_t kBlock = kVectorsPerBlock * kLanes<A>;
    for (int64_t first = 0; first < pixels; first += kBlock) {
      const int64_t count = std::min(kBlock, pixels - first);
      const A block_sum = sum_and_extremes(first, count);
      sum_ += block_sum;
      if constexpr (kMoments)
        add_plane_moments(moments_, x + first, first, count, block_sum / static_cast<A>(count));
    }
  }

  double sum() const { return sum_; }
  double squares() const { return moments_.squares; }
  const Extremes<A>& extremes() const { return extremes_; }

 private:
  A sum_and_extremes(int64_t first, int64_t count) {
    const T* x = x_ + first;
    const I iota = lane_indices<A>();
    const V nan = broadcast(std::numeric_limits<A>::quiet_NaN());
    const V infinity = broadcast(std::numeric_limits<A>::infinity());
    LaneExtremes<A> lane{-infinity, infinity, iota, iota};
    V total{};
    for (int64_t part = 0; part < count; part += kPart) {
      V part_sum{};
      for_each_vector<A>(std::min(kPart, count - part), [&](int64_t i, auto lanes) {
        const V v = load_lanes(x + part + i, lanes);
        part_sum += v;
        if constexpr (kExtremes)
          lane.add(fill_missing<A>(v, nan, lanes), iota + static_cast<Int<A>>(part + i));
      });
      total += part_sum;
    }
    const A sum = sum_of_lanes<A>(total);
    if constexpr (kExtremes) merge(lane, first, count, sum);
    return sum;
  }

  void merge(const LaneExtremes<A>& lane, int64_t first, int64_t count, A sum) {
    const int64_t nan = sum == sum ? count : first_nan(x_ + first, count, 1);
    if (nan < count) return extremes_.merge_nan(first + nan);
    const A max = reduce_lanes<A>(lane.max, [](A a, A b) { return a > b ? a : b; });
    const A min = reduce_lanes<A>(lane.min, [](A a, A b) { return a < b ? a : b; });
    extremes_.max.template merge<true>(max, first + lowest(lane.max == max, lane.argmax));
    extremes_.min.template merge<false>(min, first + lowest(lane.min == min, lane.argmin));
  }

  // The lowest of the places in the lanes that hold the extreme.
  static ATTN_INLINE int64_t lowest(I holds, I at) {
    const I places = holds ? at : I{} + std::numeric_limits<Int<A>>::max();
    return reduce_lanes<Int<A>>(places, [](auto a, auto b) { return a < b ? a : b; });
  }

  const T* x_;
  double sum_ = 0;
  Moments moments_;
  Extremes<A> extremes_;
};

// ---- channels_last: a block of channels, vectors along them -------------------------------------

template <class T, bool kMoments, bool kExtremes>
class SqueezeChannels {
  using A = acc_t<T>;
  using V = Vec<A>;
  using I = IntVec<A>;

 public:
  explicit SqueezeChannels(const Planes& p)
      : p_(p),
        // However many channels a task has, the pixels of a block are the same.
        block_(std::clamp<int64_t>(32768 / p.c, 64, 512)),
        total_(make_buffer<double>(p.channel_block)),
        moments_(p),
        high_(make_buffer<A>(p.channel_block)),
        low_(make_buffer<A>(p.channel_block)),
        high_at_(make_buffer<int64_t>(p.channel_block)),
        low_at_(make_buffer<int64_t>(p.channel_block)),
        sum_(make_buffer<A>(p.channel_block)),
        max_(make_buffer<A>(p.channel_block)),
        min_(make_buffer<A>(p.channel_block)),
        argmax_(make_buffer<Int<A>>(p.channel_block)),
        argmin_(make_buffer<Int<A>>(p.channel_block)) {}

  void run(const T* x, const PlaneBlock& t) {
    std::fill_n(total_.get(), t.channels, 0.0);
    if constexpr (kMoments) moments_.start(t.channels);
    x += t.n * p_.pixels * p_.c + t.channel;
    for (int64_t first = 0; first < p_.pixels; first += block_) {
      const int64_t count = std::min(block_, p_.pixels - first);
      add_block(x + first * p_.c, first, count, t.channels);
    }
  }

  // Results of the block; `share` is that of one pixel.
  void put(const Squeeze<T>& a, const PlaneBlock& t, double share) const {
    const int64_t to = t.n * p_.c + t.channel, channels = t.channels;
    const auto put_each = [&](auto* result, const auto& value) {
      if (result == nullptr) return;
      for (int64_t c = 0; c < channels; ++c)
        result[to + c] = static_cast<std::remove_pointer_t<decltype(result)>>(value(c));
    };
    put_each(a.mean, [&](int64_t c) { return total_[c] * share; });
    put_each(a.var, [&](int64_t c) { return moments_.squares(c) * share; });
    put_each(a.max, [&](int64_t c) { return high_[c]; });
    put_each(a.min, [&](int64_t c) { return low_[c]; });
    put_each(a.argmax, [&](int64_t c) { return high_at_[c]; });
    put_each(a.argmin, [&](int64_t c) { return low_at_[c]; });
  }

 private:
  void add_block(const T* x, int64_t first, int64_t count, int64_t channels) {
    std::fill_n(sum_.get(), channels, A(0));
    if constexpr (kExtremes) {
      std::fill_n(max_.get(), channels, -std::numeric_limits<A>::infinity());
      std::fill_n(min_.get(), channels, std::numeric_limits<A>::infinity());
      std::fill_n(argmax_.get(), channels, 0);
      std::fill_n(argmin_.get(), channels, 0);
    }
    in_groups(count, [&](int64_t pixel, auto group) {
      sum_and_extremes<group>(x + pixel * p_.c, static_cast<Int<A>>(pixel), channels);
    });
    for (int64_t c = 0; c < channels; ++c) total_[c] += sum_[c];
    if constexpr (kExtremes) merge(x, first, count, channels);
    if constexpr (kMoments) moments_.add(x, first, count, channels, sum_.get());
  }

  template <int G>
  void sum_and_extremes(const T* x, Int<A> pixel, int64_t channels) {
    for_each_vector<A>(channels, [&](int64_t c, auto lanes) {
      V v[G];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) v[g] = load_lanes(x + g * p_.c + c, lanes);
      if constexpr (kExtremes) {
        LaneExtremes<A> lane{load(&max_[c]), load(&min_[c]), load_raw<I>(&argmax_[c]),
                             load_raw<I>(&argmin_[c])};
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) lane.add(v[g], I{} + (pixel + g));
        store(&max_[c], lane.max);
        store(&min_[c], lane.min);
        store_raw(&argmax_[c], lane.argmax);
        store_raw(&argmin_[c], lane.argmin);
      }
      store(&sum_[c], load(&sum_[c]) + tree_sum(v));
    });
  }

  void merge(const T* x, int64_t first, int64_t count, int64_t channels) {
    merge_extremes<true>(first, channels, max_.get(), argmax_.get(), high_.get(), high_at_.get());
    merge_extremes<false>(first, channels, min_.get(), argmin_.get(), low_.get(), low_at_.get());
    bool any_nan = false;
    for (int64_t c = 0; c < channels; ++c) any_nan |= sum_[c] != sum_[c];
    if (any_nan) merge_nans(x, first, count, channels);
  }

  // Those of a block from pixel `first` on into those of the pixels before.
  template <bool kLargest>
  static void merge_extremes(int64_t first, int64_t channels, const A* found, const Int<A>* at,
                             A* best, int64_t* best_at) {
    if (first == 0) {  // as fast as a copy: small maps have no other block
      std::copy_n(found, channels, best);
      std::copy_n(at, channels, best_at);
      return;
    }
    for (int64_t c = 0; c < channels; ++c) {
      if (!takes<kLargest>(found[c], best[c])) continue;
      best[c] = found[c];
      best_at[c] = first + at[c];
    }
  }

  // A NaN found later takes the place of whatever else the block holds.
  void merge_nans(const T* x, int64_t first, int64_t count, int64_t channels) {
    for (int64_t c = 0; c < channels; ++c) {
      if (sum_[c] == sum_[c]) continue;
      const int64_t nan = first_nan(x + c, count, p_.c);
      if (nan == count || (first > 0 && high_[c] != high_[c])) continue;
      high_[c] = low_[c] = std::numeric_limits<A>::quiet_NaN();
      high_at_[c] = low_at_[c] = first + nan;
    }
  }

  const Planes& p_;
  const int64_t block_;
  Buffer<double> total_;
  ChannelMoments<T> moments_;
  Buffer<A> high_, low_;  // the extremes so far, and their pixels
  Buffer<int64_t> high_at_, low_at_;
  Buffer<A> sum_, max_, min_;
  Buffer<Int<A>> argmax_, argmin_;
};

// ---- The table ----------------------------------------------------------------------------------

// `share` is that of one pixel.
template <class T>
ATTN_INLINE void put_statistics(const Squeeze<T>& a, int64_t at, double share, double sum,
                                double squares, const Extremes<acc_t<T>>& extremes) {
  using A = acc_t<T>;
  if (a.mean != nullptr) a.mean[at] = static_cast<A>(sum * share);
  if (a.var != nullptr) a.var[at] = static_cast<A>(squares * share);
  if (a.max != nullptr) {
    a.max[at] = extremes.max.value;
    a.argmax[at] = extremes.max.at;
  }
  if (a.min != nullptr) {
    a.min[at] = extremes.min.value;
    a.argmin[at] = extremes.min.at;
  }
}

template <class T, bool kMoments, bool kExtremes>
void squeeze_planes(const Squeeze<T>& a, int64_t begin, int64_t end) {
  const int64_t pixels = a.planes.pixels;
  const double share = 1.0 / static_cast<double>(pixels);
  for (int64_t plane = begin; plane < end; ++plane) {
    const SqueezePlane<T, kMoments, kExtremes> found(a.x + plane * pixels, pixels);
    put_statistics(a, plane, share, found.sum(), found.squares(), found.extremes());
  }
}

template <class T, bool kMoments, bool kExtremes>
void squeeze_channels(const Squeeze<T>& a, int64_t begin, int64_t end) {
  SqueezeChannels<T, kMoments, kExtremes> found(a.planes);
  const double share = 1.0 / static_cast<double>(a.planes.pixels);
  for (int64_t task = begin; task < end; ++task) {
    const PlaneBlock t = plane_block(a.planes, task);
    found.run(a.x, t);
    found.put(a, t, share);
  }
}

// Maps of one pixel: it is all that there is, but no variance is without NaN where it is inf.
template <class T>
void squeeze_single_pixels(const Squeeze<T>& a, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  for (int64_t task = begin; task < end; ++task) {
    const PlaneBlock t = plane_block(a.planes, task);
    const int64_t at = t.n * a.planes.c + t.channel;
    for_each_vector<A>(t.channels, [&](int64_t c, auto lanes) {
      const Vec<A> v = load_lanes(a.x + at + c, lanes);
      for (A* result : {a.mean, a.max, a.min})
        if (result != nullptr) store_lanes(result + at + c, v, lanes);
      if (a.var != nullptr) store_lanes(a.var + at + c, v - v, lanes);
    });
    for (int64_t* place : {a.argmax, a.argmin})
      if (place != nullptr) std::fill_n(place + at, t.channels, 0);
  }
}

template <class T, bool kMoments, bool kExtremes>
void squeeze_tasks(const Squeeze<T>& a, int64_t begin, int64_t end) {
  a.planes.channels_last ? squeeze_channels<T, kMoments, kExtremes>(a, begin, end)
                         : squeeze_planes<T, kMoments, kExtremes>(a, begin, end);
}

template <class T>
void squeeze(const Squeeze<T>& a, int64_t begin, int64_t end) {
  if (a.planes.channels_last && a.planes.pixels == 1) return squeeze_single_pixels(a, begin, end);
  const bool extremes = a.max != nullptr || a.min != nullptr;
  if (a.var != nullptr) {
    extremes ? squeeze_tasks<T, true, true>(a, begin, end)
             : squeeze_tasks<T, true, false>(a, begin, end);
  } else {
    extremes ? squeeze_tasks<T, false, true>(a, begin, end)
             : squeeze_tasks<T, false, false>(a, begin, end);
  }
}

}  // namespace attn_kernels::ATTN_ISA
