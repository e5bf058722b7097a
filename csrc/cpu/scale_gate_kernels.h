// y = x * sigmoid(a * scale[c] + shift[c]) on the CPU: one pass, element by element.
#pragma once

#include <algorithm>

#include "../common/spatial_gate.h"
#include "simd.h"

namespace attn_kernels::ATTN_ISA {

// What one vector of elements goes through, whatever the memory format.
template <class T>
struct ScaleGateStep {
  using V = Vec<acc_t<T>>;

  template <class Lanes>
  static ATTN_INLINE void forward(const ScaleGate<T>& a, int64_t at, V scale, V shift,
                                  Lanes lanes) {
    const V gate = sigmoid(load_lanes(a.a + at, lanes) * scale + shift, VectorExp{});
    store_lanes(a.y + at, load_lanes(a.x + at, lanes) * gate, lanes);
  }

  // Missing lanes add nothing to the sums, whatever zeros become with an infinite scale.
  template <class Lanes>
  static ATTN_INLINE void backward(const ScaleGateBackward<T>& g, int64_t at, V scale, V shift,
                                   V& d_scale, V& d_shift, Lanes lanes) {
    const V dy = load_lanes(g.dy + at, lanes), a = load_lanes(g.a + at, lanes);
    const V gate = sigmoid(a * scale + shift, VectorExp{});
    const V d_logit = fill_missing<acc_t<T>>(
        sigmoid_backward(dy * load_lanes(g.x + at, lanes), gate), V{}, lanes);
    store_lanes(g.dx + at, dy * gate, lanes);
    store_lanes(g.da + at, d_logit * scale, lanes);
    d_scale += d_logit * a;
    d_shift += d_logit;
  }
};

// A task is the plane of one channel of one image.
template <class T>
void scale_gate_planes(const ScaleGate<T>& a, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const ScaleGateProblem& p = a.problem;
  for (int64_t plane = begin; plane < end; ++plane) {
    const Vec<A> scale = broadcast(a.scale[plane % p.c]), shift = broadcast(a.shift[plane % p.c]);
    for_each_vector<A>(p.pixels, [&](int64_t i, auto lanes) {
      ScaleGateStep<T>::forward(a, plane * p.pixels + i, scale, shift, lanes);
    });
  }
}

// A task is one unit of pixels.
template <class T>
void scale_gate_units(const ScaleGate<T>& a, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const ScaleGateProblem& p = a.problem;
  const int64_t last = std::min(end * kScaleGatePixels, p.pixels);
  for (int64_t pixel = begin * kScaleGatePixels; pixel < last; ++pixel) {
    for_each_vector<A>(p.c, [&](int64_t c, auto lanes) {
      ScaleGateStep<T>::forward(a, pixel * p.c + c, load_lanes(a.scale + c, lanes),
                                load_lanes(a.shift + c, lanes), lanes);
    });
  }
}

template <class T>
void scale_gate(const ScaleGate<T>& a, int64_t begin, int64_t end) {
  a.problem.pixels_outermost ? scale_gate_units(a, begin, end) : scale_gate_planes(a, begin, end);
}

// Sums over a plane: of a few vectors, of a few of those, and of these in double.
template <class T>
void scale_gate_backward_planes(const ScaleGateBackward<T>& g, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  constexpr int64_t kPart = kVectorsPerSum * kLanes<A>, kBlock = kVectorsPerSum * kPart;
  const ScaleGateProblem& p = g.problem;
  for (int64_t plane = begin; plane < end; ++plane) {
    const int64_t c = plane % p.c;
    const Vec<A> scale = broadcast(g.scale[c]), shift = broadcast(g.shift[c]);
    double d_scale = 0, d_shift = 0;
    for (int64_t block = 0; block < p.pixels; block += kBlock) {
      Vec<A> scale_block{}, shift_block{};
      const int64_t block_end = std::min(block + kBlock, p.pixels);
      for (int64_t part = block; part < block_end; part += kPart) {
        Vec<A> scale_part{}, shift_part{};
        for_each_vector<A>(std::min(kPart, block_end - part), [&](int64_t i, auto lanes) {
          ScaleGateStep<T>::backward(g, plane * p.pixels + part + i, scale, shift, scale_part,
                                     shift_part, lanes);
        });
        scale_block += scale_part;
        shift_block += shift_part;
      }
      d_scale += sum_of_lanes<A>(scale_block);
      d_shift += sum_of_lanes<A>(shift_block);
    }
    A* partial = g.partials + plane / p.c * 2 * p.c + c;
    partial[0] = static_cast<A>(d_scale);
    partial[p.c] = static_cast<A>(d_shift);
  }
}

template <class T>
void scale_gate_backward_units(const ScaleGateBackward<T>& g, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const ScaleGateProblem& p = g.problem;
  for (int64_t unit = begin; unit < end; ++unit) {
    A *d_scale = g.partials + unit * 2 * p.c, *d_shift = d_scale + p.c;
    std::fill_n(d_scale, 2 * p.c, A(0));
    const int64_t last = std::min((unit + 1) * kScaleGatePixels, p.pixels);
    for (int64_t pixel = unit * kScaleGatePixels; pixel < last; ++pixel) {
      for_each_vector<A>(p.c, [&](int64_t c, auto lanes) {
        Vec<A> scale_sum = load_lanes(d_scale + c, lanes);
        Vec<A> shift_sum = load_lanes(d_shift + c, lanes);
        ScaleGateStep<T>::backward(g, pixel * p.c + c, load_lanes(g.scale + c, lanes),
                                   load_lanes(g.shift + c, lanes), scale_sum, shift_sum, lanes);
        store_lanes(d_scale + c, scale_sum, lanes);
        store_lanes(d_shift + c, shift_sum, lanes);
      });
    }
  }
}

template <class T>
void scale_gate_backward(const ScaleGateBackward<T>& g, int64_t begin, int64_t end) {
  g.problem.pixels_outermost ? scale_gate_backward_units(g, begin, end)
                             : scale_gate_backward_planes(g, begin, end);
}

}  // namespace attn_kernels::ATTN_ISA
