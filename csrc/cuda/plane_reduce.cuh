// What is summed or sought over the pixels of each plane: one walk over x for every such op.
//
// A Result holds what a plane ends in, and the pointers for it:
//   Stat, none(), combine(a, b)     what is known of some pixels; of no pixel; of two sets of them
//   finish(plane, stat)             writes what is known of a plane from all of its pixels
// An Op is a Result with shape, tiling and what is read, and says
//   kAhead, Raw<V>                  vectors in a burst; a vector of everything that is read
//   Thread<Visit, V>                what a thread knows of its plane, or of its V channels:
//     Thread(op, visit), load(first, u)   the vector `first` + u steps on
//     burst(raw, first, left), close(), stat(i)
#pragma once

#include "burst.cuh"
#include "plane_tiling.h"

namespace attn_kernels {

// What a thread visits: `count` vectors, `step` apart.
template <bool kChannelsLast, int V, bool kStraddles>
struct PlaneVisit {
  static constexpr int kChannels = kChannelsLast ? V : 1;  // of which a thread finds something
  static constexpr unsigned kAllElements = (1u << V) - 1;

  int64_t at;     // the first vector, in a tensor shaped like x
  int64_t plane;  // or the first of V planes
  int64_t pixel;  // of the first vector's first element; negative where the plane begins later
  int pixel_step;
  int count;
  unsigned last_elements = kAllElements;  // those of the last vector, as bits

  __device__ PlaneVisit(const Shape& shape, const PlaneTiling& tiling, unsigned block) {
    const int lane = threadIdx.x % tiling.lanes, slot = threadIdx.x / tiling.lanes;
    const unsigned place = block / tiling.chunks;
    const int64_t part = place % tiling.parts, outer = place / tiling.parts;
    const int64_t begin = part * tiling.tile;
    if constexpr (kChannelsLast) {
      const int channel = (block % tiling.chunks * tiling.lanes + lane) * V;
      pixel = begin + slot;
      pixel_step = tiling.slots;
      count = channel < shape.c ? steps(pixel, begin + tiling.tile, shape.hw, tiling.slots) : 0;
      at = (outer * shape.hw + pixel) * shape.c + channel;
      plane = outer * shape.c + channel;
    } else {
      plane = outer * tiling.slots + slot;
      const int64_t start = plane * shape.hw;
      const int astray = kStraddles ? static_cast<int>(start % V) : 0;
      const int64_t first = begin + lane, vectors = (shape.hw + astray + V - 1) / V;
      pixel = first * V - astray;
      pixel_step = tiling.lanes * V;
      count =
          plane < shape.n * shape.c ? steps(first, begin + tiling.tile, vectors, tiling.lanes) : 0;
      at = start + pixel;
      if (!kStraddles || count == 0) return;
      const int64_t left = shape.hw - pixel_of(count - 1, 0);
      if (left < V) last_elements = (1u << left) - 1;
    }
  }

  // Of element i of the k-th vector.
  __device__ int64_t pixel_of(int k, int i) const {
    return pixel + int64_t{k} * pixel_step + (kChannelsLast ? 0 : i);
  }

  // Which elements of the k-th vector are the plane's, as bits.
  __device__ unsigned elements_of(int k) const {
    if constexpr (!kStraddles) return kAllElements;
    const unsigned begun = pixel < 0 && k == 0 ? kAllElements << -static_cast<int>(pixel) : ~0u;
    return begun & (k == count - 1 ? last_elements : kAllElements);
  }
  static __device__ bool has(unsigned elements, int i) {
    return !kStraddles || (elements >> i & 1) != 0;
  }
  // Calls body(i) for each of them. Most vectors are whole; and a branch keeps the compiler from
  // putting off loads, as it does where there are predicates for each element of a burst.
  template <class Body>
  static __device__ __forceinline__ void for_elements(unsigned elements, Body body) {
    if (!kStraddles || elements == kAllElements) {
#pragma unroll
      for (int i = 0; i < V; ++i) body(i);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        if (has(elements, i)) body(i);
      }
    }
  }

  // Writes V elements, of which those are the plane's that are in `elements`.
  template <class T>
  static __device__ __forceinline__ void store(T* to, const Acc<T> (&from)[V], unsigned elements) {
    if (!kStraddles || elements == kAllElements) {
      store_streaming(to, from);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        if (has(elements, i)) to[i] = narrow<T>(from[i]);
      }
    }
  }

 private:
  static __device__ int steps(int64_t first, int64_t end, int64_t last, int step) {
    if (last < end) end = last;
    return first < end ? static_cast<int>((end - first + step - 1) / step) : 0;
  }
};

// The block's statistics of each of its planes, from those of its threads, in a fixed order: plane
// o has `inputs` of them, from shared[o * output_step] on, input_step apart.
template <class Result, class Finish>
__device__ __forceinline__ void fold_planes(typename Result::Stat* shared, int outputs,
                                            int output_step, int inputs, int input_step,
                                            int helpers, Finish finish) {
  if (helpers > 1) {
    const int output = threadIdx.x / helpers, helper = threadIdx.x % helpers;
    if (output < outputs) {
      auto* mine = shared + output * output_step;
      auto total = mine[helper * input_step];
      for (int i = helper + helpers; i < inputs; i += helpers) {
        total = Result::combine(total, mine[i * input_step]);
      }
      mine[helper * input_step] = total;
    }
    __syncthreads();
    inputs = helpers;
  }
  for (int output = threadIdx.x; output < outputs; output += blockDim.x) {
    const auto* mine = shared + output * output_step;
    auto total = *mine;
    for (int i = 1; i < inputs; ++i) total = Result::combine(total, mine[i * input_step]);
    finish(output, total);
  }
}

template <class Op, bool kChannelsLast, int V, bool kStraddles>
__global__ void __launch_bounds__(kThreads, 2) plane_reduce_kernel(Op op) {
  using Visit = PlaneVisit<kChannelsLast, V, kStraddles>;
  using Stat = typename Op::Stat;
  const PlaneTiling& tiling = op.tiling;
  const Visit visit(op.shape, tiling, blockIdx.x);
  typename Op::template Thread<Visit, V> thread(op, visit);
  for_bursts<Op::kAhead>(visit.count, [&](int first, auto left) {
    typename Op::template Raw<V> raw[Op::kAhead];
#pragma unroll
    for (int u = 0; u < Op::kAhead; ++u) raw[u] = thread.load(first, within(u, left));
    thread.burst(raw, first, left);
  });
  thread.close();

  Stat* shared = dynamic_shared<Stat>();
  const int lane = threadIdx.x % tiling.lanes, slot = threadIdx.x / tiling.lanes;
#pragma unroll
  for (int i = 0; i < Visit::kChannels; ++i) {
    shared[(slot * Visit::kChannels + i) * tiling.lanes + lane] = thread.stat(i);
  }
  __syncthreads();

  const unsigned place = blockIdx.x / tiling.chunks;
  const int64_t outer = place / tiling.parts;
  const auto finish = [&](int64_t plane, const Stat& total) {
    if (tiling.parts == 1) return op.finish(plane, total);
    op.partial[place % tiling.parts * op.planes + plane] = total;
  };
  if constexpr (kChannelsLast) {
    const int width = tiling.lanes * V, first = blockIdx.x % tiling.chunks * width;
    fold_planes<Op>(shared, width, 1, tiling.slots, width, tiling.helpers,
                    [&](int output, const Stat& total) {
                      const int channel = first + output % tiling.lanes * V + output / tiling.lanes;
                      if (channel < op.shape.c) finish(outer * op.shape.c + channel, total);
                    });
  } else {
    const int64_t first = outer * tiling.slots;
    fold_planes<Op>(shared, tiling.slots, tiling.lanes, tiling.lanes, 1, tiling.helpers,
                    [&](int output, const Stat& total) {
                      if (first + output < op.planes) finish(first + output, total);
                    });
  }
}

// Where planes were shared out among blocks: (kFoldSlots, kFoldPlanes) threads fold what those
// found of kFoldPlanes planes.
constexpr int kFoldPlanes = 32;
constexpr int kFoldSlots = 8;

template <class Result>
__global__ void __launch_bounds__(kFoldPlanes* kFoldSlots, 1)
    plane_fold_kernel(Result result, int parts) {
  using Stat = typename Result::Stat;
  const int lane = threadIdx.x % kFoldPlanes, slot = threadIdx.x / kFoldPlanes;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kFoldPlanes, plane = first + lane;
  Stat total = Result::none();
  if (plane < result.planes) {
#pragma unroll 4
    for (int part = slot; part < parts; part += kFoldSlots) {
      total = Result::combine(total, result.partial[part * result.planes + plane]);
    }
  }
  Stat* shared = dynamic_shared<Stat>();
  shared[threadIdx.x] = total;
  __syncthreads();
  fold_planes<Result>(shared, kFoldPlanes, 1, kFoldSlots, kFoldPlanes, 1,
                      [&](int output, const Stat& found) {
                        if (first + output < result.planes) result.finish(first + output, found);
                      });
}

}  // namespace attn_kernels
