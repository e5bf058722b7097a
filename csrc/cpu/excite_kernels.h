// The perceptron between squeeze and gate on the CPU: its two layers and their gradients. Weights
// are read as they come, once for all images of a task.
#pragma once

#include <algorithm>

#include "excite_args.h"
#include "simd.h"

namespace attn_kernels::ATTN_ISA {

// ---- Products -----------------------------------------------------------------------------------

// out[i] = sum over j of rows[i * count + j] * v[j], for G rows.
template <int G, class A>
ATTN_INLINE void dots(const A* rows, const A* v, int64_t count, A* out) {
  constexpr int64_t kPart = kVectorsPerSum * kLanes<A>;
  Vec<A> total[G] = {};
  for (int64_t first = 0; first < count; first += kPart) {
    Vec<A> part[G] = {};
    for_each_vector<A>(std::min(kPart, count - first), [&](int64_t j, auto lanes) {
      const Vec<A> factor = load_lanes(v + first + j, lanes);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g)
        part[g] = VectorFma{}(load_lanes(rows + g * count + first + j, lanes), factor, part[g]);
    });
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) total[g] += part[g];
  }
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) out[g] = sum_of_lanes<A>(total[g]);
}

// sum over i of factors[i * step] * rows[i * stride + ...], for G vectors of each row.
template <int G, class A, class Lanes>
ATTN_INLINE void weighted_sum(const A* rows, int64_t stride, const A* factors, int64_t step,
                              int64_t count, Lanes lanes, Vec<A> (&total)[G]) {
  constexpr int64_t kPart = 128;
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) total[g] = Vec<A>{};
  for (int64_t first = 0; first < count; first += kPart) {
    Vec<A> part[G] = {};
    for (int64_t i = first; i < std::min(first + kPart, count); ++i) {
      const Vec<A> factor = broadcast(factors[i * step]);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g)
        part[g] =
            VectorFma{}(load_lanes(rows + i * stride + g * kLanes<A>, lanes), factor, part[g]);
    }
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) total[g] += part[g];
  }
}

// put(j, the sum over i of factors[i * step] * rows[i * stride + j], lanes) for vectors of columns.
template <class A, class Put>
ATTN_INLINE void weighted_sums(const A* rows, int64_t stride, const A* factors, int64_t step,
                               int64_t count, int64_t columns, const Put& put) {
  constexpr int kGroup = 4;
  constexpr int64_t kAll = kLanes<A>;
  constexpr std::integral_constant<int64_t, kAll> kFull;
  int64_t j = 0;
  for (; j + kGroup * kAll <= columns; j += kGroup * kAll) {
    Vec<A> sums[kGroup];
    weighted_sum<kGroup>(rows + j, stride, factors, step, count, kFull, sums);
#pragma GCC unroll 4
    for (int g = 0; g < kGroup; ++g) put(j + g * kAll, sums[g], kFull);
  }
  for_each_vector<A>(columns - j, [&](int64_t i, auto lanes) {
    Vec<A> sum[1];
    weighted_sum<1>(rows + j + i, stride, factors, step, count, lanes, sum);
    put(j + i, sum[0], lanes);
  });
}

// ---- Forward ------------------------------------------------------------------------------------

// put(n, unit, w v[n] + b, lanes) for vectors of the units of blocks [begin, end): w is
// (units, inputs), v (n, inputs).
template <class A, class Put>
ATTN_INLINE void layer(const Excite<A>& a, const A* w, const A* b, const A* v, int64_t units,
                       int64_t inputs, int64_t begin, int64_t end, const Put& put) {
  A sums[kExciteBlock];
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kExciteBlock, count = std::min(kExciteBlock, units - first);
    for (int64_t n = a.first; n < a.last; ++n) {
      int64_t i = 0;
      for (; i + 4 <= count; i += 4)
        dots<4>(w + (first + i) * inputs, v + n * inputs, inputs, sums + i);
      for (; i < count; ++i) dots<1>(w + (first + i) * inputs, v + n * inputs, inputs, sums + i);
      for_each_vector<A>(count, [&](int64_t j, auto lanes) {
        Vec<A> sum = load_lanes(sums + j, lanes);
        if (b != nullptr) sum += load_lanes(b + first + j, lanes);
        put(n, first + j, sum, lanes);
      });
    }
  }
}

// Blocks of hidden units.
template <class A>
void excite_hidden(const Excite<A>& a, int64_t begin, int64_t end) {
  layer(a, a.w1, a.b1, a.mean, a.r, a.c, begin, end,
        [&](int64_t n, int64_t unit, Vec<A> hidden, auto lanes) {
          store_lanes(a.hidden + n * a.r + unit, hidden, lanes);
          store_lanes(a.active + n * a.r + unit, excite_activate(hidden, a.activation, VectorExp{}),
                      lanes);
        });
}

// Blocks of channels.
template <class A>
void excite_scale(const Excite<A>& a, int64_t begin, int64_t end) {
  layer(a, a.w2, a.b2, a.active, a.c, a.r, begin, end,
        [&](int64_t n, int64_t channel, Vec<A> logit, auto lanes) {
          store_lanes(a.scale + n * a.c + channel, excite_gate(logit, a.gate, VectorExp{}), lanes);
        });
}

// ---- Backward -----------------------------------------------------------------------------------

// d_logit and, for the weights, the active hidden units of images [begin, end).
template <class A>
void excite_logit_backward(const ExciteBackward<A>& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    A* const d_logit = a.d_logit + n * a.c;
    for_each_vector<A>(a.c, [&](int64_t i, auto lanes) {
      store_lanes(d_logit + i,
                  excite_gate_backward(load_lanes(d_logit + i, lanes),
                                       load_lanes(a.scale + n * a.c + i, lanes), a.gate),
                  lanes);
    });
    for_each_vector<A>(a.r, [&](int64_t i, auto lanes) {
      const Vec<A> hidden = load_lanes(a.hidden + n * a.r + i, lanes);
      store_lanes(a.active + n * a.r + i, excite_activate(hidden, a.activation, VectorExp{}),
                  lanes);
    });
  }
}

// Blocks of hidden units.
template <class A>
void excite_hidden_backward(const ExciteBackward<A>& a, int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kExciteBlock, count = std::min(kExciteBlock, a.r - first);
    for (int64_t n = a.first; n < a.last; ++n) {
      const int64_t at = n * a.r + first;
      weighted_sums(a.w2 + first, a.r, a.d_logit + n * a.c, 1, a.c, count,
                    [&](int64_t j, Vec<A> d_active, auto lanes) {
                      const Vec<A> hidden = load_lanes(a.hidden + at + j, lanes);
                      store_lanes(
                          a.d_hidden + at + j,
                          excite_activate_backward(d_active, hidden, a.activation, VectorExp{}),
                          lanes);
                    });
    }
  }
}

// Blocks of channels.
template <class A>
void excite_mean_backward(const ExciteBackward<A>& a, int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kExciteBlock, count = std::min(kExciteBlock, a.c - first);
    for (int64_t n = a.first; n < a.last; ++n) {
      A* const offset = a.offset + n * a.c + first;
      weighted_sums(a.w1 + first, a.c, a.d_hidden + n * a.r, 1, a.r, count,
                    [&](int64_t j, Vec<A> d_mean, auto lanes) {
                      store_lanes(offset + j, d_mean * a.share, lanes);
                    });
    }
  }
}

// One row of a weight's gradient and its bias': the sum over images of d_out[n, unit] * v[n, :].
template <class A>
void excite_row_backward(const ExciteBackward<A>& a, const A* d_out, int64_t units, int64_t unit,
                         const A* v, int64_t inputs, A* d_w, A* d_b) {
  const A* const factors = d_out + a.first * units + unit;
  const int64_t images = a.last - a.first;
  weighted_sums(
      v + a.first * inputs, inputs, factors, units, images, inputs,
      [&](int64_t j, Vec<A> sum, auto lanes) { store_lanes(d_w + unit * inputs + j, sum, lanes); });
  double sum = 0;
  for (int64_t i = 0; i < images; ++i) sum += factors[i * units];
  d_b[unit] = static_cast<A>(sum);
}

// Rows of d_w1, then those of d_w2.
template <class A>
void excite_weights_backward(const ExciteBackward<A>& a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row)
    row < a.r ? excite_row_backward(a, a.d_hidden, a.r, row, a.mean, a.c, a.d_w1, a.d_b1)
              : excite_row_backward(a, a.d_logit, a.c, row - a.r, a.active, a.r, a.d_w2, a.d_b2);
}

}  // namespace attn_kernels::ATTN_ISA
