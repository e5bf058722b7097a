// The factor of broadcast_gate as the CPU kernels take it.
#pragma once

#include "bands_launch.h"

namespace attn_kernels {

// Without a second factor the one that changes nothing takes its place.
template <class A>
BroadcastFactor<A> factor_of(Bands& bands, const FactorOperands& of) {
  static constexpr A kNeutral[] = {1, 0};
  const Operand<A> neutral{&kNeutral[of.is_sum ? 1 : 0], {0, 0, 0, 0}};
  return {operand_of<A>(bands, of.a), of.b ? operand_of<A>(bands, of.b) : neutral, of.is_sum,
          of.gate, A(of.skip ? 1 : 0)};
}

}  // namespace attn_kernels
