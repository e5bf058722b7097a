// What spatial_gate, spatial_attention and channel_pool take beside x, guarded against direct
// callers of the ops: on the host side of every kernel.
#pragma once

#include <string>

#include "feature_map.h"

namespace attn_kernels {

// A (groups, 2, K, K) weight: image n is served by group n / images_per_group.
struct Stencil {
  int k;
  int64_t groups, images_per_group;
};

inline Stencil check_stencil(const Tensor& weight, const std::optional<Tensor>& bias,
                             const FeatureMap& x) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) == 2 && weight.size(2) == weight.size(3) &&
                      weight.size(2) % 2 == 1 && weight.size(2) <= 15,
                  "attn_kernels: weight must be (G, 2, K, K) with K odd and at most 15");
  const int64_t groups = weight.size(0);
  STD_TORCH_CHECK(groups > 0 ? x.n % groups == 0 : x.n == 0,
                  "attn_kernels: weight must be (G, 2, K, K) with a G that divides N = ", x.n,
                  ", got G = ", groups);
  check_parameter("weight", weight, x,
                  std::array{groups, weight.size(1), weight.size(2), weight.size(3)});
  if (bias) check_parameter("bias", *bias, x, std::array{groups});
  return {static_cast<int>(weight.size(2)), groups, groups > 0 ? x.n / groups : 0};
}

// Whether x is seen through an affine view: scale and shift (N, C) are there, both of them.
inline bool check_view(const std::optional<Tensor>& scale, const std::optional<Tensor>& shift,
                       const FeatureMap& x) {
  STD_TORCH_CHECK(scale.has_value() == shift.has_value(),
                  "attn_kernels: scale and shift must be given both or not at all");
  if (!scale) return false;
  check_parameter("scale", *scale, x, std::array{x.n, x.c});
  check_parameter("shift", *shift, x, std::array{x.n, x.c});
  return true;
}

// Whether the activation is a ReLU.
inline bool check_activation(const std::string& activation) {
  STD_TORCH_CHECK(activation == "identity" || activation == "relu",
                  "attn_kernels: activation must be \"identity\" or \"relu\", got \"", activation,
                  "\"");
  return activation == "relu";
}

// What is not asked for leaves as an empty tensor.
inline Tensor nothing(const FeatureMap& x, ScalarType dtype) {
  return empty(x, std::array<int64_t, 1>{0}, dtype);
}

}  // namespace attn_kernels
