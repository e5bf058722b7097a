// GAM's channel gate on the CPU. A tile of pixels with all its channels is brought into the cache
// once and goes through every matrix product there; the map is never permuted:
//
//   NCHW           rows of a tile are channels: the weights are the left operands
//   channels_last  rows of a tile are pixels: the tile is the left operand
//
// All partial sums belong to tiles, blocks and units that the shape alone decides on.
#pragma once

#include "../common/spatial_gate.h"
#include "gemm.h"

namespace attn_kernels::ATTN_ISA {

// Where the pixels [first, first + count) of image n lie in a map of so many channels.
struct MapTile {
  int64_t offset, stride, rows, columns;
};

struct Pixels {
  int64_t n, first, count;
};

inline Pixels pixels_of(const GamProblem& p, int64_t task) {
  const int64_t n = task / p.tiles(), first = task % p.tiles() * p.tile;
  return {n, first, std::min(p.tile, p.pixels - first)};
}

template <bool kPixelRows>
MapTile map_tile(const GamProblem& p, const Pixels& at, int64_t channels) {
  if (kPixelRows) return {(at.n * p.pixels + at.first) * channels, channels, at.count, channels};
  return {at.n * channels * p.pixels + at.first, p.pixels, channels, at.count};
}

// Element (i, j) of a tile and its neighbours in the row, as far as there are any.
template <class T>
ATTN_INLINE void put(T* map, const MapTile& t, int64_t i, int64_t j, Vec<acc_t<T>> v) {
  T* to = map + t.offset + i * t.stride + j;
  const int64_t left = t.columns - j;
  left >= kLanes<acc_t<T>> ? store(to, v) : store(to, v, left);
}

// A buffer for one tile of a map of so many channels.
template <class A, bool kPixelRows>
struct TileBuffer {
  TileBuffer(const GamProblem& p, int64_t channels)
      : stride(padded(kPixelRows ? channels : p.tile)),
        data(make_buffer<A>((kPixelRows ? p.tile : channels) * stride)) {}

  A* at(int64_t i, int64_t j) { return data.get() + i * stride + j; }
  const A* at(int64_t i, int64_t j) const { return data.get() + i * stride + j; }

  template <class T>
  void load_from(const T* map, const MapTile& t) {
    load_tile(map + t.offset, t.stride, t.rows, t.columns, data.get(), stride);
  }

  const int64_t stride;
  const Buffer<A> data;
};

// finish(i, j, mixed channels) over the elements of the resulting tile.
template <class A, bool kPixelRows, class Finish>
void mix(const Mixer<A>& mixer, int64_t channels_out, int64_t channels_in, int64_t count,
         const TileBuffer<A, kPixelRows>& tile, const Finish& finish) {
  if constexpr (kPixelRows) {
    gemm(count, channels_out, channels_in, Operand<A>{tile.data.get(), tile.stride, 1},
         mixer.weight, mixer.stride, finish);
  } else {
    gemm(channels_out, count, channels_in, Operand<A>{mixer.weight, mixer.stride, 1},
         tile.data.get(), tile.stride, finish);
  }
}

template <bool kPixelRows, class A>
ATTN_INLINE Vec<A> bias_at(const A* bias, int64_t i, int64_t j) {
  return kPixelRows ? load(bias + j) : broadcast(bias[i]);
}

template <class V>
ATTN_INLINE V relu(V v) {
  return v < 0 ? V{} : v;  // NaN stays
}

template <bool kSigmoid, class V>
ATTN_INLINE V activate(V v) {
  if constexpr (kSigmoid) return sigmoid(v, VectorExp{});
  return v;
}

template <class T, bool kPixelRows, bool kSigmoid>
void gam_forward_tiles(const GamForward<T>& a, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  using V = Vec<A>;
  const GamProblem& p = a.problem;
  TileBuffer<A, kPixelRows> x(p, p.c), hidden(p, p.r);
  for (int64_t task = begin; task < end; ++task) {
    const Pixels at = pixels_of(p, task);
    const MapTile wide = map_tile<kPixelRows>(p, at, p.c);
    const MapTile narrow = map_tile<kPixelRows>(p, at, p.r);
    x.load_from(a.x, wide);
    mix(a.w1, p.r, p.c, at.count, x, [&](int64_t i, int64_t j, V v) {
      v = relu(v + bias_at<kPixelRows>(a.b1, i, j));
      store(hidden.at(i, j), v);
      put(a.hidden, narrow, i, j, v);
    });
    mix(a.w2, p.c, p.r, at.count, hidden, [&](int64_t i, int64_t j, V v) {
      v = activate<kSigmoid>(v + bias_at<kPixelRows>(a.b2, i, j));
      put(a.y, wide, i, j, load(x.at(i, j)) * v);
    });
  }
}

template <class T, bool kPixelRows, bool kSigmoid>
void gam_backward_tiles(const GamBackward<T>& a, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  using V = Vec<A>;
  const GamProblem& p = a.problem;
  const int64_t row = padded(p.r);
  TileBuffer<A, kPixelRows> dy(p, p.c), x(p, p.c), hidden(p, p.r), d_pre(p, p.r);
  for (int64_t task = begin; task < end; ++task) {
    const Pixels at = pixels_of(p, task);
    const MapTile wide = map_tile<kPixelRows>(p, at, p.c);
    dy.load_from(a.dy, wide);
    x.load_from(a.x, wide);
    hidden.load_from(a.hidden, map_tile<kPixelRows>(p, at, p.r));
    // The gate again: dy becomes dy * gate, the first term of dx, and x becomes da.
    mix(a.w2, p.c, p.r, at.count, hidden, [&](int64_t i, int64_t j, V v) {
      const V gate = activate<kSigmoid>(v + bias_at<kPixelRows>(a.b2, i, j));
      const V d_gate = load(dy.at(i, j)) * load(x.at(i, j));
      const V da = kSigmoid ? sigmoid_backward(d_gate, gate) : d_gate;
      store(dy.at(i, j), load(dy.at(i, j)) * gate);
      store(x.at(i, j), da);
      if constexpr (kSigmoid) put(a.da, wide, i, j, da);
    });
    mix(a.w2_back, p.r, p.c, at.count, x, [&](int64_t i, int64_t j, V v) {
      store(d_pre.at(i, j), load(hidden.at(i, j)) <= 0 ? V{} : v);
    });
    mix(a.w1_back, p.c, p.r, at.count, d_pre,
        [&](int64_t i, int64_t j, V v) { put(a.dx, wide, i, j, load(dy.at(i, j)) + v); });
    A* hidden_rows = a.hidden_rows + (at.n * p.pixels + at.first) * row;
    A* d_pre_rows = a.d_pre_rows + (at.n * p.pixels + at.first) * row;
    if constexpr (kPixelRows) {
      std::copy_n(hidden.data.get(), at.count * row, hidden_rows);
      std::copy_n(d_pre.data.get(), at.count * row, d_pre_rows);
    } else {
      transpose(hidden.data.get(), hidden.stride, p.r, at.count, hidden_rows, row);
      transpose(d_pre.data.get(), d_pre.stride, p.r, at.count, d_pre_rows, row);
    }
  }
}

// A matrix in memory or in a tile.
template <class A>
struct Rows {
  const A* data;
  int64_t stride;
};

// sums(j) += sum over i < count of rows(i, j), for j < columns, in short partial sums.
template <class A>
void add_column_sums(const Rows<A>& rows, int64_t count, int64_t columns, A* sums) {
  constexpr int64_t kRowsPerSum = 16;
  for_each_vector<A>(columns, [&](int64_t j, auto lanes) {
    Vec<A> total{};
    for (int64_t first = 0; first < count; first += kRowsPerSum) {
      Vec<A> sum{};
      for (int64_t i = first; i < std::min(first + kRowsPerSum, count); ++i)
        sum += load_lanes(rows.data + i * rows.stride + j, lanes);
      total += sum;
    }
    store_lanes(sums + j, load_lanes(sums + j, lanes) + total, lanes);
  });
}

// sums(i) += sum over j < columns of rows(i, j), for i < count.
template <class A>
void add_row_sums(const Rows<A>& rows, int64_t count, int64_t columns, A* sums) {
  for (int64_t i = 0; i < count; ++i) {
    Vec<A> sum{};
    for_each_vector<A>(columns, [&](int64_t j, auto lanes) {
      sum += load_lanes(rows.data + i * rows.stride + j, lanes);
    });
    sums[i] += sum_of_lanes<A>(sum);
  }
}

template <class T, bool kPixelRows>
class GamWeightTask {
  using A = acc_t<T>;
  using V = Vec<A>;

 public:
  explicit GamWeightTask(const GamWeightBackward<T>& args)
      : a_(args), p_(args.problem), row_(padded(p_.r)), x_(p_, block()), da_(p_, block()) {}

  void run(int64_t task) {
    const int64_t unit = task / a_.blocks(), c = task % a_.blocks() * kGamChannels;
    const int64_t channels = std::min(kGamChannels, p_.c - c);
    A* partial = a_.partials + unit * a_.row();
    A* d_w1 = partial + c * row_;  // transposed
    A* d_w2 = partial + a_.d_w2() + c * row_;
    A* d_b1 = partial + a_.d_b1();
    A* d_b2 = partial + a_.d_b2() + c;
    std::fill_n(d_w1, channels * row_, A(0));
    std::fill_n(d_w2, channels * row_, A(0));
    std::fill_n(d_b2, channels, A(0));
    if (c == 0) std::fill_n(d_b1, p_.r, A(0));
    const int64_t first = unit * a_.tiles_per_unit;
    const int64_t last = std::min(first + a_.tiles_per_unit, p_.n * p_.tiles());
    for (int64_t tile = first; tile < last; ++tile) {
      const Pixels at = pixels_of(p_, tile);
      const int64_t rows = (at.n * p_.pixels + at.first) * row_;
      MapTile t = map_tile<kPixelRows>(p_, at, p_.c);
      t.offset += kPixelRows ? c : c * p_.pixels;
      (kPixelRows ? t.columns : t.rows) = channels;
      const Rows<A> x = widened(a_.x, t, x_);
      const Rows<A> da = a_.da != nullptr ? widened(a_.da, t, da_) : product(x, t);
      add_product(x, channels, at.count, a_.d_pre_rows + rows, d_w1);
      add_product(da, channels, at.count, a_.hidden_rows + rows, d_w2);
      kPixelRows ? add_column_sums(da, t.rows, t.columns, d_b2)
                 : add_row_sums(da, t.rows, t.columns, d_b2);
      if (c == 0) add_column_sums({a_.d_pre_rows + rows, row_}, at.count, p_.r, d_b1);
    }
  }

 private:
  using Tile = TileBuffer<A, kPixelRows>;

  int64_t block() const { return std::min(kGamChannels, p_.c); }

  // A block of a map: where it lies, if it is of the accumulate type, else in a tile.
  template <class U>
  Rows<A> widened(const U* map, const MapTile& t, Tile& tile) {
    if constexpr (std::is_same_v<U, A>) {
      return {map + t.offset, t.stride};
    } else {
      tile.load_from(map, t);
      return {tile.data.get(), tile.stride};
    }
  }

  // da = dy * x
  Rows<A> product(const Rows<A>& x, const MapTile& t) {
    for (int64_t i = 0; i < t.rows; ++i) {
      const T* dy = a_.dy + t.offset + i * t.stride;
      for_each_vector<A>(t.columns, [&](int64_t j, auto lanes) {
        const V v = load_lanes(x.data + i * x.stride + j, lanes);
        store(da_.at(i, j), load_lanes(dy + j, lanes) * v);
      });
    }
    return {da_.data.get(), da_.stride};
  }

  // sum(c, r) += sum over pixels of block(c, pixel) * rows(pixel, r).
  void add_product(const Rows<A>& block, int64_t channels, int64_t count, const A* rows, A* sum) {
    const Operand<A> left{block.data, kPixelRows ? 1 : block.stride, kPixelRows ? block.stride : 1};
    gemm(channels, p_.r, count, left, rows, row_, [&](int64_t i, int64_t j, V v) {
      store(sum + i * row_ + j, load(sum + i * row_ + j) + v);
    });
  }

  const GamWeightBackward<T>& a_;
  const GamProblem& p_;
  const int64_t row_;
  Tile x_, da_;
};

// ---- The table's entries ------------------------------------------------------------------------

// fn(std::bool_constant<channels_last>{}, std::bool_constant<sigmoid>{}).
template <class Fn>
void with_variant(const GamProblem& p, const Fn& fn) {
  const auto with_layout = [&](auto sigmoid) {
    p.channels_last ? fn(std::true_type{}, sigmoid) : fn(std::false_type{}, sigmoid);
  };
  p.sigmoid ? with_layout(std::true_type{}) : with_layout(std::false_type{});
}

template <class T>
void gam_forward(const GamForward<T>& a, int64_t begin, int64_t end) {
  with_variant(a.problem, [&](auto pixel_rows, auto sigmoid) {
    gam_forward_tiles<T, pixel_rows, sigmoid>(a, begin, end);
  });
}

template <class T>
void gam_backward(const GamBackward<T>& a, int64_t begin, int64_t end) {
  with_variant(a.problem, [&](auto pixel_rows, auto sigmoid) {
    gam_backward_tiles<T, pixel_rows, sigmoid>(a, begin, end);
  });
}

template <class T, bool kPixelRows>
void gam_weight_tasks(const GamWeightBackward<T>& a, int64_t begin, int64_t end) {
  GamWeightTask<T, kPixelRows> work(a);
  for (int64_t task = begin; task < end; ++task) work.run(task);
}

template <class T>
void gam_weight_backward(const GamWeightBackward<T>& a, int64_t begin, int64_t end) {
  a.problem.channels_last ? gam_weight_tasks<T, true>(a, begin, end)
                          : gam_weight_tasks<T, false>(a, begin, end);
}

}  // namespace attn_kernels::ATTN_ISA
