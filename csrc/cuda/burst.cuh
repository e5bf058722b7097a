// Loads in bursts: a thread asks for kBurst vectors before it uses the first, since memory answers
// late and a loop of single loads would wait for each.
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

// Calls body(first, left) for the vectors [first, first + left) of `count`; left is Int<kBurst>, or
// fewer in the last call.
template <class Body>
__device__ __forceinline__ void for_bursts(int count, Body body) {
  int first = 0;
#pragma unroll 1
  for (const int last = count - kBurst; first <= last; first += kBurst) body(first, Int<kBurst>());
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

}  // namespace attn_kernels
