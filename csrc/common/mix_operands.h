// The maps that mix takes and gives, guarded against direct callers of the ops: on the host side of
// every kernel.
#pragma once

#include <string>
#include <tuple>
#include <vector>

#include "plane_operands.h"

namespace attn_kernels {

// Whether planes, or in channels_last images, are dense: a slice of channels is.
inline bool is_in_place(const Tensor& t, bool channels_last) {
  const int64_t h = t.size(2), w = t.size(3);
  if (channels_last)
    return (t.size(1) == 1 || t.stride(1) == 1) &&
           (h == 1 || w == 1 || t.stride(2) == w * t.stride(3));
  return (w == 1 || t.stride(3) == 1) && (h == 1 || t.stride(2) == w);
}

// The maps of a mix: the parts of some tensors alike.
struct MixOperands {
  int64_t parts;
  FeatureMap like;  // shape and format of one map, dtype and device of all
  std::vector<Tensor> tensors;

  MixOperands(const Tensor& x, int64_t parts) : parts(parts), like(part_of(x, parts)) {}

  // can_read(t, like): where t is; else it is copied.
  template <class CanRead>
  MixOperands(const Tensor& x, std::initializer_list<const std::optional<Tensor>*> others,
              int64_t parts, const CanRead& can_read)
      : MixOperands(x, parts) {
    const auto add = [&](const Tensor& t) {
      check_same_shape("a map", t, all_parts());
      tensors.push_back(can_read(t, like) ? t : torch::stable::contiguous(t, like.format()));
    };
    add(x);
    for (const std::optional<Tensor>* t : others)
      if (*t) add(**t);
  }

  int64_t count() const { return static_cast<int64_t>(tensors.size()) * parts; }

  void check_selection(const Tensor& s) const {
    check_parameter("s", s, like, std::array{like.n, count(), like.c});
  }

  // Of a gradient of `count` tensors.
  void add_results(int64_t count) {
    STD_TORCH_CHECK(1 <= count && count <= 4, "attn_kernels: tensors must be from 1 to 4");
    for (int64_t i = 0; i < count; ++i) tensors.push_back(empty_like(all_parts()));
  }
  std::tuple<Tensor, Tensor, Tensor, Tensor> results() const {
    const auto result = [&](size_t i) {
      return i < tensors.size() ? tensors[i] : per_channel(like, like.dtype(), false);
    };
    return {result(0), result(1), result(2), result(3)};
  }

 private:
  // Formats are those of feature_map, but a slice is no reason for a copy.
  static FeatureMap part_of(const Tensor& x, int64_t parts) {
    STD_TORCH_CHECK(x.dim() == 4 && x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0,
                    "attn_kernels: x must be (N, C, H, W), with C, H and W of at least 1");
    STD_TORCH_CHECK(parts > 0 && x.size(1) % parts == 0,
                    "attn_kernels: parts must divide x's channels");
    const bool last = !x.is_contiguous() && (is_channels_last(x) || is_channels_last_in_part(x));
    return {x, x.size(0), x.size(1) / parts, x.size(2), x.size(3), last};
  }
  FeatureMap all_parts() const {
    return {like.tensor, like.n, like.c * parts, like.h, like.w, like.channels_last};
  }
};

// The parts of x, by s (N, maps, C).
inline int64_t parts_of(const Tensor& x, const Tensor& s) {
  STD_TORCH_CHECK(s.dim() == 3 && s.size(2) > 0 && x.dim() == 4 && x.size(1) % s.size(2) == 0,
                  "attn_kernels: s must be (N, maps, C), where C divides x's channels");
  return x.size(1) / s.size(2);
}

inline void check_selected(const std::optional<Tensor>& dr, const std::optional<Tensor>& s) {
  STD_TORCH_CHECK(dr.has_value() == s.has_value(), "attn_kernels: dr and s come together");
}

}  // namespace attn_kernels
