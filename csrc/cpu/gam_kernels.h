// The passes of GAM's channel gate on the CPU: see GamPasses.
#pragma once

#include <algorithm>

#include "../common/spatial_gate.h"
#include "simd.h"

namespace attn_kernels::ATTN_ISA {

// body(channel, pixel, lanes, bias) for each vector of a matrix of channels and pixels, where
// bias(values) are the values of the vector's channels.
template <class E, class Body>
ATTN_INLINE void for_each_vector_of(const Matrix<E>& m, const Body& body) {
  using A = acc_t<E>;
  if (m.column_stride == 1) {
    for (int64_t channel = 0; channel < m.rows; ++channel) {
      const auto bias = [&](const A* values) { return broadcast(values[channel]); };
      for_each_vector<A>(m.columns,
                         [&](int64_t pixel, auto lanes) { body(channel, pixel, lanes, bias); });
    }
  } else {
    for (int64_t pixel = 0; pixel < m.columns; ++pixel) {
      for_each_vector<A>(m.rows, [&](int64_t channel, auto lanes) {
        const auto bias = [&](const A* values) { return load_lanes(values + channel, lanes); };
        body(channel, pixel, lanes, bias);
      });
    }
  }
}

template <class E>
ATTN_INLINE E* at(const Matrix<E>& m, int64_t i, int64_t j) {
  return m.data + i * m.row_stride + j * m.column_stride;
}

template <class T, class G>
void gam_copy(const Matrix<T>& from, const Matrix<G>& to) {
  for_each_vector_of(from, [&](int64_t c, int64_t p, auto lanes, auto) {
    store_lanes(at(to, c, p), load_lanes(at(from, c, p), lanes), lanes);
  });
}

template <class T, class G>
void gam_fill(const Matrix<G>& mixed, const acc_t<T>* bias) {
  for_each_vector_of(mixed, [&](int64_t c, int64_t p, auto lanes, auto channels) {
    store_lanes(at(mixed, c, p), channels(bias), lanes);
  });
}

template <class T, class G>
void gam_relu(const Matrix<G>& mixed, const acc_t<T>* bias, const Matrix<T>& hidden) {
  using V = Vec<acc_t<T>>;
  for_each_vector_of(mixed, [&](int64_t c, int64_t p, auto lanes, auto channels) {
    V v = load_lanes(at(mixed, c, p), lanes);
    if (bias != nullptr) v += channels(bias);
    const V relu = v < 0 ? V{} : v;  // NaN stays
    store_lanes(at(hidden, c, p), relu, lanes);
    store_lanes(at(mixed, c, p), rounded<T>(relu), lanes);  // what the backward will find
  });
}

// fn(std::bool_constant<sigmoid>{})
template <class Fn>
void with_activation(bool sigmoid, const Fn& fn) {
  sigmoid ? fn(std::true_type{}) : fn(std::false_type{});
}

template <bool kSigmoid, class V>
ATTN_INLINE V activate(V v) {
  if constexpr (kSigmoid) return sigmoid(v, VectorExp{});
  return v;
}

template <class T, class G>
void gam_gate(const Matrix<G>& mixed, const acc_t<T>* bias, bool sigmoid, const Matrix<T>& x,
              const Matrix<T>& y) {
  with_activation(sigmoid, [&](auto kSigmoid) {
    for_each_vector_of(mixed, [&](int64_t c, int64_t p, auto lanes, auto channels) {
      const auto gate = activate<kSigmoid>(load_lanes(at(mixed, c, p), lanes) + channels(bias));
      store_lanes(at(y, c, p), load_lanes(at(x, c, p), lanes) * gate, lanes);
    });
  });
}

template <class T, class G>
void gam_gate_backward(const Matrix<G>& mixed, const acc_t<T>* bias, bool sigmoid,
                       const Matrix<T>& dy, const Matrix<T>& x, const Matrix<G>& da) {
  using V = Vec<acc_t<T>>;
  with_activation(sigmoid, [&](auto kSigmoid) {
    for_each_vector_of(mixed, [&](int64_t c, int64_t p, auto lanes, auto channels) {
      const V gate = activate<kSigmoid>(load_lanes(at(mixed, c, p), lanes) + channels(bias));
      const V d_gate = load_lanes(at(dy, c, p), lanes) * load_lanes(at(x, c, p), lanes);
      store_lanes(at(mixed, c, p), gate, lanes);
      store_lanes(at(da, c, p), kSigmoid ? sigmoid_backward(d_gate, gate) : d_gate, lanes);
    });
  });
}

template <class T, class G>
void gam_hidden_backward(const Matrix<T>& hidden, const Matrix<G>& mixed) {
  using V = Vec<acc_t<T>>;
  for_each_vector_of(hidden, [&](int64_t c, int64_t p, auto lanes, auto) {
    const V v = load_lanes(at(mixed, c, p), lanes);
    store_lanes(at(mixed, c, p), load_lanes(at(hidden, c, p), lanes) <= 0 ? V{} : v, lanes);
  });
}

template <class T, class G>
void gam_dx(const Matrix<T>& dy, const Matrix<G>& gate, const Matrix<G>& mixed,
            const Matrix<T>& dx) {
  for_each_vector_of(dy, [&](int64_t c, int64_t p, auto lanes, auto) {
    const auto product = load_lanes(at(dy, c, p), lanes) * load_lanes(at(gate, c, p), lanes);
    store_lanes(at(dx, c, p), product + load_lanes(at(mixed, c, p), lanes), lanes);
  });
}

template <class T, class G>
void gam_add(const Matrix<G>& from, const Matrix<acc_t<T>>& to) {
  for_each_vector_of(from, [&](int64_t i, int64_t j, auto lanes, auto) {
    const auto sum = load_lanes(at(to, i, j), lanes) + load_lanes(at(from, i, j), lanes);
    store_lanes(at(to, i, j), sum, lanes);
  });
}

template <class T, class G>
void gam_add_pixels(const Matrix<G>& from, acc_t<T>* sums) {
  using A = acc_t<T>;
  if (from.column_stride == 1) {
    for (int64_t c = 0; c < from.rows; ++c) sums[c] += sum_of_values(at(from, c, 0), from.columns);
    return;
  }
  for_each_vector<A>(from.rows, [&](int64_t c, auto lanes) {
    Vec<A> total = load_lanes(sums + c, lanes);
    for (int64_t first = 0; first < from.columns; first += kVectorsPerSum) {
      Vec<A> part{};
      for (int64_t p = first; p < std::min(first + kVectorsPerSum, from.columns); ++p)
        part += load_lanes(at(from, c, p), lanes);
      total += part;
    }
    store_lanes(sums + c, total, lanes);
  });
}

}  // namespace attn_kernels::ATTN_ISA
