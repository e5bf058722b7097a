// What the host side of every op needs from torch, through its stable ABI only.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

#include "../common/feature_map.h"
#include "cuda_launch.h"
#include "launch.h"

namespace attn_kernels {

inline Shape shape_of(const FeatureMap& x) { return {x.n, x.c, x.h, x.w}; }

// Channels and columns are counted in int, in strides of some thousand.
constexpr int64_t kLargestSize = int64_t{1} << 30;

// x as the kernels take it.
inline FeatureMap cuda_feature_map(const Tensor& x) {
  STD_TORCH_CHECK(is_on_gpu(x), "attn_kernels: x must be a CUDA tensor");
  const FeatureMap input = feature_map(x);
  for (const int64_t size : {input.c, input.h, input.w}) {
    STD_TORCH_CHECK(size >= 1 && size <= kLargestSize,
                    "attn_kernels: C, H and W of x must be 1 to ", kLargestSize, ", got ", size);
  }
  return input;
}

inline void check_device(const char* name, const Tensor& tensor, const FeatureMap& x) {
  STD_TORCH_CHECK(is_on_gpu(tensor) && tensor.get_device_index() == x.tensor.get_device_index(),
                  "attn_kernels: ", name, " must be on the device of x");
}

// K of weight (1, 2, K, K).
inline int checked_kernel_size(const Tensor& weight, const FeatureMap& x) {
  check_device("weight", weight, x);
  return stencil_width(weight, x);
}

inline void check_bias(const std::optional<Tensor>& bias, const FeatureMap& x) {
  if (!bias) return;
  check_device("bias", *bias, x);
  STD_TORCH_CHECK(bias->numel() == 1 && bias->scalar_type() == x.acc_dtype(),
                  "attn_kernels: bias must be one element of the accumulate dtype");
}

// map and pooled, as saved by forward.
inline void check_saved(const Tensor& map, const Tensor& pooled, const FeatureMap& x) {
  check_device("map", map, x);
  check_device("pooled", pooled, x);
  check_statistic(map, x, 1);
  check_statistic(pooled, x, 2);
}

// A new contiguous tensor (N, planes, H, W).
inline Tensor empty_planes(const FeatureMap& x, int64_t planes, ScalarType dtype) {
  return empty(x, std::array<int64_t, 4>{x.n, planes, x.h, x.w}, dtype);
}

// A gradient shaped like x, of any strides, laid out as x is.
inline Tensor input_gradient(const char* name, const Tensor& gradient, const FeatureMap& x) {
  check_device(name, gradient, x);
  bool same = gradient.dim() == 4 && gradient.scalar_type() == x.dtype();
  for (int dim = 0; same && dim < 4; ++dim) same = gradient.size(dim) == x.tensor.size(dim);
  STD_TORCH_CHECK(same, "attn_kernels: ", name, " must have the shape and dtype of x");
  return laid_out_as(gradient, x);
}

// A gradient (N, planes, H, W), of any strides, contiguous and of the accumulate dtype.
inline Tensor planes_gradient(const char* name, const Tensor& gradient, int64_t planes,
                              const FeatureMap& x) {
  check_device(name, gradient, x);
  const Tensor dense = torch::stable::contiguous(torch::stable::to(gradient, x.acc_dtype()));
  check_statistic(dense, x, planes);
  return dense;
}

// Calls run(T()) with the C++ type of x's dtype.
template <class Run>
void with_dtype(const FeatureMap& x, Run run) {
  switch (x.dtype()) {
    case ScalarType::Float:
      return run(float());
    case ScalarType::Half:
      return run(__half());
    case ScalarType::BFloat16:
      return run(__nv_bfloat16());
    case ScalarType::Double:
      return run(double());
    default:
      STD_TORCH_CHECK(false, "attn_kernels: x must be float32, float16, bfloat16 or float64, got ",
                      torch::headeronly::toString(x.dtype()));
  }
}

template <class T>
const T* in(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
const T* in(const std::optional<Tensor>& tensor) {
  return tensor ? in<T>(*tensor) : nullptr;
}

template <class T>
T* out(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace attn_kernels
