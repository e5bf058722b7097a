// Loads in bursts: a thread asks for kBurst vectors, or for fewer of each of several tensors,
// before it uses the first, since memory answers late and a loop of single loads would wait for
// each.
#pragma once

#include "device.cuh"
#include "tiling.h"

namespace attn_kernels {

// Every second kernel takes its items in reverse: what the one before touched last is still in L2.
__device__ __forceinline__ unsigned item_in_reverse() { return gridDim.x - 1 - blockIdx.x; }

template <int V>
struct Int {
  static constexpr int value = V;
  constexpr __device__ operator int() const { return V; }
};

// Calls body(first, left) for the vectors [first, first + left) of `count`; left is Int<kVectors>,
// or fewer in the last call.
template <int kVectors = kBurst, class Body>
__device__ __forceinline__ void for_bursts(int count, Body body) {
  int first = 0;
#pragma unroll 1
  for (const int last = count - kVectors; first <= last; first += kVectors) {
    body(first, Int<kVectors>());
  }
  if (first < count) body(first, count - first);
}

// The same with the last vectors first: where the lowest channel wins, it has the last word.
template <class Body>
__device__ __forceinline__ void for_bursts_in_reverse(int count, Body body) {
  int first = count;
#pragma unroll 1
  while (first >= kBurst) {
    first -= kBurst;
    body(first, Int<kBurst>());
  }
  if (first > 0) body(0, first);
}

// The u-th vector of a burst; its first where there is none, so that every load of a burst is in
// bounds and none waits for a test.
template <class Left>
__device__ __forceinline__ int within(int u, Left left) {
  return u < static_cast<int>(left) ? u : 0;
}

// A tensor as a thread goes through it, in vectors that are `step` apart. Where that is an argument
// of the kernel, a reference to it takes no register.
template <int V, class T, class Step = const unsigned&>
class Walk {
 public:
  // Null, where there is no tensor, stays null.
  __device__ Walk(T* tensor, int64_t at, Step step)
      : first_(tensor != nullptr ? tensor + at : nullptr), step_(step) {}
  // Vector u of the burst that begins with vector `first`.
  __device__ T* operator()(int first, int u) const {
    return stepped<V>(stepped<V>(first_, first, step_), u, step_);
  }

 private:
  T* first_;
  Step step_;
};

}  // namespace attn_kernels
