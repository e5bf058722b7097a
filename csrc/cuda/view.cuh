// The affine view f = scale * x + shift, scale and shift per (image, channel), and what is known
// per pixel, where a thread needs them.
#pragma once

#include "burst.cuh"

namespace attn_kernels {

// One rounding, in every kernel: a maximum found in one is equal to itself in another.
template <class Real, bool kView>
struct View {
  Real scale, shift;
  __device__ Real operator()(Real x) const { return affine(x, scale, shift); }
};
template <class Real>
struct View<Real, false> {
  __device__ Real operator()(Real x) const { return x; }
};

// V neighbours, the first of them aligned as a vector of them or of 16 bytes is.
template <int V, class Value>
__device__ __forceinline__ void load_aligned(const Value* from, Value (&to)[V]) {
  constexpr int kStep = V * sizeof(Value) > 16 ? 16 / sizeof(Value) : V;
#pragma unroll
  for (int i = 0; i < V; i += kStep) {
    const auto vector = load<kStep>(from + i);
#pragma unroll
    for (int s = 0; s < kStep; ++s) to[i + s] = vector.value[s];
  }
}

// V neighbouring pixels' values from a plane of hw, `first` being in [-V, hw): beyond the plane's
// ends it goes on at the other. `aligned`: V divides first and hw.
template <int V, class Value>
__device__ __forceinline__ void load_pixels(const Value* plane, int64_t first, int64_t hw,
                                            bool aligned, Value (&to)[V]) {
  if (aligned) return load_aligned(plane + first, to);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int64_t q = first + i;
    to[i] = plane[q < 0 ? q + hw : (q < hw ? q : q - hw)];
  }
}

}  // namespace attn_kernels
