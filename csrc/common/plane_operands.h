// What squeeze and affine_gate take and give beside maps, guarded against direct callers of the
// ops: on the host side of every kernel.
#pragma once

#include "feature_map.h"
#include "squeeze.h"

namespace attn_kernels {

// An (n, c) result, or an empty one where it is not asked for.
inline Tensor per_channel(const FeatureMap& x, ScalarType dtype, bool asked_for = true) {
  return asked_for ? empty(x, std::array{x.n, x.c}, dtype)
                   : empty(x, std::array<int64_t, 1>{0}, dtype);
}

// The statistics asked for.
inline void check_statistics(int64_t statistics) {
  STD_TORCH_CHECK(statistics > 0 && statistics <= kAllStatistics,
                  "attn_kernels: statistics must be the sum of some of 1, 2, 4, 8, got ",
                  statistics);
}

// Results of squeeze, of which some are asked for.
struct StatisticsResults {
  int64_t statistics;
  Tensor mean, var, max, min, argmax, argmin;

  StatisticsResults(const FeatureMap& x, int64_t statistics)
      : statistics(statistics),
        mean(per_channel(x, x.acc_dtype(), wants(kMean))),
        var(per_channel(x, x.acc_dtype(), wants(kVar))),
        max(per_channel(x, x.acc_dtype(), wants(kMax))),
        min(per_channel(x, x.acc_dtype(), wants(kMin))),
        argmax(per_channel(x, ScalarType::Long, wants(kMax))),
        argmin(per_channel(x, ScalarType::Long, wants(kMin))) {}

  bool wants(Statistic statistic) const { return (statistics & statistic) != 0; }
};

// An optional (n, c) coefficient of the accumulate dtype.
inline void check_coefficient(const char* name, const std::optional<Tensor>& t,
                              const FeatureMap& x) {
  if (t) check_parameter(name, *t, x, std::array{x.n, x.c});
}

// The places of an extreme, which come together with its gradient.
inline void check_extreme(const char* name, const std::optional<Tensor>& at,
                          const std::optional<Tensor>& gradient, const FeatureMap& x) {
  STD_TORCH_CHECK(at.has_value() == gradient.has_value(), "attn_kernels: ", name,
                  " and its gradient come together");
  check_coefficient("the gradient of an extreme", gradient, x);
  STD_TORCH_CHECK(
      !at || (on_device_of(x.tensor, *at) && at->scalar_type() == ScalarType::Long &&
              at->is_contiguous() && at->dim() == 2 && at->size(0) == x.n && at->size(1) == x.c),
      "attn_kernels: ", name, " must be (N, C), contiguous, int64 and on the device of x");
}

}  // namespace attn_kernels
