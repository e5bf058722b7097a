// Host side shared by the CPU ops: storage types, tasks and threads.
#pragma once

#include "../common/feature_map.h"
#include "kernels.h"

namespace attn_kernels {

// fn(T{}) with the kernels' storage type for x's dtype.
template <class Fn>
void with_dtype(const FeatureMap& x, const Fn& fn) {
  switch (x.dtype()) {
    case ScalarType::Float:
      return fn(float{});
    case ScalarType::Double:
      return fn(double{});
    case ScalarType::Half:
      return fn(Half{});
    case ScalarType::BFloat16:
      return fn(BFloat16{});
    default:
      STD_TORCH_CHECK(false, "attn_kernels: x must be float32, float64, float16 or bfloat16");
  }
}

template <class E>
constexpr ScalarType kScalarType = std::is_same_v<E, double>  ? ScalarType::Double
                                   : std::is_same_v<E, float> ? ScalarType::Float
                                   : std::is_same_v<E, Half>  ? ScalarType::Half
                                                              : ScalarType::BFloat16;

// Whether a pixel's channels lie together: in channels_last, and where an image is one pixel.
inline bool pixels_outermost(const FeatureMap& x) { return x.channels_last || x.h * x.w == 1; }

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

// An optional map, laid out as x is.
inline std::optional<Tensor> optional_map(const std::optional<Tensor>& t, const FeatureMap& x) {
  if (!t) return t;
  return laid_out_as(*t, x);
}

template <class T>
T* optional_data(const std::optional<Tensor>& t) {
  return t ? data<T>(*t) : nullptr;
}

// Whether so many maps are more than is left in the caches for whoever reads them next.
template <class T>
bool past_cache(const FeatureMap& x, int64_t maps) {
  constexpr int64_t kBytes = 8 << 20;
  return maps * x.pixels() * x.c * static_cast<int64_t>(sizeof(T)) >= kBytes;
}

// A contiguous matrix; a vector is one row.
template <class E>
Matrix<E> matrix_of(const Tensor& t) {
  const int64_t rows = t.dim() == 2 ? t.size(0) : 1, columns = t.size(t.dim() - 1);
  return {data<E>(t), rows, columns, columns, 1};
}

// A parameter of a map of T's in the type in which it is used.
template <class T, class E>
Tensor parameter(const Tensor& p, const FeatureMap& x) {
  if (p.scalar_type() == kScalarType<E>) return p;
  if constexpr (std::is_same_v<E, acc_t<T>>) {  // small ones are faster widened here
    const Matrix<T> from = matrix_of<T>(p);
    const Tensor wide = empty(x, std::array{from.rows, from.columns}, kScalarType<E>);
    kernels<T>().gam.copy(from, matrix_of<E>(wide));
    return wide;
  } else {
    return torch::stable::to(p, kScalarType<E>);
  }
}

}  // namespace attn_kernels
