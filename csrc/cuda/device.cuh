// What the kernels take from their compiler: nvcc, or a C++20 compiler with a stand-in for CUDA.
//
// Everything below is written in plain CUDA, so that the kernels never ask which of both they are
// in.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace attn_kernels {

// The block's dynamic shared memory.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  return reinterpret_cast<T*>(shared_bytes);
}

}  // namespace attn_kernels
#else
#include "cuda_on_cpu.h"
#endif

#include "../common/spatial_gate.h"

namespace attn_kernels {

// The type in which statistics, sums and gradients of T are kept.
template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <class T>
using Acc = typename Accumulator<T>::type;

__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

// The one rounding, at the store.
template <class T>
__device__ __forceinline__ T narrow(Acc<T> value) {
  return value;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// V neighbours in memory, moved by one instruction of up to 16 bytes.
template <class T, int V>
struct alignas(sizeof(T) * V) Vector {
  T value[V];
};

template <int V, class T>
__device__ __forceinline__ void load(const T* from, Acc<T> (&to)[V]) {
  const auto vector = *reinterpret_cast<const Vector<T, V>*>(from);
#pragma unroll
  for (int i = 0; i < V; ++i) to[i] = widen(vector.value[i]);
}

// A streaming store: what it writes is not read again soon, so x keeps its place in the L2 cache.
template <int V, class T>
__device__ __forceinline__ void store_streaming(T* to, const Acc<T> (&from)[V]) {
  Vector<T, V> vector;
#pragma unroll
  for (int i = 0; i < V; ++i) vector.value[i] = narrow<T>(from[i]);
  if constexpr (sizeof(vector) == 16) {
    __stcs(reinterpret_cast<uint4*>(to), *reinterpret_cast<const uint4*>(&vector));
  } else if constexpr (sizeof(vector) == 8) {
    __stcs(reinterpret_cast<uint2*>(to), *reinterpret_cast<const uint2*>(&vector));
  } else {
    *to = vector.value[0];
  }
}

}  // namespace attn_kernels
