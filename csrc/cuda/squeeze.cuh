// Mean, variance, max and min over the pixels of each plane, any of them, in one look at x.
//
// The variance is merged from parts, each of which knows its deviations from a pixel of its own
// (the pivot): a large mean costs no digits. All means are found without pivots, so that none
// depends on what else is asked for.
#pragma once

#include "../common/squeeze.h"
#include "plane_reduce.cuh"

namespace attn_kernels {

// A sum, and what its additions have rounded off: where terms cancel, that counts.
template <class Real>
struct SumStat {
  Real sum, low;

  static __device__ SumStat combine(const SumStat& a, const SumStat& b) {
    const Real sum = a.sum + b.sum, of_b = sum - a.sum;
    return {sum, a.low + b.low + ((a.sum - (sum - of_b)) + (b.sum - of_b))};
  }
  // inf - inf is not what was rounded off.
  __device__ Real total() const { return low == low ? sum + low : sum; }
};

// Of `count` pixels: the sum of their deviations from the pivot, and of the squares of those from
// their own mean.
template <class Real>
struct MomentStat {
  Real pivot, deviations, squares, count;

  // As Chan et al. have it.
  static __device__ MomentStat combine(const MomentStat& a, const MomentStat& b) {
    if (b.count == 0) return a;
    if (a.count == 0) return b;
    const Real apart = b.pivot - a.pivot;
    const Real delta = apart + (b.deviations / b.count - a.deviations / a.count);
    const Real count = a.count + b.count;
    return {a.pivot, a.deviations + (b.deviations + b.count * apart),
            a.squares + b.squares + delta * delta * a.count * (b.count / count), count};
  }
};

template <class Real>
struct Extreme {
  Real value;
  unsigned at;

  // The larger (or the smaller) of both, NaN being larger and smaller than all; else the first.
  template <bool kLargest>
  static __device__ Extreme combine(Extreme a, Extreme b) {
    const bool b_wins = takes<kLargest>(b.value, a.value);
    const bool tie = !b_wins && !takes<kLargest>(a.value, b.value);
    return b_wins || (tie && b.at < a.at) ? b : a;
  }
};

template <class Real>
struct ExtremeStat {
  Extreme<Real> max, min;
};

template <int>
struct NoStat {};

template <class Real, bool kVar, bool kExtremes>
struct SqueezeStat : SumStat<Real>,
                     std::conditional_t<kVar, MomentStat<Real>, NoStat<0>>,
                     std::conditional_t<kExtremes, ExtremeStat<Real>, NoStat<1>> {};

// Pointers to what is not asked for are null.
template <class Real>
struct Statistics {
  Real *mean, *var, *max, *min;
  int64_t *argmax, *argmin;
};

template <class RealType, bool kVar, bool kExtremes>
struct SqueezeResult {
  using Real = RealType;
  using Stat = SqueezeStat<Real, kVar, kExtremes>;
  static constexpr unsigned kNowhere = ~0u;  // beyond every pixel

  int64_t planes, hw;
  Stat* partial;  // (parts, planes)
  Statistics<Real> to;

  static __device__ Stat none() {
    Stat none;
    none.sum = none.low = 0;
    if constexpr (kVar) static_cast<MomentStat<Real>&>(none) = {0, 0, 0, 0};
    if constexpr (kExtremes) {
      none.max = {Real(-INFINITY), kNowhere};
      none.min = {Real(INFINITY), kNowhere};
    }
    return none;
  }
  static __device__ Stat combine(const Stat& a, const Stat& b) {
    using Moments = MomentStat<Real>;
    Stat both;
    static_cast<SumStat<Real>&>(both) = SumStat<Real>::combine(a, b);
    if constexpr (kVar) static_cast<Moments&>(both) = Moments::combine(a, b);
    if constexpr (kExtremes) {
      both.max = Extreme<Real>::template combine<true>(a.max, b.max);
      both.min = Extreme<Real>::template combine<false>(a.min, b.min);
    }
    return both;
  }
  __device__ void finish(int64_t plane, const Stat& total) const {
    const Real pixels = static_cast<Real>(hw);
    if (to.mean != nullptr) to.mean[plane] = total.total() / pixels;
    if constexpr (kVar) {
      if (to.var != nullptr) to.var[plane] = total.squares / pixels;
    }
    if constexpr (kExtremes) {
      if (to.max != nullptr) to.max[plane] = total.max.value;
      if (to.max != nullptr) to.argmax[plane] = total.max.at;
      if (to.min != nullptr) to.min[plane] = total.min.value;
      if (to.min != nullptr) to.argmin[plane] = total.min.at;
    }
  }
};

// What a thread knows of a plane: sums, which begin at -0 (so the first sum is free) for each burst
// and end in close(); extremes, and in which of its vectors it met them first.
template <class Real, bool kVar>
struct RunningStat {
  Real sum = 0, pivot = 0, deviations = 0, squares = 0;
  Real part, part_deviations, part_squares;
  Real max = Real(-INFINITY), min = Real(INFINITY);
  int argmax = 0, argmin = 0;

  __device__ void open() { part = part_deviations = part_squares = Real(-0.0); }
  __device__ void deviate(Real value) {
    const Real deviation = value - pivot;
    part_deviations += deviation;
    part_squares += deviation * deviation;
  }
  __device__ void close() {
    sum += part;
    if constexpr (kVar) deviations += part_deviations;
    if constexpr (kVar) squares += part_squares;
  }
  // The extremes of vector k; NaN is passed over.
  __device__ void seek(Real largest, Real smallest, int k) {
    if (largest > max) max = largest, argmax = k;
    if (smallest < min) min = smallest, argmin = k;
  }
};

template <class T, bool kVar, bool kExtremes>
struct Squeeze : SqueezeResult<Acc<T>, kVar, kExtremes> {
  using Result = SqueezeResult<Acc<T>, kVar, kExtremes>;
  using Real = Acc<T>;
  using Stat = typename Result::Stat;
  static constexpr int kAhead = kBurst;
  template <int V>
  struct Raw {
    Vector<T, V> x;
  };

  Shape shape;
  PlaneTiling tiling;
  const T* x;

  template <class Visit, int V>
  class Thread {
    static constexpr int kChannels = Visit::kChannels;
    static constexpr bool kVertical = kChannels > 1;  // each element of a vector is a channel's own

   public:
    __device__ Thread(const Squeeze& op, const Visit& visit)
        : op_(op), visit_(visit), first_share_(1 / static_cast<Real>(pixels(kBurst))) {}

    // Not a streaming load: what follows reads x again.
    __device__ Raw<V> load(int first, int u) const {
      const Walk<V, const T> x(op_.x, visit_.at, op_.tiling.step);
      return {attn_kernels::load<V>(x(first, u))};
    }

    template <class Left>
    __device__ void burst(const Raw<V> (&raw)[kBurst], int first, Left left) {
#pragma unroll
      for (auto& of : of_) of.open();
#pragma unroll
      for (int u = 0; u < kBurst; ++u) {
        if (u >= left) break;
        const unsigned elements = visit_.elements_of(first + u);
        Real largest = Real(-INFINITY), smallest = Real(INFINITY);
        Visit::for_elements(elements, [&](int i) {
          const Real value = widen(raw[u].x.value[i]);
          of_[kVertical ? i : 0].part += value;
          largest = kVertical ? value : number_max(largest, value);
          smallest = kVertical ? value : number_min(smallest, value);
          if (kExtremes && kVertical) of_[i].seek(value, value, first + u);
        });
        if (kExtremes && !kVertical) of_[0].seek(largest, smallest, first + u);
      }
      if constexpr (kVar) deviate(raw, first, left);
#pragma unroll
      for (auto& of : of_) of.close();
    }

    // After the last burst.
    __device__ void close() {
      if constexpr (!kExtremes) return;
      bool any_nan = false;
#pragma unroll
      for (const auto& of : of_) any_nan |= of.sum != of.sum;
      if (any_nan) settle();
    }

    __device__ Stat stat(int i) const {
      Stat stat = Result::none();
      if (visit_.count == 0) return stat;
      const auto& of = of_[i];
      stat.sum = of.sum;
      if constexpr (kVar) {
        const Real count = static_cast<Real>(pixels(visit_.count));
        const Real squares = of.squares - of.deviations * (of.deviations / count);
        // NaN stays.
        static_cast<MomentStat<Real>&>(stat) = {of.pivot, of.deviations,
                                                squares < 0 ? Real(0) : squares, count};
      }
      if constexpr (kExtremes) {
        stat.max = {of.max, place(of.argmax, of.max)};
        stat.min = {of.min, place(of.argmin, of.min)};
      }
      return stat;
    }

   private:
    // Of a plane, in this thread's first `vectors` vectors, or in as many as it has.
    __device__ int pixels(int vectors) const {
      const int count = vectors < visit_.count ? vectors : visit_.count;
      if constexpr (kVertical) return count;
      int astray = V - __popc(visit_.elements_of(0));
      if (count == visit_.count && count > 1) astray += V - __popc(visit_.elements_of(count - 1));
      return count * V - astray;
    }
    // The second look at a burst. The pivot is the mean of the thread's first.
    template <class Left>
    __device__ void deviate(const Raw<V> (&raw)[kBurst], int first, Left left) {
#pragma unroll
      for (auto& of : of_) of.pivot = first == 0 ? of.part * first_share_ : of.pivot;
#pragma unroll
      for (int u = 0; u < kBurst; ++u) {
        if (u >= left) break;
        const unsigned elements = visit_.elements_of(first + u);
        Visit::for_elements(
            elements, [&](int i) { of_[kVertical ? i : 0].deviate(widen(raw[u].x.value[i])); });
      }
    }
    // The first vectors with a NaN hold both extremes of its channels.
    __device__ void settle() {
#pragma unroll 1
      for (int k = visit_.count - 1; k >= 0; --k) {
        const unsigned elements = visit_.elements_of(k);
        const auto raw = load(k, 0);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const Real value = widen(raw.x.value[i]);
          auto& of = of_[kVertical ? i : 0];
          if (value == value || !Visit::has(elements, i)) continue;
          of.max = of.min = value;
          of.argmax = of.argmin = k;
        }
      }
    }
    // The pixel that holds `value` in vector k.
    __device__ unsigned place(int k, Real value) const {
      int found = 0;
      if constexpr (!kVertical) {
        const unsigned elements = visit_.elements_of(k);
        const auto raw = load(k, 0);
#pragma unroll
        for (int i = V - 1; i >= 0; --i) {
          const Real at_i = widen(raw.x.value[i]);
          if (Visit::has(elements, i) && if_max(at_i, value, true, false)) found = i;
        }
      }
      return static_cast<unsigned>(visit_.pixel_of(k, found));
    }

    const Squeeze& op_;
    const Visit& visit_;
    RunningStat<Real, kVar> of_[kChannels];
    const Real first_share_;  // of a pixel, in the mean of the first burst
  };
};

}  // namespace attn_kernels
