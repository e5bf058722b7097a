// Runs of the elements of a band, what operands hold along a run, and sums that runs add to.
#pragma once

#include "bands.h"
#include "planes_kernels.h"

namespace attn_kernels::ATTN_ISA {

// So many lines, one beside the other, are worked on at once: what they add to the same sums is
// added up before. Lines are the channels of a map in NCHW, or its rows where runs end with them;
// in channels_last they are pixels of a row.
constexpr int kLines = 4;

// So many groups of lines, one after the other, with `count` elements on each line, from `at` on in
// the first. Where runs go on over rows `column` counts pixels, and row is 0.
struct Run {
  int64_t n, c, row, column, at, count, groups, band;

  ATTN_INLINE int64_t in(const Broadcast& s) const {
    return n * s.n + c * s.c + row * s.h + column * s.w;
  }
};

// A vector of the map. Lines one beside the other are no stream that a processor sees: what comes
// after them is fetched by name.
template <class T, class Lanes>
ATTN_INLINE Vec<acc_t<T>> load_ahead(const T* p, Lanes lanes) {
  constexpr int64_t kBytes = 2048;
  __builtin_prefetch(reinterpret_cast<const char*>(p) + kBytes);
  return load_lanes(p, lanes);
}

// From one line to the next, in the map and in an operand.
ATTN_INLINE int64_t line_step(const Bands& b) {
  return b.channels_last ? b.c : b.by_rows ? b.w : b.h * b.w;
}
ATTN_INLINE int64_t line_step(const Bands& b, const Broadcast& s) {
  return b.channels_last ? s.w : b.by_rows ? s.h : s.c;
}

// The stride of an operand along the runs of `b`: 1 or 0.
ATTN_INLINE int64_t step(const Bands& b, const Broadcast& s) { return b.channels_last ? s.c : s.w; }

// fn(first, count) for parts of [begin, end) that are short enough for one partial sum.
template <class A, class Fn>
ATTN_INLINE void in_parts(int64_t begin, int64_t end, const Fn& fn) {
  constexpr int64_t kPart = kVectorsPerSum * kLanes<A>;
  for (int64_t i = begin; i < end; i += kPart) fn(i, std::min(kPart, end - i));
}

// fn(first, groups, lines) for lines in [begin, end): groups of kLines, and what is left one by
// one.
template <class Fn>
ATTN_INLINE void in_lines(int64_t begin, int64_t end, const Fn& fn) {
  const int64_t groups = (end - begin) / kLines, left = begin + groups * kLines;
  if (groups > 0) fn(begin, groups, std::integral_constant<int, kLines>{});
  if (left < end) fn(left, end - left, std::integral_constant<int, 1>{});
}

// fn(run, lines) for all of a task.
template <class A, class Fn>
ATTN_INLINE void for_each_run(const Bands& b, int64_t task, const Fn& fn) {
  const int64_t n = task / b.bands(), band = task % b.bands();
  const int64_t first = band * b.rows, last = std::min(first + b.rows, b.h);
  if (b.channels_last) {
    for (int64_t row = first; row < last; ++row)
      in_lines(0, b.w, [&](int64_t column, int64_t groups, auto lines) {
        const int64_t at = ((n * b.h + row) * b.w + column) * b.c;
        in_parts<A>(0, b.c, [&](int64_t c, int64_t count) {
          fn(Run{n, c, row, column, at + c, count, groups, band}, lines);
        });
      });
  } else if (b.by_rows) {
    for (int64_t c = 0; c < b.c; ++c)
      in_lines(first, last, [&](int64_t row, int64_t groups, auto lines) {
        const int64_t at = ((n * b.c + c) * b.h + row) * b.w;
        in_parts<A>(0, b.w, [&](int64_t column, int64_t count) {
          fn(Run{n, c, row, column, at + column, count, groups, band}, lines);
        });
      });
  } else {
    in_lines(0, b.c, [&](int64_t first_channel, int64_t groups, auto lines) {
      for (int64_t c = first_channel; c < first_channel + groups * lines; c += lines) {
        const int64_t at = (n * b.c + c) * b.h * b.w;  // all of its pixels before the next ones
        in_parts<A>(first * b.w, last * b.w, [&](int64_t pixel, int64_t count) {
          fn(Run{n, c, 0, pixel, at + pixel, count, 1, band}, lines);
        });
      }
    });
  }
}

// What an operand holds along the lines of a run: vectors of it, or on each line one value again
// and again. Without a branch for each vector: all loads go to that value, in a room of its own,
// outside of the object, whose members are then in registers. An operand that is absent is not
// asked.
template <class A, int G>
struct Room {
  alignas(64) A values[G * kLanes<A>];
};
template <class A, int G>
class Along {
 public:
  ATTN_INLINE Along(const Bands& b, const Operand<A>& from, const Run& run)
      : from_(from.data != nullptr ? from.data + run.in(from.stride) : nullptr),
        from_line_(line_step(b, from.stride)),
        mask_(-step(b, from.stride)) {}

  // The operand of the next group.
  ATTN_INLINE void next(Room<A, G>& room) {
    if (from_ == nullptr) return;
    data_ = from_;
    line_ = from_line_;
    if (mask_ == 0) {
      for (int g = 0; g < G; ++g) store(room.values + g * kLanes<A>, broadcast(from_[g * line_]));
      data_ = room.values;
      line_ = kLanes<A>;
    }
    from_ += G * from_line_;
  }

  template <class Lanes>
  ATTN_INLINE Vec<A> operator()(int g, int64_t i, Lanes lanes) const {
    return load_lanes(data_ + g * line_ + (i & mask_), lanes);
  }

 private:
  const A *from_, *data_ = nullptr;
  int64_t from_line_, mask_, line_ = 0;
};

// The sum of the lanes of each of G vectors; of four at once, neighbours of two vectors together.
template <class A, int G>
ATTN_INLINE void sums_of_lanes(const Vec<A> (&v)[G], A (&sums)[G]) {
  constexpr int kAll = kLanes<A>;
  if constexpr (G == 4 && kAll >= 4) {
    const IntVec<A> i = lane_indices<A>();
    const IntVec<A> odd = (i & 1) * (kAll - 1), pair = (i & 2) / 2 * (kAll - 2);
    const auto neighbours = [&](Vec<A> a, Vec<A> b) {
      return __builtin_shuffle(a, b, i + odd) + __builtin_shuffle(a, b, i + 1 + odd);
    };
    const Vec<A> ab = neighbours(v[0], v[1]), cd = neighbours(v[2], v[3]);
    Vec<A> all = __builtin_shuffle(ab, cd, i + pair) + __builtin_shuffle(ab, cd, i + 2 + pair);
#pragma GCC unroll 4
    for (int width = kAll / 2; width >= 4; width /= 2) all += __builtin_shuffle(all, i + width);
    for (int g = 0; g < G; ++g) sums[g] = all[g];
  } else {
    for (int g = 0; g < G; ++g) sums[g] = sum_of_lanes<A>(v[g]);
  }
}

// The sums of the lines of a run. Missing lanes must hold zeros.
template <class A, int G>
class RunSums {
  using V = Vec<A>;
  using Wide = typename VectorOf<double, kLanes<A>>::type;

 public:
  ATTN_INLINE RunSums(const Bands& b, const Sums& to, const Run& run)
      : data_(to.data != nullptr ? to.data + run.band * to.of_band + run.in(to.stride) : nullptr),
        line_(line_step(b, to.stride)),
        along_(step(b, to.stride) != 0) {}

  ATTN_INLINE bool wanted() const { return data_ != nullptr; }

  // The lines' vectors at i.
  template <class Lanes>
  ATTN_INLINE void add(int64_t i, const V (&v)[G], Lanes lanes) {
    if (!along_) {
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) sum_[g] += v[g];
    } else if (line_ == 0) {
      add_wide(data_ + i, total(v), lanes);
    } else {
      for (int g = 0; g < G; ++g) add_wide(data_ + g * line_ + i, v[g], lanes);
    }
  }

  // After each group.
  ATTN_INLINE void finish() {
    if (data_ == nullptr) return;
    if (!along_) {
      if (line_ == 0) {
        *data_ += sum_of_lanes<A>(total(sum_));
      } else {
        A sums[G];
        sums_of_lanes(sum_, sums);
        for (int g = 0; g < G; ++g) data_[g * line_] += sums[g];
      }
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) sum_[g] = V{};
    }
    data_ += G * line_;
  }

 private:
  static ATTN_INLINE V total(const V (&v)[G]) {
    V sum[G];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) sum[g] = v[g];
    return tree_sum(sum);
  }

  template <class Lanes>
  static ATTN_INLINE void add_wide(double* to, V v, Lanes lanes) {
    if constexpr (std::is_same_v<Lanes, int64_t>) {
      for (int64_t lane = 0; lane < lanes; ++lane) to[lane] += v[lane];
    } else {
      store_raw(to, load_raw<Wide>(to) + __builtin_convertvector(v, Wide));
    }
  }

  double* data_;
  int64_t line_;
  bool along_;
  V sum_[G]{};
};

}  // namespace attn_kernels::ATTN_ISA
