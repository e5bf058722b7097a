// Mean and sum of squared deviations over the pixels of every channel, block after block, on the
// CPU. Compiled once for each type, never inlined: the compiler is free to round a product and a
// sum together or not, and a variance must not depend on what else is asked for beside it.
#pragma once

#include <algorithm>

#include "../common/squeeze.h"
#include "buffer.h"
#include "planes_kernels.h"

namespace attn_kernels::ATTN_ISA {

// Adds `count` pixels of a plane, after `before` others, whose mean is near `pivot`.
template <class T>
__attribute__((noinline)) void add_plane_moments(Moments& moments, const T* x, int64_t before,
                                                 int64_t count, acc_t<T> pivot) {
  using A = acc_t<T>;
  using V = Vec<A>;
  constexpr int64_t kPart = kVectorsPerSum * kLanes<A>;
  V sums{}, squares{};
  for (int64_t part = 0; part < count; part += kPart) {
    V part_sum{}, part_squares{};
    for_each_vector<A>(std::min(kPart, count - part), [&](int64_t i, auto lanes) {
      const V d = fill_missing<A>(load_lanes(x + part + i, lanes) - pivot, V{}, lanes);
      part_sum += d;
      part_squares += d * d;
    });
    sums += part_sum;
    squares += part_squares;
  }
  moments.add(static_cast<double>(before), static_cast<double>(count), pivot, sum_of_lanes<A>(sums),
              sum_of_lanes<A>(squares));
}

// The same in channels_last, of a block of channels.
template <class T>
class ChannelMoments {
  using A = acc_t<T>;
  using V = Vec<A>;

 public:
  explicit ChannelMoments(const Planes& p)
      : p_(p),
        mean_(make_buffer<double>(p.channel_block)),
        total_squares_(make_buffer<double>(p.channel_block)),
        squares_(make_buffer<double>(p.channel_block)),
        pivot_(make_buffer<A>(p.channel_block)),
        sum_(make_buffer<A>(p.channel_block)) {}

  void start(int64_t channels) {
    std::fill_n(mean_.get(), channels, 0.0);
    std::fill_n(total_squares_.get(), channels, 0.0);
  }

  // Adds `count` pixels, after `before` others, whose sums are known.
  __attribute__((noinline)) void add(const T* x, int64_t before, int64_t count, int64_t channels,
                                     const A* sums) {
    for (int64_t c = 0; c < channels; ++c) pivot_[c] = sums[c] / static_cast<A>(count);
    std::fill_n(sum_.get(), channels, A(0));
    std::fill_n(squares_.get(), channels, 0.0);
    in_groups(count,
              [&](int64_t pixel, auto group) { deviations<group>(x + pixel * p_.c, channels); });
    for (int64_t c = 0; c < channels; ++c) {
      Moments moments{mean_[c], total_squares_[c]};
      moments.add(static_cast<double>(before), static_cast<double>(count), pivot_[c], sum_[c],
                  squares_[c]);
      mean_[c] = moments.mean;
      total_squares_[c] = moments.squares;
    }
  }

  double squares(int64_t c) const { return total_squares_[c]; }

 private:
  // Squares don't cancel: no digit to lose.
  template <int G>
  void deviations(const T* x, int64_t channels) {
    for_each_vector<A>(channels, [&](int64_t c, auto lanes) {
      const V pivot = load(&pivot_[c]);
      V d[G], square[G];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        d[g] = load_lanes(x + g * p_.c + c, lanes) - pivot;
        square[g] = d[g] * d[g];
      }
      store(&sum_[c], load(&sum_[c]) + tree_sum(d));
      add_wide(&squares_[c], tree_sum(square));
    });
  }

  static ATTN_INLINE void add_wide(double* to, V v) {
    using Wide = typename VectorOf<double, kLanes<A>>::type;
    store_raw(to, load_raw<Wide>(to) + __builtin_convertvector(v, Wide));
  }

  const Planes& p_;
  Buffer<double> mean_, total_squares_, squares_;
  Buffer<A> pivot_, sum_;
};

}  // namespace attn_kernels::ATTN_ISA
