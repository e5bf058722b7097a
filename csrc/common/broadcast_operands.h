// What the ops whose operands broadcast to a map take and give, guarded against direct callers: on
// the host side of every kernel.
#pragma once

#include <string>

#include "broadcast_gate.h"
#include "feature_map.h"

namespace attn_kernels {

using Sizes = std::array<int64_t, 4>;

inline Sizes sizes_of(const Tensor& t) { return {t.size(0), t.size(1), t.size(2), t.size(3)}; }

// A tensor of these sizes in x's memory format.
inline Tensor empty_as(const FeatureMap& x, const Sizes& s, ScalarType dtype) {
  if (!x.channels_last) return empty(x, s, dtype);
  return empty_strided(x, s, std::array{s[3] * s[2] * s[1], int64_t{1}, s[3] * s[1], s[1]}, dtype);
}

// (N, C or 1, H or 1, W or 1) of the accumulate dtype; in x's memory format, if need be a copy.
inline std::optional<Tensor> operand(const char* name, const std::optional<Tensor>& t,
                                     const FeatureMap& x) {
  if (!t) return t;
  const auto fits = [](int64_t size, int64_t map) { return size == 1 || size == map; };
  STD_TORCH_CHECK(on_device_of(x.tensor, *t) && t->scalar_type() == x.acc_dtype() &&
                      t->dim() == 4 && t->size(0) == x.n && fits(t->size(1), x.c) &&
                      fits(t->size(2), x.h) && fits(t->size(3), x.w),
                  "attn_kernels: ", name,
                  " must broadcast to x, with x's N, in the accumulate dtype, on x's device");
  const bool is_so = x.channels_last ? is_channels_last(*t) : t->is_contiguous();
  return is_so ? *t : torch::stable::contiguous(*t, x.format());
}

// The factor of broadcast_gate as its ops are given it.
struct FactorOperands {
  std::optional<Tensor> a, b;  // kept alive
  bool is_sum;
  Gate gate;
  bool skip;

  FactorOperands(const FeatureMap& x, const std::optional<Tensor>& a_any,
                 const std::optional<Tensor>& b_any, const std::string& combine,
                 const std::string& name, bool skip)
      : a(operand("a", a_any, x)), b(operand("b", b_any, x)), is_sum(combine == "add"), skip(skip) {
    STD_TORCH_CHECK(combine == "mul" || combine == "add",
                    "attn_kernels: combine must be mul or add, got ", combine);
    STD_TORCH_CHECK(name == "identity" || name == "sigmoid" || name == "hardsigmoid",
                    "attn_kernels: gate must be identity, sigmoid or hardsigmoid, got ", name);
    gate = name == "identity"  ? Gate::kIdentity
           : name == "sigmoid" ? Gate::kSigmoid
                               : Gate::kHardSigmoid;
  }
};

// The bits of broadcast_squeeze's argument `statistics`.
enum BroadcastStatistic : int64_t { kMeans = 1, kSums = 2, kRows = 4, kColumns = 8, kEvery = 15 };

// Results of broadcast_squeeze, of which some are asked for.
struct BroadcastStatistics {
  int64_t asked_for;

  BroadcastStatistics(int64_t statistics, bool has_weight) : asked_for(statistics) {
    STD_TORCH_CHECK(statistics > 0 && statistics <= kEvery,
                    "attn_kernels: statistics must be the sum of some of 1, 2, 4, 8, got ",
                    statistics);
    STD_TORCH_CHECK(has_weight == wants(kSums),
                    "attn_kernels: weight and the sum over channels come together");
  }

  bool wants(BroadcastStatistic s) const { return (asked_for & s) != 0; }
};

inline void check_broadcast_gradients(bool has_dr, bool has_a, bool has_b, bool has_weight,
                                      bool has_d_sum) {
  STD_TORCH_CHECK(has_dr == has_a && (has_a || !has_b),
                  "attn_kernels: dr and the factors come together");
  STD_TORCH_CHECK(has_weight == has_d_sum, "attn_kernels: weight and d_sum come together");
}

// The groups of self_gate's shuffle.
inline void check_groups(int64_t groups, const FeatureMap& x) {
  STD_TORCH_CHECK(groups > 0 && x.c % groups == 0,
                  "attn_kernels: groups must divide x's channels, got ", groups);
}

}  // namespace attn_kernels
