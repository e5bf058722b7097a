// The K x K convolution of the pooled statistics, its transpose and its weight gradient, on planes
// whose rows carry zero padding, so that no inner loop knows an edge.
#pragma once

#include <algorithm>

#include "buffer.h"

namespace attn_kernels::ATTN_ISA {

// Rows of w values, each followed by `pad` zeros which are also the left padding of the next row.
// at(j) is where the stencil of row j begins: `pad` to the left of its first value.
template <class A>
class Plane {
 public:
  Plane(int64_t rows, int64_t w, int k)
      : stride(w + k / 2), w_(w), pad_(k / 2), data_(make_buffer<A>((rows + 1) * stride + k)) {}

  A* at(int64_t j) { return data_.get() + j * stride; }
  const A* at(int64_t j) const { return data_.get() + j * stride; }
  A* row(int64_t j) { return at(j) + pad_; }

  void set_rows(int64_t j, int64_t count, const A* values) {
    for (int64_t i = 0; i < count; ++i) std::copy_n(values + i * w_, w_, row(j + i));
  }
  void clear_rows(int64_t j, int64_t count) {
    for (int64_t i = 0; i < count; ++i) std::fill_n(row(j + i), w_, A(0));
  }
  // Rows [from, from + count) become rows [0, count).
  void scroll(int64_t from, int64_t count) {
    std::memmove(data_.get(), at(from), static_cast<size_t>(count * stride + pad_) * sizeof(A));
  }

  const int64_t stride;

  int64_t w() const { return w_; }

 private:
  int64_t w_, pad_;
  Buffer<A> data_;
};

// The rows of a plane that hold rows of the image, not zeros above or below it.
struct Rows {
  int64_t begin, end;
};

// ---- Exactly the taps inside the image ----------------------------------------------------------
//
// The fast loops below multiply the padding's zeros as well, which is wrong where the other factor
// is not finite; then these, which are slow, do the work.

template <class A>
bool all_finite(const A* values, int64_t count) {
  Vec<A> zero{};  // NaN where a value is not finite
  for_each_vector<A>(count,
                     [&](int64_t i, auto lanes) { zero += load_lanes(values + i, lanes) * 0; });
  return sum_of_lanes<A>(zero) == 0;
}

// fn(tap, value) for the values under the stencil of column x of row j.
template <class A, class Fn>
void for_each_tap_inside(const Plane<A>& in, Rows rows, int64_t j, int64_t x, int k, const Fn& fn) {
  const int64_t pad = k / 2;
  for (int64_t ky = std::max<int64_t>(rows.begin - j, 0); ky < std::min<int64_t>(k, rows.end - j);
       ++ky)
    for (int64_t kx = std::max<int64_t>(pad - x, 0); kx < std::min(in.w() + pad - x, 2 * pad + 1);
         ++kx)
      fn(ky * k + kx, in.at(j + ky)[x + kx]);
}

// out[j * stride + x] for `count` rows from row 0 on: the sum of weight[tap * step] * value.
template <class A>
void stencil_inside(const Plane<A>& in, Rows rows, int k, const A* weight, int step, int64_t count,
                    A* out) {
  for (int64_t j = 0; j < count; ++j)
    for (int64_t x = 0; x < in.w(); ++x) {
      double sum = 0;
      for_each_tap_inside(in, rows, j, x, k, [&](int64_t tap, A value) {
        sum += static_cast<double>(weight[tap * step]) * value;
      });
      out[j * in.stride + x] = static_cast<A>(sum);
    }
}

// d_weight of one plane; d_logit (count, w) has no gaps.
template <class A>
void stencil_weight_backward_inside(const Plane<A>& in, Rows rows, int k, const A* d_logit,
                                    int64_t count, A* d_weight) {
  for (int64_t j = 0; j < count; ++j)
    for (int64_t x = 0; x < in.w(); ++x)
      for_each_tap_inside(in, rows, j, x, k, [&](int64_t tap, A value) {
        d_weight[tap] += d_logit[j * in.w() + x] * value;
      });
}

// ---- The fast loops -----------------------------------------------------------------------------

// K is the width as a constant, or 0 where it is only known at run time.
template <int K>
ATTN_INLINE int width(int k) {
  return K > 0 ? K : k;
}

// out[q] = bias + sum over 2 planes and K x K taps, for `count` values from row j on, gaps
// included.
template <int K, class A>
void stencil(const Plane<A> (&in)[2], int64_t j, int runtime_k, const A* weight, A bias,
             int64_t count, A* out) {
  const int k = width<K>(runtime_k);
  const int64_t stride = in[0].stride;
  constexpr int kUnroll = 4;
  constexpr int64_t kStep = kUnroll * kLanes<A>;
  // The last step may run past `count`: planes and `out` have room for it.
  for (int64_t q = 0; q < count; q += kStep) {
    Vec<A> sum[kUnroll] = {};
    const A* tap = weight;
    for (int i = 0; i < 2; ++i) {
      for (int ky = 0; ky < k; ++ky) {
        const A* p = in[i].at(j) + ky * stride + q;
        Vec<A> row[kUnroll] = {};  // short sums: a chain of all the taps would round 2 K K times
        for (int kx = 0; kx < k; ++kx, ++tap) {
          for (int u = 0; u < kUnroll; ++u) row[u] += *tap * load(p + kx + u * kLanes<A>);
        }
        for (int u = 0; u < kUnroll; ++u) sum[u] += row[u];
      }
    }
    for (int u = 0; u < kUnroll; ++u) store(out + q + u * kLanes<A>, sum[u] + bias);
  }
}

// out[i][q] = sum of d_logit over the K x K outputs that value q of plane i went into.
template <int K, class A>
void stencil_transposed(const Plane<A>& d_logit, int64_t j, int runtime_k, const A* weight,
                        int64_t count, A* out_mean, A* out_max) {
  const int k = width<K>(runtime_k);
  constexpr int kUnroll = 2;
  constexpr int64_t kStep = kUnroll * kLanes<A>;
  for (int64_t q = 0; q < count; q += kStep) {
    Vec<A> d_mean[kUnroll] = {}, d_max[kUnroll] = {};
    const A* tap = weight + k * k - 1;  // backwards: the kernel is turned by 180 degrees
    for (int ky = 0; ky < k; ++ky) {
      const A* p = d_logit.at(j) + ky * d_logit.stride + q;
      for (int kx = 0; kx < k; ++kx, --tap) {
        for (int u = 0; u < kUnroll; ++u) {
          const Vec<A> d = load(p + kx + u * kLanes<A>);
          d_mean[u] += tap[0] * d;
          d_max[u] += tap[k * k] * d;
        }
      }
    }
    for (int u = 0; u < kUnroll; ++u) {
      store(out_mean + q + u * kLanes<A>, d_mean[u]);
      store(out_max + q + u * kLanes<A>, d_max[u]);
    }
  }
}

// d_weight[ky][kx] of one plane: sum of d_logit[q] * in[q + ky * stride + kx] over `count` values;
// d_logit is zero in the gaps between rows.
template <int K, class A>
void stencil_weight_backward(const Plane<A>& in, const A* d_logit, int runtime_k, int64_t count,
                             A* d_weight) {
  const int k = width<K>(runtime_k);
  constexpr int kMost = K > 0 ? K : 15;
  for (int ky = 0; ky < k; ++ky) {
    const A* p = in.at(0) + ky * in.stride;
    Vec<A> total[kMost] = {};
    constexpr int64_t kPart = kVectorsPerSum * kLanes<A>;
    for (int64_t first = 0; first < count; first += kPart) {
      Vec<A> part[kMost] = {};
      for (int64_t q = first; q < std::min(first + kPart, count); q += kLanes<A>) {
        const Vec<A> d = load(d_logit + q);
        for (int kx = 0; kx < k; ++kx) part[kx] += d * load(p + q + kx);
      }
      for (int kx = 0; kx < k; ++kx) total[kx] += part[kx];
    }
    for (int kx = 0; kx < k; ++kx) d_weight[ky * k + kx] = sum_of_lanes<A>(total[kx]);
  }
}

}  // namespace attn_kernels::ATTN_ISA
