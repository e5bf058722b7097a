// Host side of every op, CPU and CUDA: a feature map's shape and memory format, the checks that
// guard the kernels against direct callers, and allocation.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>

namespace attn_kernels {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A dense (n, c, h, w) tensor in one of the two native memory formats.
struct FeatureMap {
  Tensor tensor;
  int64_t n, c, h, w;
  bool channels_last;

  MemoryFormat format() const {
    return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  }
  int64_t pixels() const { return n * h * w; }
  ScalarType dtype() const { return tensor.scalar_type(); }
  ScalarType acc_dtype() const {
    return dtype() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }
};

inline bool is_channels_last(const Tensor& x) {
  int64_t dense = 1;
  for (const int dim : {1, 3, 2, 0}) {
    if (x.size(dim) != 1 && x.stride(dim) != dense) return false;
    dense *= x.size(dim);
  }
  return true;
}

// Whether channels lie next to each other, though not densely: a part of a channels_last map.
inline bool is_channels_last_in_part(const Tensor& x) {
  const int64_t step = x.stride(1), h = x.size(2), w = x.size(3);
  return h * w > 1 && step > 0 && (h == 1 || step < x.stride(2)) && (w == 1 || step < x.stride(3));
}

// Whether t is where x is: a kernel would read what is elsewhere as if it were here.
inline bool on_device_of(const Tensor& x, const Tensor& t) {
  int32_t type_of_x, type_of_t;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &type_of_x));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &type_of_t));
  return type_of_t == type_of_x && t.get_device_index() == x.get_device_index();
}

// NCHW where x is contiguous, else channels_last where it is that, else a copy: in channels_last
// where x is part of such a map, else in NCHW. `memory_format` of attn_kernels/ops.py says the
// same.
inline FeatureMap feature_map(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4, "attn_kernels: x must be (N, C, H, W), got ", x.dim(),
                  " dimensions");
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  STD_TORCH_CHECK(c > 0 && h > 0 && w > 0, "attn_kernels: x must have C, H and W of at least 1");
  if (x.is_contiguous()) return {x, n, c, h, w, false};
  if (is_channels_last(x)) return {x, n, c, h, w, true};
  const bool channels_last = is_channels_last_in_part(x);
  const auto format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  return {torch::stable::contiguous(x, format), n, c, h, w, channels_last};
}

// A map of x's shape, dtype and device and of any strides, laid out as x is.
inline Tensor laid_out_as(const Tensor& gradient, const FeatureMap& x) {
  STD_TORCH_CHECK(on_device_of(x.tensor, gradient) && gradient.dim() == 4 &&
                      gradient.size(0) == x.n && gradient.size(1) == x.c &&
                      gradient.size(2) == x.h && gradient.size(3) == x.w &&
                      gradient.scalar_type() == x.dtype(),
                  "attn_kernels: expected a map of the shape, dtype and device of x");
  const bool is_so = x.channels_last ? is_channels_last(gradient) : gradient.is_contiguous();
  return is_so ? gradient : torch::stable::contiguous(gradient, x.format());
}

// An uninitialised tensor on x's device.
template <size_t D>
Tensor empty_strided(const FeatureMap& x, const std::array<int64_t, D>& sizes,
                     const std::array<int64_t, D>& strides, ScalarType dtype) {
  using torch::stable::detail::from, torch::stable::detail::to;
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.tensor.get(), &device_type));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(D, sizes.data(), strides.data(),
                                                  to<int32_t>(from(dtype)), device_type,
                                                  x.tensor.get_device_index(), &handle));
  return Tensor(handle);
}

template <size_t D>
Tensor empty(const FeatureMap& x, const std::array<int64_t, D>& sizes, ScalarType dtype) {
  std::array<int64_t, D> strides;
  int64_t stride = 1;
  for (size_t d = D; d-- > 0; stride *= sizes[d]) strides[d] = stride;
  return empty_strided(x, sizes, strides, dtype);
}

// A tensor of x's shape, dtype and memory format.
inline Tensor empty_like(const FeatureMap& x) {
  const std::array sizes{x.n, x.c, x.h, x.w};
  if (!x.channels_last) return empty(x, sizes, x.dtype());
  return empty_strided(x, sizes, std::array{x.h * x.w * x.c, int64_t{1}, x.w * x.c, x.c},
                       x.dtype());
}

// The width of a (1, 2, K, K) stencil.
inline int stencil_width(const Tensor& weight, const FeatureMap& x) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(0) == 1 && weight.size(1) == 2 &&
                      weight.size(2) == weight.size(3) && weight.size(2) % 2 == 1 &&
                      weight.size(2) <= 15,
                  "attn_kernels: weight must be (1, 2, K, K) with K odd and at most 15");
  STD_TORCH_CHECK(weight.is_contiguous() && weight.scalar_type() == x.acc_dtype(),
                  "attn_kernels: weight must be contiguous and of the accumulate dtype");
  return static_cast<int>(weight.size(2));
}

// The gradient of a statistic, of any strides and dtype, as check_statistic wants it.
inline Tensor as_statistic(const Tensor& gradient, const FeatureMap& x, int64_t channels) {
  STD_TORCH_CHECK(
      on_device_of(x.tensor, gradient) && gradient.dim() == 4 && gradient.size(0) == x.n &&
          gradient.size(1) == channels && gradient.size(2) == x.h && gradient.size(3) == x.w,
      "attn_kernels: expected a (N, ", channels, ", H, W) gradient with x's N, H, W and device");
  return torch::stable::contiguous(torch::stable::to(gradient, x.acc_dtype()));
}

// A saved statistic: (n, channels, h, w), contiguous, of the accumulate dtype.
inline void check_statistic(const Tensor& t, const FeatureMap& x, int64_t channels) {
  STD_TORCH_CHECK(on_device_of(x.tensor, t) && t.is_contiguous() &&
                      t.scalar_type() == x.acc_dtype() && t.dim() == 4 && t.size(0) == x.n &&
                      t.size(1) == channels && t.size(2) == x.h && t.size(3) == x.w,
                  "attn_kernels: a saved statistic must be contiguous, (N, ", channels,
                  ", H, W), of the accumulate dtype and on x's device");
}

// A parameter of the given sizes, contiguous and of the accumulate dtype or, `or_of_x`, x's dtype.
template <size_t D>
void check_parameter(const char* name, const Tensor& t, const FeatureMap& x,
                     const std::array<int64_t, D>& sizes, bool or_of_x = false) {
  const ScalarType dtype = t.scalar_type();
  bool fits = on_device_of(x.tensor, t) && t.is_contiguous() && t.dim() == D &&
              (dtype == x.acc_dtype() || (or_of_x && dtype == x.dtype()));
  for (size_t d = 0; fits && d < D; ++d) fits = t.size(d) == sizes[d];
  STD_TORCH_CHECK(fits, "attn_kernels: ", name, " must be contiguous, of the accumulate dtype",
                  or_of_x ? " or x's dtype" : "", ", on x's device and fit to x's channels");
}

// A map of any strides, of x's shape and dtype and on its device.
inline void check_same_shape(const char* name, const Tensor& t, const FeatureMap& x) {
  STD_TORCH_CHECK(on_device_of(x.tensor, t) && t.scalar_type() == x.dtype() && t.dim() == 4 &&
                      t.size(0) == x.n && t.size(1) == x.c && t.size(2) == x.h && t.size(3) == x.w,
                  "attn_kernels: ", name, " must be of x's shape and dtype, on its device");
}

}  // namespace attn_kernels
