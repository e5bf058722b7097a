// What the host sides of the ops that see a map as planes share.
#pragma once

#include "../common/plane_operands.h"
#include "host.h"
#include "launch_planes.h"

namespace attn_kernels {

// An optional (n, c) coefficient of the accumulate dtype; null where it is absent.
template <class Real>
const Real* coefficient(const char* name, const std::optional<Tensor>& t, const FeatureMap& x) {
  check_coefficient(name, t, x);
  return in<Real>(t);
}

}  // namespace attn_kernels
