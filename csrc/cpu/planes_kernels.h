// How kernels walk over planes: passes that treat every element alone, with coefficients per image
// and channel, and sums over pixels in channels_last.
#pragma once

#include "planes.h"
#include "simd.h"

namespace attn_kernels::ATTN_ISA {

// step(at, coefficients, lanes) for each vector of elements of one task; `at` is its first element.
// Each of the K coefficients is (n, c), or null: zero.
template <class T, size_t K, class Step>
ATTN_INLINE void walk_task(const Planes& p, int64_t task, const acc_t<T>* const (&from)[K],
                           const Step& step) {
  using A = acc_t<T>;
  Vec<A> k[K];
  if (!p.channels_last) {
    for (size_t i = 0; i < K; ++i) k[i] = broadcast(from[i] != nullptr ? from[i][task] : A(0));
    for_each_vector<A>(p.pixels,
                       [&](int64_t i, auto lanes) { step(task * p.pixels + i, k, lanes); });
    return;
  }
  const PlaneBlock t = plane_block(p, task);
  for (int64_t pixel = t.begin; pixel < t.end; ++pixel) {
    for_each_vector<A>(t.channels, [&](int64_t i, auto lanes) {
      const int64_t c = t.channel + i;
      for (size_t j = 0; j < K; ++j)
        k[j] = from[j] != nullptr ? load_lanes(from[j] + t.n * p.c + c, lanes) : Vec<A>{};
      step((t.n * p.pixels + pixel) * p.c + c, k, lanes);
    });
  }
}

// fn(pixel, group) for `group` pixels at once, 8 and in the end 1: so many streams from memory for
// one pass over the sums in the cache.
template <class Fn>
ATTN_INLINE void in_groups(int64_t pixels, const Fn& fn) {
  constexpr std::integral_constant<int, 8> kEight;
  constexpr std::integral_constant<int, 1> kOne;
  int64_t pixel = 0;
  for (; pixel + kEight <= pixels; pixel += kEight) fn(pixel, kEight);
  for (; pixel < pixels; ++pixel) fn(pixel, kOne);
}

// G values added up in pairs; they are lost.
template <int G, class V>
ATTN_INLINE V tree_sum(V (&v)[G]) {
#pragma GCC unroll 8
  for (int width = 1; width < G; width *= 2)
#pragma GCC unroll 8
    for (int g = 0; g < G; g += 2 * width) v[g] += v[g + width];
  return v[0];
}

}  // namespace attn_kernels::ATTN_ISA
