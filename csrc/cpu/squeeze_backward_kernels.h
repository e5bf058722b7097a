// The one pass that brings the gradients of statistics, and the gate's, back to the map.
#pragma once

#include "planes_kernels.h"

namespace attn_kernels::ATTN_ISA {

template <class T, bool kGate, bool kSlope>
class SqueezeBackwardTask {
  using A = acc_t<T>;
  using V = Vec<A>;

 public:
  explicit SqueezeBackwardTask(const SqueezeBackward<T>& args) : a_(args), p_(args.planes) {}

  void run(int64_t task) const {
    walk_task<T>(p_, task, {a_.scale, a_.slope, a_.offset},
                 [&](int64_t at, const auto& k, auto lanes) { put(at, k[0], k[1], k[2], lanes); });
    if (a_.argmax == nullptr && a_.argmin == nullptr) return;
    if (!p_.channels_last) return put_extremes(task, 0, p_.pixels);
    const PlaneBlock t = plane_block(p_, task);
    for (int64_t c = 0; c < t.channels; ++c)
      put_extremes(t.n * p_.c + t.channel + c, t.begin, t.end);
  }

 private:
  template <class Lanes>
  ATTN_INLINE void put(int64_t at, V scale, V slope, V offset, Lanes lanes) const {
    V dx = offset;
    if constexpr (kSlope) dx = affine(load_lanes(a_.x + at, lanes), slope, dx, VectorFma{});
    if constexpr (kGate) dx = affine(load_lanes(a_.dr + at, lanes), scale, dx, VectorFma{});
    store_lanes(a_.dx + at, dx, lanes);
  }

  // The few elements that held an extreme once more, with its gradient added before the rounding.
  // Places outside of the task's pixels are another task's, or nobody's.
  void put_extremes(int64_t nc, int64_t begin, int64_t end) const {
    const int64_t max_at = a_.argmax != nullptr ? a_.argmax[nc] : -1;
    const int64_t min_at = a_.argmin != nullptr ? a_.argmin[nc] : -1;
    const auto within = [&](int64_t pixel) { return begin <= pixel && pixel < end; };
    if (within(max_at))
      put_pixel(nc, max_at, a_.d_max[nc] + (min_at == max_at ? a_.d_min[nc] : A(0)));
    if (within(min_at) && min_at != max_at) put_pixel(nc, min_at, a_.d_min[nc]);
  }

  void put_pixel(int64_t nc, int64_t pixel, A gradient) const {
    const auto value = [&](const A* k) { return k != nullptr ? k[nc] : A(0); };
    const int64_t n = nc / p_.c, c = nc % p_.c;
    const int64_t at =
        p_.channels_last ? (n * p_.pixels + pixel) * p_.c + c : nc * p_.pixels + pixel;
    put(at, broadcast(value(a_.scale)), broadcast(value(a_.slope)),
        broadcast(value(a_.offset) + gradient), int64_t{1});
  }

  const SqueezeBackward<T>& a_;
  const Planes& p_;
};

template <class T, bool kGate, bool kSlope>
void squeeze_backward_tasks(const SqueezeBackward<T>& a, int64_t begin, int64_t end) {
  const SqueezeBackwardTask<T, kGate, kSlope> backward(a);
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
