// What the kernels take from their compiler: nvcc, or a C++20 compiler with a stand-in for CUDA.
//
// Everything below is written in plain CUDA, so that the kernels never ask which of both they are
// in.
#pragma once

#include <cstdint>
#include <type_traits>

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

// The larger (the smaller) of both that is not NaN: one instruction, where nan_max is three.
__device__ __forceinline__ float number_max(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double number_max(double a, double b) { return fmax(a, b); }
__device__ __forceinline__ float number_min(float a, float b) { return fminf(a, b); }
__device__ __forceinline__ double number_min(double a, double b) { return fmin(a, b); }

// V neighbours in memory, moved by one instruction of up to 16 bytes.
template <class T, int V>
struct alignas(sizeof(T) * V) Vector {
  T value[V];
};

// `value`, of which it is known that it is below `limit`. It keeps the compiler from turning a
// comparison for each element and each turn of an unrolled loop into a register for each.
__device__ __forceinline__ int below(int value, int limit) { return value < limit ? value : limit; }

// The k-th vector from `base` on, `step` vectors apart: one instruction, a product of two numbers
// below 2^32 added to 64 bits.
template <int V, class T>
__device__ __forceinline__ T* stepped(T* base, unsigned k, unsigned step) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  const auto bytes = static_cast<uint64_t>(k * static_cast<unsigned>(V * sizeof(T))) * step;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(base) + bytes);
}

template <int V, class T>
__device__ __forceinline__ Vector<T, V> load(const T* from) {
  return *reinterpret_cast<const Vector<T, V>*>(from);
}

// The integer type that is moved for Bytes bytes at once.
template <int Bytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

// A load of what is not read again soon.
template <int V, class T>
__device__ __forceinline__ Vector<T, V> load_streaming(const T* from) {
  using Raw = typename Word<sizeof(T) * V>::type;
  const Raw raw = __ldcs(reinterpret_cast<const Raw*>(from));
  return *reinterpret_cast<const Vector<T, V>*>(&raw);
}

// A streaming store: what it writes is not read again soon, so x keeps its place in the L2 cache.
template <int V, class T>
__device__ __forceinline__ void store_streaming(T* to, const Acc<T> (&from)[V]) {
  using Raw = typename Word<sizeof(T) * V>::type;
  Vector<T, V> vector;
#pragma unroll
  for (int i = 0; i < V; ++i) vector.value[i] = narrow<T>(from[i]);
  __stcs(reinterpret_cast<Raw*>(to), *reinterpret_cast<const Raw*>(&vector));
}

}  // namespace attn_kernels
