// The one pass that brings the gradients of statistics, and the gate's, back to the map.
#pragma once

#include "buffer.h"
#include "planes_kernels.h"

namespace attn_kernels::ATTN_ISA {

template <class T, bool kGate, bool kSlope>
class SqueezeBackwardTask {
  using A = acc_t<T>;
  using V = Vec<A>;

 public:
  explicit SqueezeBackwardTask(const SqueezeBackward<T>& args)
      : a_(args), p_(args.planes), held_(make_buffer<T>(2 * p_.channel_block)) {}

  void run(int64_t task) {
    const Range range = range_of(task);
    // dx may be dr: the few elements that hold an extreme are computed before all are written.
    for_each_extreme(range, [&](int64_t i, int64_t nc, int64_t at, A gradient) {
      const auto k = [&](const A* from, A more = 0) {
        return broadcast((from != nullptr ? from[nc] : A(0)) + more);
      };
      store_lanes(&held_[i], dx(at, k(a_.scale), k(a_.slope), k(a_.offset, gradient), int64_t{1}),
                  int64_t{1});
    });
    walk_task<T>(p_, task, {a_.scale, a_.slope, a_.offset},
                 [&](int64_t at, const auto& k, auto lanes) {
                   store_lanes(a_.dx + at, dx(at, k[0], k[1], k[2], lanes), lanes);
                 });
    for_each_extreme(range, [&](int64_t i, int64_t, int64_t at, A) { a_.dx[at] = held_[i]; });
  }

 private:
  // Channels [first, first + channels), of all images, and pixels [begin, end) of a task.
  struct Range {
    int64_t first, channels, begin, end;
  };

  Range range_of(int64_t task) const {
    if (!p_.channels_last) return {task, 1, 0, p_.pixels};
    const PlaneBlock t = plane_block(p_, task);
    return {t.n * p_.c + t.channel, t.channels, t.begin, t.end};
  }

  template <class Lanes>
  ATTN_INLINE V dx(int64_t at, V scale, V slope, V offset, Lanes lanes) const {
    V dx = offset;
    if constexpr (kSlope) dx = affine(load_lanes(a_.x + at, lanes), slope, dx, VectorFma{});
    if constexpr (kGate) dx = affine(load_lanes(a_.dr + at, lanes), scale, dx, VectorFma{});
    return dx;
  }

  // fn(i, channel, element, gradient) for the elements that hold an extreme, of the i-th place.
  // Places outside of the task's pixels are another task's, or nobody's.
  template <class Fn>
  void for_each_extreme(const Range& range, const Fn& fn) const {
    if (a_.argmax == nullptr && a_.argmin == nullptr) return;
    const auto within = [&](int64_t pixel) { return range.begin <= pixel && pixel < range.end; };
    for (int64_t i = 0; i < range.channels; ++i) {
      const int64_t nc = range.first + i;
      const int64_t max_at = a_.argmax != nullptr ? a_.argmax[nc] : -1;
      const int64_t min_at = a_.argmin != nullptr ? a_.argmin[nc] : -1;
      if (within(max_at))
        fn(2 * i, nc, element(nc, max_at), a_.d_max[nc] + (min_at == max_at ? a_.d_min[nc] : A(0)));
      if (within(min_at) && min_at != max_at) fn(2 * i + 1, nc, element(nc, min_at), a_.d_min[nc]);
    }
  }

  int64_t element(int64_t nc, int64_t pixel) const {
    const int64_t n = nc / p_.c, c = nc % p_.c;
    return p_.channels_last ? (n * p_.pixels + pixel) * p_.c + c : nc * p_.pixels + pixel;
  }

  const SqueezeBackward<T>& a_;
  const Planes& p_;
  Buffer<T> held_;
};

template <class T, bool kGate, bool kSlope>
void squeeze_backward_tasks(const SqueezeBackward<T>& a, int64_t begin, int64_t end) {
  SqueezeBackwardTask<T, kGate, kSlope> backward(a);
  for (int64_t task = begin; task < end; ++task) backward.run(task);
}

template <class T>
void squeeze_backward(const SqueezeBackward<T>& a, int64_t begin, int64_t end) {
  if (a.dr != nullptr) {
    a.slope != nullptr ? squeeze_backward_tasks<T, true, true>(a, begin, end)
                       : squeeze_backward_tasks<T, true, false>(a, begin, end);
  } else {
    a.slope != nullptr ? squeeze_backward_tasks<T, false, true>(a, begin, end)
                       : squeeze_backward_tasks<T, false, false>(a, begin, end);
  }
}

}  // namespace attn_kernels::ATTN_ISA
