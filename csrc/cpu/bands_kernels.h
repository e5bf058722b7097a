// Runs of the elements of a band, what operands hold along a run, and sums that runs add to.
#pragma once

#include "bands.h"
#include "planes_kernels.h"

namespace attn_kernels::ATTN_ISA {

// So many lines, one beside the other, are worked on at once where something is summed up: what
// they add to the same sums is added up before. Lines are the channels of a map in NCHW, and in
// channels_last pixels of a row.
constexpr int kLines = 4;

// The most elements of a line of a run where something is summed up: as many as one partial sum may
// have. A run has at most so many times kLines.
template <class A>
constexpr int64_t kPart = kVectorsPerSum * kLanes<A>;
template <class A>
constexpr int64_t kRun = kLines * kPart<A>;

// So many groups of lines, one after the other, with `count` elements on each line, from `at` on in
// the first. In NCHW these are pixels of `rows` rows or, where rows don't matter, `column` counts
// pixels, and row is 0.
struct Run {
  int64_t n, c, row, column, at, count, groups, band, rows;

  ATTN_INLINE int64_t in(const Broadcast& s) const {
    return n * s.n + c * s.c + row * s.h + column * s.w;
  }
};

// A vector of the map. Lines one beside the other are no stream that a processor sees: what comes
// after them is fetched by name, `ahead` elements further.
template <class T, class Lanes>
ATTN_INLINE Vec<acc_t<T>> load_ahead(const T* p, Lanes lanes, int64_t ahead) {
  __builtin_prefetch(p + ahead);
  return load_lanes(p, lanes);
}

// On the same lines or, where these are short, on those of the next group.
template <class T>
ATTN_INLINE int64_t elements_ahead(const Bands& b) {
  constexpr int64_t kAhead = 2048 / sizeof(T), kMost = 8 * kAhead;
  const int64_t group = kLines * b.h * b.w;
  return b.channels_last || group > kMost ? kAhead : group;
}

// From one line to the next, in the map and in an operand.
ATTN_INLINE int64_t line_step(const Bands& b) { return b.channels_last ? b.c : b.h * b.w; }
ATTN_INLINE int64_t line_step(const Bands& b, const Broadcast& s) {
  return b.channels_last ? s.w : s.c;
}

// The stride of an operand along the runs of `b`: 1 or 0.
ATTN_INLINE int64_t step(const Bands& b, const Broadcast& s) { return b.channels_last ? s.c : s.w; }

// fn(first, count) for parts of [begin, end).
template <class Fn>
ATTN_INLINE void in_parts(int64_t most, int64_t begin, int64_t end, const Fn& fn) {
  for (int64_t i = begin; i < end; i += most) fn(i, std::min(most, end - i));
}

// fn(row, rows, column, count) for parts of [first, last): whole rows, such that most parts begin
// with a whole vector, or, of long ones, parts.
template <class Fn>
ATTN_INLINE void in_rows(int64_t most, int64_t first, int64_t last, int64_t width, const Fn& fn) {
  const int64_t fit = most / width, rows = fit < 4 ? fit : fit / 4 * 4;
  if (rows == 0) {
    for (int64_t row = first; row < last; ++row)
      in_parts(most, 0, width, [&](int64_t column, int64_t count) { fn(row, 1, column, count); });
  } else {
    for (int64_t row = first; row < last; row += rows) {
      const int64_t count = std::min(rows, last - row);
      fn(row, count, 0, count * width);
    }
  }
}

// fn(first, groups, lines) for lines in [begin, end): groups of kAtOnce, and what is left one by
// one.
template <int kAtOnce, class Fn>
ATTN_INLINE void in_lines(int64_t begin, int64_t end, const Fn& fn) {
  const int64_t groups = (end - begin) / kAtOnce, left = begin + groups * kAtOnce;
  if (groups > 0) fn(begin, groups, std::integral_constant<int, kAtOnce>{});
  if constexpr (kAtOnce > 1) {
    if (left < end) fn(left, end - left, std::integral_constant<int, 1>{});
  }
}

// fn(run, lines) for all of a task, in runs of at most `most` elements on a line.
template <int kAtOnce, class Fn>
ATTN_INLINE void for_each_run(const Bands& b, int64_t task, int64_t most, const Fn& fn) {
  const int64_t n = task / (b.bands() * b.blocks()), band = task / b.blocks() % b.bands();
  const int64_t first = band * b.rows, last = std::min(first + b.rows, b.h);
  if (b.channels_last) {
    for (int64_t row = first; row < last; ++row)
      in_lines<kAtOnce>(0, b.w, [&](int64_t column, int64_t groups, auto lines) {
        const int64_t at = ((n * b.h + row) * b.w + column) * b.c;
        in_parts(most, 0, b.c, [&](int64_t c, int64_t count) {
          fn(Run{n, c, row, column, at + c, count, groups, band, 1}, lines);
        });
      });
    return;
  }
  const int64_t channel = task % b.blocks() * b.channels;
  in_lines<kAtOnce>(
      channel, std::min(channel + b.channels, b.c), [&](int64_t begin, int64_t groups, auto lines) {
        for (int64_t c = begin; c < begin + groups * lines; c += lines) {
          const int64_t at = (n * b.c + c) * b.h * b.w;  // all of its pixels before the next ones
          if (b.by_rows) {
            in_rows(most, first, last, b.w,
                    [&](int64_t row, int64_t rows, int64_t column, int64_t count) {
                      fn(Run{n, c, row, column, at + row * b.w + column, count, 1, band, rows},
                         lines);
                    });
          } else {
            in_parts(most, first * b.w, last * b.w, [&](int64_t pixel, int64_t count) {
              fn(Run{n, c, 0, pixel, at + pixel, count, 1, band, 1}, lines);
            });
          }
        }
      });
}

// Whether something has one value for each row, or for each column, of a run of whole rows.
ATTN_INLINE bool is_spread(const Bands& b, const Broadcast& s) {
  return b.by_rows && !s.runs_on(b.w);
}

template <class A, int G>
struct Room {
  alignas(64) A values[kRun<A> + kLanes<A>];
};

// A run of whole rows, and an operand that has one value for each row, or for each column (`row` is
// 0): steps in the operand to the next line and row.
struct WholeRows {
  int64_t line, row, rows, width;
};

// Such an operand's G lines, in a room. Vectors go over the end of a row where the next one
// overwrites it.
template <class A, int G>
ATTN_INLINE void spread_lines(const A* from, WholeRows of, A* to) {
  for (int g = 0; g < (of.line == 0 ? 1 : G); ++g, from += of.line, to += kPart<A>) {
    if (of.row != 0) {
      for (int64_t row = 0; row < of.rows; ++row) {
        const Vec<A> value = broadcast(from[row * of.row]);
        for (int64_t i = 0; i < of.width; i += kLanes<A>) store(to + row * of.width + i, value);
      }
    } else {
      for (int64_t i = (of.width - 1) / kLanes<A> * kLanes<A>; i >= 0; i -= kLanes<A>) {
        const Vec<A> values =
            of.width - i < kLanes<A> ? load(from + i, of.width - i) : load(from + i);
        for (int64_t row = 0; row < of.rows; ++row) store(to + row * of.width + i, values);
      }
    }
  }
}

// What an operand holds along the lines of a run: vectors of it, or on each line one value again
// and again, or the values of rows or columns. Without a branch for each vector: all loads go to
// that value, or to all of those, in a room of their own, outside of the object, whose members are
// then in registers. An operand that is absent is not asked.
template <class A, int G>
class Along {
 public:
  ATTN_INLINE Along(const Bands& b, const Operand<A>& from, const Run& run)
      : from_(from.data != nullptr ? from.data + run.in(from.stride) : nullptr),
        of_{line_step(b, from.stride), from.stride.h, run.rows, run.count / run.rows},
        spread_(is_spread(b, from.stride)),
        mask_(spread_ ? -1 : -step(b, from.stride)) {}

  // The operand of the next group.
  ATTN_INLINE void next(Room<A, G>& room) {
    if (from_ == nullptr) return;
    data_ = from_;
    line_ = of_.line;
    if (spread_) {
      spread_lines<A, G>(from_, of_, room.values);
      data_ = room.values;
      line_ = of_.line == 0 ? 0 : kPart<A>;
    } else if (mask_ == 0) {
      for (int g = 0; g < G; ++g) store(room.values + g * kLanes<A>, broadcast(from_[g * line_]));
      data_ = room.values;
      line_ = kLanes<A>;
    }
    from_ += G * of_.line;
  }

  template <class Lanes>
  ATTN_INLINE Vec<A> operator()(int g, int64_t i, Lanes lanes) const {
    return load_lanes(data_ + g * line_ + (i & mask_), lanes);
  }

 private:
  const A *from_, *data_ = nullptr;
  WholeRows of_;
  bool spread_;
  int64_t mask_, line_ = 0;
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

template <class A, int G>
ATTN_INLINE Vec<A> sum_of_lines(const Vec<A> (&v)[G]) {
  Vec<A> sum[G];
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) sum[g] = v[g];
  return tree_sum(sum);
}

// All lanes of each of G lines, to one sum (`line` is 0) or to one for each line.
template <class A, int G>
ATTN_INLINE void add_lines(const Vec<A> (&v)[G], int64_t line, double* to) {
  if (line == 0) {
    *to += sum_of_lanes<A>(sum_of_lines<A>(v));
  } else {
    A sums[G];
    sums_of_lanes(v, sums);
    for (int g = 0; g < G; ++g) to[g * line] += sums[g];
  }
}

template <class A, class Lanes>
ATTN_INLINE void add_wide(Vec<A> v, double* to, Lanes lanes) {
  using Wide = typename VectorOf<double, kLanes<A>>::type;
  if constexpr (std::is_same_v<Lanes, int64_t>) {
    for (int64_t lane = 0; lane < lanes; ++lane) to[lane] += v[lane];
  } else {
    store_raw(to, load_raw<Wide>(to) + __builtin_convertvector(v, Wide));
  }
}

// Lane by lane, in the same way.
template <class A, int G, class Lanes>
ATTN_INLINE void add_along(const Vec<A> (&v)[G], int64_t line, double* to, Lanes lanes) {
  if (line == 0) {
    add_wide<A>(sum_of_lines<A>(v), to, lanes);
  } else {
    for (int g = 0; g < G; ++g) add_wide<A>(v[g], to + g * line, lanes);
  }
}

// Sums of the rows, or of the columns, of G lines that a room holds. Once for all kernels: this is
// no work for each vector, and inlined it would be a third of what there is to compile.
template <class A, int G>
__attribute__((noinline)) void add_whole_rows(const A* room, WholeRows of, double* to) {
  if (of.row != 0) {
    for (int64_t row = 0; row < of.rows; ++row) {
      Vec<A> sum[G]{};
      for_each_vector<A>(of.width, [&](int64_t i, auto lanes) {
        for (int g = 0; g < G; ++g)
          sum[g] +=
              fill_missing<A>(load(room + g * kPart<A> + row * of.width + i), Vec<A>{}, lanes);
      });
      add_lines<A>(sum, of.line, to + row * of.row);
    }
  } else {
    for_each_vector<A>(of.width, [&](int64_t i, auto lanes) {
      Vec<A> sum[G]{};
      for (int64_t row = 0; row < of.rows; ++row)
        for (int g = 0; g < G; ++g) sum[g] += load(room + g * kPart<A> + row * of.width + i);
      add_along<A>(sum, of.line, to + i, lanes);
    });
  }
}

// The sums of the lines of a run. Missing lanes must hold zeros. Those of rows or columns are added
// up when the group is through, from a room that holds it.
template <class A, int G>
class RunSums {
  using V = Vec<A>;

 public:
  ATTN_INLINE RunSums(const Bands& b, const Sums& to, const Run& run, Room<A, G>& room)
      : data_(to.data != nullptr ? to.data + run.band * to.of_band + run.in(to.stride) : nullptr),
        of_{line_step(b, to.stride), to.stride.h, run.rows, run.count / run.rows},
        spread_(is_spread(b, to.stride)),
        along_(step(b, to.stride) != 0),
        room_(room.values) {}

  ATTN_INLINE bool wanted() const { return data_ != nullptr; }

  // The lines' vectors at i.
  template <class Lanes>
  ATTN_INLINE void add(int64_t i, const V (&v)[G], Lanes lanes) {
    if (spread_) {
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) store(room_ + g * kPart<A> + i, v[g]);
    } else if (!along_) {
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) sum_[g] += v[g];
    } else {
      add_along<A>(v, of_.line, data_ + i, lanes);
    }
  }

  // After each group.
  ATTN_INLINE void finish() {
    if (data_ == nullptr) return;
    if (spread_) {
      add_whole_rows<A, G>(room_, of_, data_);
    } else if (!along_) {
      add_lines<A>(sum_, of_.line, data_);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) sum_[g] = V{};
    }
    data_ += G * of_.line;
  }

 private:
  double* data_;
  WholeRows of_;
  bool spread_, along_;
  A* room_;
  V sum_[G]{};
};

}  // namespace attn_kernels::ATTN_ISA
