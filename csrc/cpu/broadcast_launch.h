// The factor of broadcast_gate as its ops are given it.
#pragma once

#include <string>

#include "bands_launch.h"

namespace attn_kernels {

struct FactorOf {
  std::optional<Tensor> a, b;  // kept alive
  bool is_sum;
  Gate gate;
  bool skip;

  FactorOf(const FeatureMap& x, const std::optional<Tensor>& a_any,
           const std::optional<Tensor>& b_any, const std::string& combine, const std::string& name,
           bool skip)
      : a(operand("a", a_any, x)), b(operand("b", b_any, x)), is_sum(combine == "add"), skip(skip) {
    STD_TORCH_CHECK(combine == "mul" || combine == "add",
                    "attn_kernels: combine must be mul or add, got ", combine);
    STD_TORCH_CHECK(name == "identity" || name == "sigmoid" || name == "hardsigmoid",
                    "attn_kernels: gate must be identity, sigmoid or hardsigmoid, got ", name);
    gate = name == "identity"  ? Gate::kIdentity
           : name == "sigmoid" ? Gate::kSigmoid
                               : Gate::kHardSigmoid;
  }

  // Without a second factor the one that changes nothing takes its place.
  template <class A>
  BroadcastFactor<A> of(Bands& bands) const {
    static constexpr A kNeutral[] = {1, 0};
    const Operand<A> neutral{&kNeutral[is_sum ? 1 : 0], {0, 0, 0, 0}};
    return {operand_of<A>(bands, a), b ? operand_of<A>(bands, b) : neutral, is_sum, gate,
            A(skip ? 1 : 0)};
  }
};

}  // namespace attn_kernels
