// Host side shared by the ops whose operands broadcast to the map.
#pragma once

#include <utility>
#include <vector>

#include "../common/broadcast_operands.h"
#include "bands.h"
#include "launch.h"

namespace attn_kernels {

// Enough tasks for any machine: what is added up does not depend on the number of threads. In NCHW
// a task has whole planes, one after the other in memory, but where channels are summed up: there
// it has all channels of few pixels, whose sums stay in the cache.
inline Bands make_bands(const FeatureMap& x, bool sums_channels = false) {
  constexpr int64_t kTasks = 16, kPixels = 2048, kMultiple = 4;
  Bands b{x.n, x.c, x.h, x.w, pixels_outermost(x), false, x.h, x.c};
  const auto parts = [](int64_t size, int64_t count) {
    const int64_t part = (size + count - 1) / count;
    return (part + kMultiple - 1) / kMultiple * kMultiple;
  };
  const int64_t of_image = (kTasks + std::max<int64_t>(x.n, 1) - 1) / std::max<int64_t>(x.n, 1);
  if (b.channels_last)
    b.rows = (x.h + of_image - 1) / of_image;
  else if (sums_channels)
    b.rows = parts(x.h, std::max(of_image, (x.h * x.w + kPixels - 1) / kPixels));
  else
    b.channels = parts(x.c, of_image);
  return b;
}

// The strides of an operand of these sizes in the format of `b`. Along what the map itself has one
// of, any will do: one that lets runs go on.
inline Broadcast broadcast_strides(const Bands& b, const Sizes& s) {
  const bool last = b.channels_last;
  const auto of = [](int64_t size, int64_t map, int64_t stride) {
    return size == 1 && map > 1 ? 0 : stride;
  };
  Broadcast to{s[1] * s[2] * s[3], of(s[1], b.c, last ? 1 : s[2] * s[3]),
               of(s[2], b.h, last ? s[3] * s[1] : s[3]), of(s[3], b.w, last ? s[1] : 1)};
  if (b.w == 1) to.w = to.h;
  if (b.h == 1) to.h = b.w * to.w;
  return to;
}

// What broadcasts to the map of `b`: its strides, for whose sake runs may have to end with rows.
inline Broadcast joined(Bands& b, const Sizes& sizes) {
  const Broadcast stride = broadcast_strides(b, sizes);
  b.by_rows = b.by_rows || (!b.channels_last && !stride.runs_on(b.w));
  return stride;
}

template <class A>
Operand<A> operand_of(Bands& b, const std::optional<Tensor>& t) {
  if (!t) return {nullptr, {0, 0, 0, 0}};
  return {data<A>(*t), joined(b, sizes_of(*t))};
}

// A result that is summed over what broadcasts: in double, band by band, and then all bands.
class SumsOf {
 public:
  SumsOf(const FeatureMap& x, Bands& b, const Sizes& sizes, bool asked_for = true)
      : SumsOf(x, b, sizes, asked_for,
               asked_for ? empty_as(x, sizes, x.acc_dtype())
                         : empty(x, std::array<int64_t, 1>{0}, x.acc_dtype())) {}
  SumsOf(const FeatureMap& x, Bands& b, const Sizes& sizes, bool asked_for, Tensor to)
      : result(std::move(to)),
        is_double_(x.dtype() == ScalarType::Double),
        size_(asked_for ? sizes[0] * sizes[1] * sizes[2] * sizes[3] : 0) {
    if (!asked_for) return;
    stride_ = joined(b, sizes);
    bands_ = sizes[2] == 1 ? b.bands() : 1;
    sums_.resize(static_cast<size_t>(bands_ * size_));
  }

  Sums to() { return {size_ == 0 ? nullptr : sums_.data(), stride_, bands_ > 1 ? size_ : 0}; }

  // What was summed, each value times `share`.
  void finish(double share = 1) const { is_double_ ? put<double>(share) : put<float>(share); }

  const Tensor result;

 private:
  template <class A>
  void put(double share) const {
    constexpr int64_t kPerThread = 1 << 14;
    A* to = data<A>(result);
    torch::stable::parallel_for(0, size_, kPerThread, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        double sum = 0;
        for (int64_t band = 0; band < bands_; ++band) sum += sums_[band * size_ + i];
        to[i] = static_cast<A>(sum * share);
      }
    });
  }

  bool is_double_;
  int64_t size_, bands_ = 1;
  Broadcast stride_{0, 0, 0, 0};
  std::vector<double> sums_;
};

// Sums over the pixels of each channel, (n, c).
inline SumsOf channel_sums(const FeatureMap& x, Bands& b) {
  return SumsOf(x, b, {x.n, x.c, 1, 1}, true, empty(x, std::array{x.n, x.c}, x.acc_dtype()));
}

// kernel(args, begin, end) over all tasks, in as many threads as the work is worth.
template <class Args>
void run_bands(void (*kernel)(const Args&, int64_t, int64_t), const Args& args) {
  constexpr int64_t kElementsPerThread = 1 << 14;
  const Bands& b = args.bands;
  torch::stable::parallel_for(0, b.tasks(), kElementsPerThread / (b.channels * b.rows * b.w) + 1,
                              [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

}  // namespace attn_kernels
