// What the host side of every op needs from torch, through its stable ABI only.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

#include "../common/spatial_operands.h"
#include "cuda_launch.h"
#include "launch_gate.h"

namespace attn_kernels {

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

inline Shape shape_of(const FeatureMap& x) { return {x.n, x.c, x.h, x.w}; }

// Channels and columns are counted in int, in strides of some thousand.
constexpr int64_t kLargestSize = int64_t{1} << 30;
// Steps from channel to channel are counted in 32 bits.
constexpr int64_t kLargestPlane = (int64_t{1} << 32) - 1;

// x, or one of the maps it consists of, as the kernels take it.
inline void check_cuda(const FeatureMap& input) {
  STD_TORCH_CHECK(is_on_gpu(input.tensor), "attn_kernels: x must be a CUDA tensor");
  STD_TORCH_CHECK(input.h <= kLargestPlane / input.w, "attn_kernels: H * W of x must be at most ",
                  kLargestPlane);
  for (const int64_t size : {input.c, input.h, input.w}) {
    STD_TORCH_CHECK(size >= 1 && size <= kLargestSize,
                    "attn_kernels: C, H and W of x must be 1 to ", kLargestSize, ", got ", size);
  }
}

inline FeatureMap cuda_feature_map(const Tensor& x) {
  const FeatureMap input = feature_map(x);
  check_cuda(input);
  return input;
}

inline void check_device(const char* name, const Tensor& tensor, const FeatureMap& x) {
  STD_TORCH_CHECK(is_on_gpu(tensor) && tensor.get_device_index() == x.tensor.get_device_index(),
                  "attn_kernels: ", name, " must be on the device of x");
}

inline void check_device(const char* name, const std::optional<Tensor>& tensor,
                         const FeatureMap& x) {
  if (tensor) check_device(name, *tensor, x);
}

// The convolution, as the kernels take it.
template <class Real>
Convolution<Real> convolution(const Stencil& stencil, const Tensor& weight,
                              const std::optional<Tensor>& bias) {
  return {stencil.k, stencil.groups, in<Real>(weight), in<Real>(bias)};
}

inline Stencil cuda_stencil(const Tensor& weight, const std::optional<Tensor>& bias,
                            const FeatureMap& x) {
  check_device("weight", weight, x);
  check_device("bias", bias, x);
  return check_stencil(weight, bias, x);
}

// The affine view, if there is one, and its gradient.
class CudaView {
 public:
  CudaView(const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
           const FeatureMap& x)
      : scale_(scale), shift_(shift), given_(check_view(scale, shift, x)) {
    check_device("scale", scale, x);
    check_device("shift", shift, x);
  }

  template <class Real>
  const Real* scale() const {
    return in<Real>(scale_);
  }
  template <class Real>
  const Real* shift() const {
    return in<Real>(shift_);
  }

  // d_scale or d_shift.
  Tensor new_gradient(const FeatureMap& x) const {
    if (!given_) return nothing(x, x.acc_dtype());
    return empty(x, std::array{x.n, x.c}, x.acc_dtype());
  }
  // Workspace of both.
  template <class T>
  Tensor new_tiles(const FeatureMap& x) const {
    const int64_t elements = given_ ? view_partials<T>(shape_of(x), x.channels_last) : 0;
    return empty(x, std::array{elements}, x.acc_dtype());
  }

 private:
  std::optional<Tensor> scale_, shift_;
  bool given_;
};

// Where channels are shared out among blocks: their statistics.
template <class T>
Tensor new_partial(const FeatureMap& x) {
  return empty(x, std::array{reduce_partials<T>(shape_of(x), x.channels_last)}, x.acc_dtype());
}

// What is per pixel is read in vectors.
inline Tensor aligned(const Tensor& planes) {
  const bool is_so = reinterpret_cast<std::uintptr_t>(planes.const_data_ptr()) % 16 == 0;
  return is_so ? planes : torch::stable::clone(planes);
}

// map or pooled, as saved by forward.
inline Tensor saved_planes(const char* name, const Tensor& planes, int64_t count,
                           const FeatureMap& x) {
  check_device(name, planes, x);
  check_statistic(planes, x, count);
  return aligned(planes);
}

// A new contiguous tensor (N, planes, H, W).
inline Tensor empty_planes(const FeatureMap& x, int64_t planes, ScalarType dtype) {
  return empty(x, std::array<int64_t, 4>{x.n, planes, x.h, x.w}, dtype);
}

// A map shaped like x, of any strides, laid out as x is.
inline Tensor cuda_map(const char* name, const Tensor& map, const FeatureMap& x) {
  check_device(name, map, x);
  check_same_shape(name, map, x);
  return laid_out_as(map, x);
}

inline std::optional<Tensor> cuda_map(const char* name, const std::optional<Tensor>& map,
                                      const FeatureMap& x) {
  if (!map) return {};
  return cuda_map(name, *map, x);
}

// A gradient (N, planes, H, W), of any strides, contiguous and of the accumulate dtype.
inline Tensor planes_gradient(const char* name, const Tensor& gradient, int64_t planes,
                              const FeatureMap& x) {
  check_device(name, gradient, x);
  return aligned(as_statistic(gradient, x, planes));
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

// What the gradients of all ops with a map take, take on the way and give.
class CudaSpatialGradient {
 public:
  const FeatureMap input;

  CudaSpatialGradient(const Tensor& x, const Tensor& weight, const Tensor& map,
                      const Tensor& pooled, const std::optional<Tensor>& scale,
                      const std::optional<Tensor>& shift)
      : input(cuda_feature_map(x)),
        stencil_(cuda_stencil(weight, {}, input)),
        view_(scale, shift, input),
        launch_(x),
        weight_(weight),
        map_(saved_planes("map", map, 1, input)),
        pooled_(saved_planes("pooled", pooled, 2, input)),
        dx_(empty_like(input)),
        d_scale_(view_.new_gradient(input)),
        d_shift_(view_.new_gradient(input)),
        d_logit_(empty_planes(input, 1, input.acc_dtype())),
        d_pooled_(empty_planes(input, 2, input.acc_dtype())),
        argmax_(empty_planes(input, 1, ScalarType::Int)),
        weights_(new_statistics({weight_partials(shape(), stencil_.k, stencil_.groups)})),
        d_weight_(empty(input, std::array<int64_t, 4>{stencil_.groups, 2, stencil_.k, stencil_.k},
                        input.acc_dtype())),
        d_bias_(new_statistics({stencil_.groups})) {}

  // Calls run(launch, shape, channels_last, SpatialGradient<T>), T being of x's dtype.
  template <class Run>
  void operator()(Run run) const {
    with_dtype(input, [&](auto type) {
      using T = decltype(type);
      using Real = Acc<T>;
      const Tensor partial = new_partial<T>(input), tiles = view_.new_tiles<T>(input);
      run(launch_, shape(), input.channels_last,
          SpatialGradient<T>{in<T>(input.tensor),
                             convolution<Real>(stencil_, weight_, {}),
                             in<Real>(map_),
                             in<Real>(pooled_),
                             view_.scale<Real>(),
                             view_.shift<Real>(),
                             out<Real>(partial),
                             out<Real>(weights_),
                             out<Real>(d_logit_),
                             out<Real>(d_pooled_),
                             out<int>(argmax_),
                             out<T>(dx_),
                             out<Real>(d_weight_),
                             out<Real>(d_bias_),
                             {out<Real>(tiles), out<Real>(d_scale_), out<Real>(d_shift_)}});
    });
  }

  // dx, d_weight, d_bias, d_scale, d_shift
  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> results() const {
    return {dx_, d_weight_, d_bias_, d_scale_, d_shift_};
  }

 private:
  Shape shape() const { return shape_of(input); }
  Tensor new_statistics(std::array<int64_t, 1> elements) const {
    return empty(input, elements, input.acc_dtype());
  }

  Stencil stencil_;
  CudaView view_;
  CudaLaunch launch_;
  Tensor weight_, map_, pooled_, dx_, d_scale_, d_shift_;
  Tensor d_logit_, d_pooled_, argmax_, weights_, d_weight_, d_bias_;
};

}  // namespace attn_kernels
