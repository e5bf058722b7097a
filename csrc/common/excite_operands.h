// What squeeze_excite takes beside x, guarded against direct callers of the ops: on the host side
// of every kernel.
#pragma once

#include <string>

#include "excite.h"
#include "feature_map.h"

namespace attn_kernels {

// R, the hidden units: w1 is (R, C, 1, 1), w2 (C, R, 1, 1).
inline int64_t check_excite_weights(const Tensor& w1, const Tensor& w2, const FeatureMap& x) {
  const int64_t r = w1.dim() == 4 ? w1.size(0) : 0;
  STD_TORCH_CHECK(r > 0, "attn_kernels: w1 must be (R, C, 1, 1) with R of at least 1");
  check_parameter("w1", w1, x, std::array<int64_t, 4>{r, x.c, 1, 1});
  check_parameter("w2", w2, x, std::array<int64_t, 4>{x.c, r, 1, 1});
  return r;
}

inline ExciteActivation check_excite_activation(const std::string& activation) {
  if (activation == "identity") return ExciteActivation::kIdentity;
  if (activation == "relu") return ExciteActivation::kRelu;
  STD_TORCH_CHECK(activation == "silu",
                  "attn_kernels: activation must be \"identity\", \"relu\" or \"silu\", got \"",
                  activation, "\"");
  return ExciteActivation::kSilu;
}

inline ExciteGate check_excite_gate(const std::string& gate) {
  if (gate == "sigmoid") return ExciteGate::kSigmoid;
  STD_TORCH_CHECK(gate == "hardsigmoid",
                  "attn_kernels: gate must be \"sigmoid\" or \"hardsigmoid\", got \"", gate, "\"");
  return ExciteGate::kHardsigmoid;
}

}  // namespace attn_kernels
