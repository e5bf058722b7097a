// The arithmetic of statistics over the pixels of one channel, written once for CPU and CUDA.
#pragma once

#include <cstdint>

#include "spatial_gate.h"

namespace attn_kernels {

// The bits of the argument `statistics`.
enum Statistic : int64_t { kMean = 1, kVar = 2, kMax = 4, kMin = 8, kAllStatistics = 15 };

// Whether `value` takes the place of the extreme found before it: it is beyond it, or the first
// NaN.
template <bool kLargest, class T>
ATTN_HD bool takes(T value, T best) {
  return (kLargest ? value > best : value < best) || (value != value && best == best);
}

// Mean and sum of squared deviations from it. Parts are merged by their own (Chan et al.), so that
// a large mean costs no digits.
struct Moments {
  double mean = 0, squares = 0;

  // After `before` values come `count` more. Their deviations from a pivot near their mean sum to
  // `sum`, the squares of those to `pivot_squares`: exact for any pivot, accurate for a near one.
  ATTN_HD void add(double before, double count, double pivot, double sum, double pivot_squares) {
    const double one = 1 / count, share = count / (before + count);  // divide once in a loop
    const double delta = pivot + sum * one - mean;
    squares += pivot_squares - sum * sum * one + delta * delta * before * share;
    mean += delta * share;
  }
};

}  // namespace attn_kernels
