// What the host sides of the ops whose operands broadcast to a map share.
#pragma once

#include "../common/broadcast_operands.h"
#include "host_planes.h"
#include "launch_box.h"

namespace attn_kernels {

// With its workspace.
template <class Op, class Real>
void run_sums(const CudaLaunch& launch, const FeatureMap& x, const Op& op,
              std::initializer_list<const typename Op::Element*> tensors,
              const BoxResults<Real>& results) {
  const Tensor partial = empty(x, std::array{box_sum_partials<Op>(op.box, results)}, x.acc_dtype());
  sum_box(launch, op, tensors, results, out<Real>(partial));
}

// Sizes without the batch's, in the order of memory.
inline Extents extents_of(const Sizes& size, const FeatureMap& x) {
  return in_memory_order(x.channels_last, size[1], size[2], size[3]);
}

template <class Real>
Spread<const Real> spread_of(const std::optional<Tensor>& t, const FeatureMap& x) {
  if (!t) return {};
  return spread_of(in<Real>(*t), extents_of(sizes_of(*t), x));
}

template <class Real>
BroadcastFactor<Real> cuda_factor(const FactorOperands& of, const FeatureMap& x) {
  return {spread_of<Real>(of.a, x), spread_of<Real>(of.b, x), of.is_sum, of.gate};
}

}  // namespace attn_kernels
