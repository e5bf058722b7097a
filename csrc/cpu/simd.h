// SIMD vectors of the accumulate type, as wide as the instruction set that this file is compiled
// for, and the loads and stores that widen and narrow the four storage types.
//
// Included once per instruction set (see isa/): everything here lives in namespace ATTN_ISA, so
// that no two builds of a function share a symbol.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace attn_kernels::ATTN_ISA {

// Not taken from __AVX512F__ and the like: neither g++ before 14 nor clang defines those for an
// instruction set that is switched on inside the file.
constexpr int kVectorBytes = ATTN_VECTOR_BYTES;

template <class E, int N>
struct VectorOf {
  typedef E type __attribute__((vector_size(N * sizeof(E))));
};

template <class A>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));
template <class A>
using Vec = typename VectorOf<A, kLanes<A>>::type;
// Lane indices and lane masks: integers as wide as A.
template <class A>
using Int = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;
template <class A>
using IntVec = typename VectorOf<Int<A>, kLanes<A>>::type;

#define ATTN_INLINE inline __attribute__((always_inline))

template <class A>
ATTN_INLINE Vec<A> broadcast(A value) {
  return value - Vec<A>{};
}

template <class V, class E>
ATTN_INLINE V load_raw(const E* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}

template <class V, class E>
ATTN_INLINE void store_raw(E* p, V v) {
  std::memcpy(p, &v, sizeof(V));
}

// ---- Widening and narrowing -----------------------------------------------------------------

using Bits16 = VectorOf<uint16_t, kLanes<float>>::type;
using Bits32 = VectorOf<uint32_t, kLanes<float>>::type;

template <class T>
using Raw = std::conditional_t<sizeof(T) == 2, Bits16, Vec<acc_t<T>>>;

template <class T>
ATTN_INLINE Vec<acc_t<T>> widen(Raw<T> raw) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return reinterpret_cast<Vec<float>>(__builtin_convertvector(raw, Bits32) << 16);
  } else if constexpr (std::is_same_v<T, Half>) {
#if ATTN_VECTOR_BYTES == 64
    return _mm512_maskz_cvtph_ps(0xffff, reinterpret_cast<__m256i>(raw));
#elif ATTN_VECTOR_BYTES == 32
    return _mm256_cvtph_ps(reinterpret_cast<__m128i>(raw));
#else
    Vec<float> v;
    for (int i = 0; i < kLanes<float>; ++i) {
      _Float16 lane;
      std::memcpy(&lane, reinterpret_cast<const char*>(&raw) + 2 * i, 2);
      v[i] = static_cast<float>(lane);
    }
    return v;
#endif
  } else {
    return raw;
  }
}

// Round to nearest even; a NaN stays one.
template <class T>
ATTN_INLINE Raw<T> narrow(Vec<acc_t<T>> v) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const Bits32 bits = reinterpret_cast<Bits32>(v);
    const Bits32 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(v == v ? rounded : Bits32{} + 0x7fc0, Bits16);
  } else if constexpr (std::is_same_v<T, Half>) {
#if ATTN_VECTOR_BYTES == 64
    return reinterpret_cast<Bits16>(_mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT));
#elif ATTN_VECTOR_BYTES == 32
    return reinterpret_cast<Bits16>(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
    Bits16 raw;
    for (int i = 0; i < kLanes<float>; ++i) {
      const _Float16 lane = static_cast<_Float16>(v[i]);
      std::memcpy(reinterpret_cast<char*>(&raw) + 2 * i, &lane, 2);
    }
    return raw;
#endif
  } else {
    return v;
  }
}

// v as it is after a store and a load.
template <class T>
ATTN_INLINE Vec<acc_t<T>> rounded(Vec<acc_t<T>> v) {
  return widen<T>(narrow<T>(v));
}

// ---- Loads and stores of T as vectors of acc_t<T>; `n` lanes where fewer than all are there -----

template <class T>
ATTN_INLINE Vec<acc_t<T>> load(const T* p) {
  return widen<T>(load_raw<Raw<T>>(p));
}

template <class T>
ATTN_INLINE void store(T* p, Vec<acc_t<T>> v) {
  store_raw(p, narrow<T>(v));
}

// Missing lanes are zero.
template <class T>
ATTN_INLINE Vec<acc_t<T>> load(const T* p, int64_t n) {
#if ATTN_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<T, float>) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
  } else if constexpr (sizeof(T) == 2) {
    const auto mask = static_cast<__mmask16>((1u << n) - 1);
    return widen<T>(reinterpret_cast<Bits16>(_mm256_maskz_loadu_epi16(mask, p)));
  }
#endif
  Raw<T> raw{};
  std::memcpy(&raw, p, static_cast<size_t>(n) * sizeof(T));
  return widen<T>(raw);
}

template <class T>
ATTN_INLINE void store(T* p, Vec<acc_t<T>> v, int64_t n) {
  const Raw<T> raw = narrow<T>(v);
#if ATTN_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<T, float>) {
    return _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), raw);
  } else if constexpr (sizeof(T) == 2) {
    const auto mask = static_cast<__mmask16>((1u << n) - 1);
    return _mm256_mask_storeu_epi16(p, mask, reinterpret_cast<__m256i>(raw));
  }
#endif
  std::memcpy(p, &raw, static_cast<size_t>(n) * sizeof(T));
}

// `body(first, lanes)` for each vector of [0, count): `lanes` is an integral constant for whole
// vectors, so that the body's loads and stores are plain ones, and a number for the last part.
template <class A, class Body>
ATTN_INLINE void for_each_vector(int64_t count, const Body& body) {
  constexpr int64_t kAll = kLanes<A>;
  int64_t i = 0;
  for (; i + kAll <= count; i += kAll) body(i, std::integral_constant<int64_t, kAll>{});
  if (i < count) body(i, count - i);
}

template <class T, class Lanes>
ATTN_INLINE Vec<acc_t<T>> load_lanes(const T* p, Lanes lanes) {
  if constexpr (std::is_same_v<Lanes, int64_t>) {
    return load(p, lanes);
  } else {
    return load(p);
  }
}

template <class T, class Lanes>
ATTN_INLINE void store_lanes(T* p, Vec<acc_t<T>> v, Lanes lanes) {
  if constexpr (std::is_same_v<Lanes, int64_t>) {
    store(p, v, lanes);
  } else {
    store(p, v);
  }
}

// As store_lanes; `past_cache`: what is written is more than the caches hold. Memory then need not
// be read before it is overwritten, where a vector is a whole line of it. `end_stores` comes last.
template <class T, class Lanes>
ATTN_INLINE void store_lanes(T* p, Vec<acc_t<T>> v, Lanes lanes, bool past_cache) {
#if ATTN_VECTOR_BYTES == 64
  if constexpr (sizeof(Raw<T>) == 64 && !std::is_same_v<Lanes, int64_t>) {
    if (past_cache && reinterpret_cast<uintptr_t>(p) % 64 == 0)
      return _mm512_stream_si512(reinterpret_cast<__m512i*>(p),
                                 reinterpret_cast<__m512i>(narrow<T>(v)));
  }
#endif
  store_lanes(p, v, lanes);
}

// Such stores are ordered with no others: whoever learns that a task is done must find them done.
ATTN_INLINE void end_stores(bool past_cache) {
#if defined(__x86_64__)
  if (past_cache) _mm_sfence();
#endif
}

template <class A>
ATTN_INLINE IntVec<A> lane_indices() {
  IntVec<A> lanes;
  for (int i = 0; i < kLanes<A>; ++i) lanes[i] = i;
  return lanes;
}

// v, with `fill` in the lanes that are not there.
template <class A, class V, class Lanes>
ATTN_INLINE V fill_missing(V v, V fill, Lanes lanes) {
  if constexpr (std::is_same_v<Lanes, int64_t>) {
    return lane_indices<A>() < static_cast<Int<A>>(lanes) ? v : fill;
  } else {
    return v;
  }
}

// All lanes of v combined, in halves.
template <class E, class V, class Combine>
ATTN_INLINE E reduce_lanes(V v, const Combine& combine) {
  constexpr int kAll = sizeof(V) / sizeof(E);
  E lane[kAll];
  store_raw(lane, v);
#pragma GCC unroll 8
  for (int width = kAll / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] = combine(lane[i], lane[i + width]);
  return lane[0];
}

template <class A>
ATTN_INLINE A sum_of_lanes(Vec<A> v) {
  return reduce_lanes<A>(v, [](A a, A b) { return a + b; });
}

// Terms of a sum are added up in parts of so many vectors, which are added up in turn: then the
// rounding error hardly grows with their number.
constexpr int64_t kVectorsPerSum = 16;

// The sum of `count` values, in the type in which they are summed.
template <class T>
ATTN_INLINE acc_t<T> sum_of_values(const T* values, int64_t count) {
  using A = acc_t<T>;
  constexpr int64_t kPart = kVectorsPerSum * kLanes<A>;
  Vec<A> total{};
  for (int64_t first = 0; first < count; first += kPart) {
    Vec<A> part{};
    for_each_vector<A>(count - first < kPart ? count - first : kPart, [&](int64_t i, auto lanes) {
      part += load_lanes(values + first + i, lanes);
    });
    total += part;
  }
  return sum_of_lanes<A>(total);
}

// a * b + c, rounded once where the instruction set can. Said where results must not depend on
// whether the compiler finds the chance: it finds it in one loop and misses it in the next.
struct VectorFma {
  ATTN_INLINE Vec<float> operator()(Vec<float> a, Vec<float> b, Vec<float> c) const {
#if ATTN_VECTOR_BYTES == 64
    return _mm512_fmadd_ps(a, b, c);
#elif ATTN_VECTOR_BYTES == 32
    return _mm256_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
  }
  ATTN_INLINE Vec<double> operator()(Vec<double> a, Vec<double> b, Vec<double> c) const {
#if ATTN_VECTOR_BYTES == 64
    return _mm512_fmadd_pd(a, b, c);
#elif ATTN_VECTOR_BYTES == 32
    return _mm256_fmadd_pd(a, b, c);
#else
    return a * b + c;
#endif
  }
};

// ---- exp -------------------------------------------------------------------------------------

// exp(x) within 1 ulp or so: 2^n * exp(r) with |r| <= ln(2)/2, the series to r^7/7!. Results
// overflow to inf and underflow through the subnormals to 0.
struct VectorExp {
  ATTN_INLINE Vec<float> operator()(Vec<float> x) const;
  ATTN_INLINE Vec<double> operator()(Vec<double> x) const;
};

Vec<float> VectorExp::operator()(Vec<float> x) const {
  using V = Vec<float>;
  x = x > 104.0f ? V{} + 104.0f : x;  // NaN fails both comparisons and stays
  x = x < -104.0f ? V{} - 104.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the integer in the low bits
  const V shifted = x * 1.44269504f + kRound;
  const V n = shifted - kRound;
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V series = V{} + 1.0f / 5040;
  series = series * r + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
#if ATTN_VECTOR_BYTES == 64
  return _mm512_maskz_scalef_ps(0xffff, series, n);
#else
  // In two halves, each of which is a normal number.
  using I = IntVec<float>;
  const I power = reinterpret_cast<I>(shifted) - 0x4b400000;  // n as an integer
  const I half = power >> 1;
  const V scale_a = reinterpret_cast<V>((half + 127) << 23);
  const V scale_b = reinterpret_cast<V>((power - half + 127) << 23);
  return series * scale_a * scale_b;
#endif
}

Vec<double> VectorExp::operator()(Vec<double> x) const {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

}  // namespace attn_kernels::ATTN_ISA
