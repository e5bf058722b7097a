// What a task of the spatial kernels is: a band of an image's rows, walked in chunks small enough
// to stay in the L2 cache between the pass that takes their statistics and the pass that uses them.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <type_traits>

#include "spatial_args.h"

namespace attn_kernels::ATTN_ISA {

// Rows [begin, end) of image n.
struct Band {
  int64_t n, begin, end;
};

inline Band band(const Problem& p, int64_t task) {
  const int64_t n = task / p.bands, b = task % p.bands, units = p.units();
  return {n, units * b / p.bands * p.rows_per_unit,
          std::min(units * (b + 1) / p.bands * p.rows_per_unit, p.h)};
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
  const int64_t rows =
      std::max<int64_t>(level2_cache_bytes() / 4 / row_bytes - p.k / 2, std::min<int64_t>(4, p.h));
  const int64_t units = (rows + p.rows_per_unit - 1) / p.rows_per_unit;
  return std::min(units * p.rows_per_unit, p.h);
}

// fn(first, second) as constants.
template <class Fn>
void with_flags(bool first, bool second, const Fn& fn) {
  const auto inner = [&](auto one) {
    second ? fn(one, std::true_type{}) : fn(one, std::false_type{});
  };
  first ? inner(std::true_type{}) : inner(std::false_type{});
}

}  // namespace attn_kernels::ATTN_ISA
