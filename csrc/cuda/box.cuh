// A place in a box, and what broadcasts to the box there.
#pragma once

#include "box.h"
#include "burst.cuh"

namespace attn_kernels {

struct Place {
  unsigned at[3];

  // The next element.
  __device__ void advance(const unsigned (&size)[3]) {
    if (++at[2] < size[2]) return;
    at[2] = 0;
    if (++at[1] < size[1]) return;
    at[1] = 0;
    ++at[0];
  }
  // So far on, in less than one step of the size before.
  __device__ void advance(const unsigned (&by)[3], const unsigned (&size)[3]) {
    unsigned carry = 0;
#pragma unroll
    for (int d = 2; d > 0; --d) {
      const unsigned step = by[d] + carry;
      carry = at[d] >= size[d] - step ? 1 : 0;
      at[d] = carry != 0 ? at[d] - (size[d] - step) : at[d] + step;
    }
    at[0] += by[0] + carry;
  }
};

template <class Count>
__device__ __forceinline__ Place place_of(Count element, const unsigned (&size)[3]) {
  const Count row = element / size[2];
  return {{static_cast<unsigned>(row / size[1]), static_cast<unsigned>(row % size[1]),
           static_cast<unsigned>(element % size[2])}};
}

__device__ __forceinline__ int64_t offset_of(const int64_t (&stride)[3], const Place& place) {
  return place.at[0] * stride[0] + place.at[1] * stride[1] + place.at[2] * stride[2];
}

// V neighbours of the box, from `place` on, as `from` has them.
template <int V, class Value>
__device__ __forceinline__ Vector<Value, V> load_spread(const Spread<const Value>& from,
                                                        int64_t image, Place place,
                                                        const unsigned (&size)[3]) {
  constexpr int kStep = V * sizeof(Value) > 16 ? 16 / sizeof(Value) : V;
  const Value* data = from.data + image * from.image;
  Vector<Value, V> to;
  if (V > 1 && size[2] - place.at[2] < V) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      to.value[i] = data[offset_of(from.stride, place)];
      if (i + 1 < V) place.advance(size);
    }
    return to;
  }
  data += offset_of(from.stride, place);
  if (from.stride[2] == 0) {
    const Value value = *data;
#pragma unroll
    for (int i = 0; i < V; ++i) to.value[i] = value;
  } else if (from.stride[2] == 1 &&
             reinterpret_cast<std::uintptr_t>(data) % (kStep * sizeof(Value)) == 0) {
#pragma unroll
    for (int i = 0; i < V; i += kStep) {
      const auto vector = load<kStep>(data + i);
#pragma unroll
      for (int s = 0; s < kStep; ++s) to.value[i + s] = vector.value[s];
    }
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) to.value[i] = data[i * from.stride[2]];
  }
  return to;
}

// And to where `to` has them, rounded.
template <int V, class T>
__device__ __forceinline__ void store_spread(const Spread<T>& to, int64_t image, Place place,
                                             const unsigned (&size)[3], const Acc<T> (&from)[V]) {
  T* data = to.data + image * to.image;
  T* first = data + offset_of(to.stride, place);
  const bool whole = size[2] - place.at[2] >= V && to.stride[2] == 1 &&
                     reinterpret_cast<std::uintptr_t>(first) % (V * sizeof(T)) == 0;
  if (whole) return store_streaming(first, from);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    data[offset_of(to.stride, place)] = narrow<T>(from[i]);
    if (i + 1 < V) place.advance(size);
  }
}

// What a thread of a stream visits: `count` vectors, blockDim.x apart.
template <int V>
struct BoxVisit {
  int64_t image;
  int64_t at;   // the first vector, in the map
  Place place;  // of its first element, in the image
  int count;

  __device__ BoxVisit(const Box& box, const BoxStream& stream, unsigned item) {
    image = item / stream.tiles;
    const int64_t begin = int64_t{item % stream.tiles} * stream.threads * stream.steps;
    const int64_t first = begin + threadIdx.x, most = begin + stream.threads * stream.steps;
    const int64_t end = most < stream.vectors ? most : stream.vectors;
    count = first < end ? static_cast<int>((end - first + stream.threads - 1) / stream.threads) : 0;
    const int64_t element = first * V, few = int64_t{1} << 32;  // which are soon divided
    place = element < few ? place_of(static_cast<unsigned>(element), box.size)
                          : place_of(static_cast<uint64_t>(element), box.size);
    at = image * stream.vectors * V + element;
  }
};

// What a burst has brought, in shared memory: there a loop finds it that is not unrolled, as one
// with much to do for each vector should not be. Each thread has places of its own.
template <class T, int V>
class Staged {
 public:
  __device__ Vector<T, V>& operator()(int map, int u) const {
    return dynamic_shared<Vector<T, V>>()[(map * kBurst + u) * blockDim.x + threadIdx.x];
  }
};

// Of the shared memory of so many maps.
template <class T, int V>
constexpr int64_t staged_bytes(int maps, int threads) {
  return int64_t{maps} * kBurst * threads * static_cast<int64_t>(sizeof(T)) * V;
}

}  // namespace attn_kernels
