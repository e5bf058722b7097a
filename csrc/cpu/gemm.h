// Small matrix products on tiles that are in cache, with their epilogue on the registers that hold
// the result, and the loads and stores that bring a tile there and back.
//
// A tile is a matrix of the accumulate type whose rows are `stride` apart and padded to whole
// vectors: what stands in the padding is read and written, but never matters.
#pragma once

#include <algorithm>

#include "buffer.h"

namespace attn_kernels::ATTN_ISA {

// One block of the result: kRows x kColumns vectors of accumulators, with a broadcast element and
// a row of vectors of the operands beside them, fill the vector registers.
constexpr int kBlockRows = kVectorBytes == 64 ? 8 : 6;
constexpr int kBlockVectors = kVectorBytes == 64 ? 3 : 2;

// The left operand: element (i, k) is data[i * row + k * column].
template <class A>
struct Operand {
  const A* data;
  int64_t row, column;
};

// A block of the result on its way from the registers to an epilogue.
template <class A>
using Block = Vec<A>[kBlockRows][kBlockVectors];

// Rows [i, i + rows) and kVectors vectors from column j on of a @ b. Not inlined: it is all of the
// arithmetic and the same for every epilogue, which finds the block in the L1 cache.
template <int kVectors, class A>
__attribute__((noinline)) void gemm_block(int64_t i, int64_t rows, int64_t j, int64_t depth,
                                          const Operand<A>& a, const A* b, int64_t b_stride,
                                          Block<A>& block) {
  constexpr int L = kLanes<A>;
  // A block that sticks out below works on its last row several times.
  const A* row[kBlockRows];
  Vec<A> sum[kBlockRows][kVectors] = {};
#pragma GCC unroll 8
  for (int r = 0; r < kBlockRows; ++r)
    row[r] = a.data + (i + std::min<int64_t>(r, rows - 1)) * a.row;
  b += j;
  for (int64_t k = 0, ak = 0; k < depth; ++k, ak += a.column, b += b_stride) {
    Vec<A> right[kVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) right[v] = load(b + v * L);
#pragma GCC unroll 8
    for (int r = 0; r < kBlockRows; ++r) {
      const Vec<A> left = broadcast(row[r][ak]);
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) sum[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kBlockRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) block[r][v] = sum[r][v];
  }
}

// For i < rows and j < columns, in whole vectors: finish(i, j, (a @ b)(i, j)). What the product is
// added to is added there, last: its size then doesn't coarsen the sum's rounding.
template <class A, class Finish>
void gemm(int64_t rows, int64_t columns, int64_t depth, const Operand<A>& a, const A* b,
          int64_t b_stride, const Finish& finish) {
  constexpr int L = kLanes<A>;
  const int64_t end = (columns + L - 1) / L;
  Block<A> block;
  for (int64_t j = 0; j < end;) {
    const int64_t left = end - j;
    // Four vectors are two and two: a block of one has too few accumulators to hide latency.
    const int64_t width = left == kBlockVectors + 1 ? 2 : std::min<int64_t>(left, kBlockVectors);
    const auto product = width == 1   ? gemm_block<1, A>
                         : width == 2 ? gemm_block<2, A>
                                      : gemm_block<kBlockVectors, A>;
    for (int64_t i = 0; i < rows; i += kBlockRows) {
      const int64_t count = std::min<int64_t>(rows - i, kBlockRows);
      product(i, count, j * L, depth, a, b, b_stride, block);
      for (int64_t r = 0; r < count; ++r)
        for (int64_t v = 0; v < width; ++v) finish(i + r, (j + v) * L, block[r][v]);
    }
    j += width;
  }
}

// ---- Tiles --------------------------------------------------------------------------------------

// rows x columns values, `from_stride` apart in memory, into a tile; its padding becomes zero.
template <class T>
void load_tile(const T* from, int64_t from_stride, int64_t rows, int64_t columns, acc_t<T>* tile,
               int64_t stride) {
  for (int64_t i = 0; i < rows; ++i, from += from_stride, tile += stride) {
    for_each_vector<acc_t<T>>(
        columns, [&](int64_t j, auto lanes) { store(tile + j, load_lanes(from + j, lanes)); });
  }
}

// Half of the lanes of a and of b: lane i of the result is lane i of one, or lane i -/+ kStep of
// the other. Log2(lanes) rounds of these on all pairs of rows transpose a square block.
template <int kStep, bool kUpper, class A, int... kLane>
ATTN_INLINE Vec<A> exchange(Vec<A> a, Vec<A> b, std::integer_sequence<int, kLane...>) {
  constexpr int L = kLanes<A>;
#if defined(__clang__)
  return __builtin_shufflevector(
      a, b, ((kLane & kStep) ? L + kLane - (kUpper ? 0 : kStep) : kLane + (kUpper ? kStep : 0))...);
#else
  return __builtin_shuffle(a, b,
                           IntVec<A>{((kLane & kStep) ? L + kLane - (kUpper ? 0 : kStep)
                                                      : kLane + (kUpper ? kStep : 0))...});
#endif
}

template <int kStep, class A>
ATTN_INLINE void transpose_rounds(Vec<A> (&v)[kLanes<A>]) {
  if constexpr (kStep < kLanes<A>) {
    using Lanes = std::make_integer_sequence<int, kLanes<A>>;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<A>; ++i) {
      if ((i & kStep) == 0) {
        const Vec<A> a = v[i], b = v[i + kStep];
        v[i] = exchange<kStep, false, A>(a, b, Lanes{});
        v[i + kStep] = exchange<kStep, true, A>(a, b, Lanes{});
      }
    }
    transpose_rounds<2 * kStep, A>(v);
  }
}

// to(j, i) = from(i, j) for i < rows, j < columns.
template <class A>
void transpose(const A* from, int64_t from_stride, int64_t rows, int64_t columns, A* to,
               int64_t to_stride) {
  constexpr int L = kLanes<A>;
  for (int64_t i = 0; i < rows; i += L) {
    for_each_vector<A>(columns, [&](int64_t j, auto lanes) {
      Vec<A> v[L];
#pragma GCC unroll 16
      for (int r = 0; r < L; ++r)
        v[r] = load_lanes(from + std::min<int64_t>(i + r, rows - 1) * from_stride + j, lanes);
      transpose_rounds<1, A>(v);
      for (int r = 0; r < lanes; ++r) {
        A* row = to + (j + r) * to_stride + i;
        rows - i >= L ? store(row, v[r]) : store(row, v[r], rows - i);
      }
    });
  }
}

}  // namespace attn_kernels::ATTN_ISA
