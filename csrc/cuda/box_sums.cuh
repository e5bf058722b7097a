// Sums of what is known of each element of a box, along any of its sizes: several of them in one
// look at the maps. A block puts its tile's values into shared memory and sums them up there.
//
// An Op holds box, tiling and sums, and says
//   Element, Real, kMaps, kValues
//   load<V>(image, place, at, to)   V neighbours of the maps, and in to[kMaps] what arrived() needs
//   arrived(at, maps)               what can be done with a vector once it is there
//   values(image, place, maps, to)  the values of V neighbours
#pragma once

#include "box.cuh"
#include "plane_reduce.cuh"

namespace attn_kernels {

template <class Real>
struct BoxSum {
  Real* to;  // the result, or its parts
  int value;
  bool keeps[3];
  int64_t image, stride[3];  // of the result, 0 where it is summed
  unsigned part[3];          // a tile's part: the sum of these times its place
  int64_t part_elements;     // 0 where there is one part
  int helpers;               // threads that share out what makes one element
  Real share;                // that each sum is multiplied by; 1 for parts
};

template <class Real>
struct BoxSums {
  int count;
  BoxSum<Real> of[kBoxSums];
};

// A block's tile, and how far its elements lie apart in shared memory.
struct TilePlace {
  int64_t image;
  unsigned tile[3], first[3], size[3], step[3];
  unsigned elements;

  __device__ TilePlace(const Box& box, const BoxTiling& tiling, unsigned item) {
    step[2] = 1;
#pragma unroll
    for (int d = 2; d >= 0; --d) {
      tile[d] = item % tiling.tiles[d];
      item /= tiling.tiles[d];
      first[d] = tile[d] * tiling.tile[d];
      size[d] = box.size[d] - first[d] < tiling.tile[d] ? box.size[d] - first[d] : tiling.tile[d];
      if (d > 0) step[d - 1] = step[d] * size[d];
    }
    elements = step[0] * size[0];
    image = item;
  }

  // Of an element of the tile, in the image.
  __device__ Place place(unsigned element) const {
    Place place = place_of(element, size);
#pragma unroll
    for (int d = 0; d < 3; ++d) place.at[d] += first[d];
    return place;
  }
};

// How one sum goes through a tile: in two loops, of which one may be no loop at all.
struct SumLoops {
  unsigned outputs = 1, outer = 1, outer_step = 0, inner = 1, inner_step = 0;

  __device__ SumLoops(const TilePlace& tile, const bool (&keeps)[3]) {
#pragma unroll
    for (int d = 2; d >= 0; --d) {
      if (keeps[d]) {
        outputs *= tile.size[d];
      } else if (inner == 1) {
        inner = tile.size[d], inner_step = tile.step[d];
      } else if (inner * inner_step == tile.step[d]) {
        inner *= tile.size[d];
      } else {
        outer = tile.size[d], outer_step = tile.step[d];
      }
    }
  }

  // Every helpers-th of what makes an element, from `helper` on.
  template <class Real>
  __device__ Real sum(const Real* values, unsigned helper, unsigned helpers) const {
    Real sum = 0;
#pragma unroll 1
    for (unsigned o = 0; o < outer; ++o) {
      const Real* row = values + o * outer_step;
#pragma unroll 4
      for (unsigned i = helper; i < inner; i += helpers) sum += row[i * inner_step];
    }
    return sum;
  }
};

// An element of a tile's sums: where its values begin in shared memory, and where it goes.
template <class Real>
struct SumPlace {
  unsigned from = 0;
  int64_t to;

  __device__ SumPlace(const TilePlace& tile, const BoxSum<Real>& sum, unsigned output) {
    to = tile.image * sum.image;
    unsigned part = 0;
#pragma unroll
    for (int d = 2; d >= 0; --d) {
      part += tile.tile[d] * sum.part[d];
      if (!sum.keeps[d]) continue;
      const unsigned at = output % tile.size[d];
      output /= tile.size[d];
      from += at * tile.step[d];
      to += (tile.first[d] + at) * sum.stride[d];
    }
    to += part * sum.part_elements;
  }
};

// The values of a block's tile, in shared memory. Until they are computed, a vector's place holds
// the maps' elements there: each thread reads what it wrote.
template <int V, class Op>
__device__ __forceinline__ void lay_down_values(const Op& op, const TilePlace& tile,
                                                typename Op::Real* shared) {
  using T = typename Op::Element;
  using Real = typename Op::Real;
  static_assert(sizeof(T) <= sizeof(Real) && Op::kMaps <= Op::kValues, "a place for each map");
  const int pitch = op.tiling.pitch;
  const auto map = [&](int m, unsigned element) -> Vector<T, V>& {
    return *reinterpret_cast<Vector<T, V>*>(shared + m * pitch + element);
  };
  const unsigned step = blockDim.x * V;
  for (unsigned first = threadIdx.x * V; first < tile.elements; first += kBurst * step) {
    Vector<T, V> raw[kBurst][Op::kMaps + 1];
    unsigned element[kBurst];
    int64_t at[kBurst];
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      const unsigned of_burst = first + u * step;
      element[u] = of_burst < tile.elements ? of_burst : first;  // once more: no load waits for it
      const Place place = tile.place(element[u]);
      const auto& size = op.box.size;
      const int64_t row = tile.image * size[0] + place.at[0];
      at[u] = (row * size[1] + place.at[1]) * size[2] + place.at[2];
      op.load(tile.image, place, at[u], raw[u]);
    }
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      op.arrived(at[u], raw[u]);
#pragma unroll
      for (int m = 0; m < Op::kMaps; ++m) map(m, element[u]) = raw[u][m];
    }
  }
#pragma unroll 1
  for (unsigned element = threadIdx.x * V; element < tile.elements; element += step) {
    Vector<T, V> maps[Op::kMaps];
    Real values[Op::kValues][V];
#pragma unroll
    for (int m = 0; m < Op::kMaps; ++m) maps[m] = map(m, element);
    op.values(tile.image, tile.place(element), maps, values);
#pragma unroll
    for (int j = 0; j < Op::kValues; ++j) {
#pragma unroll
      for (int i = 0; i < V; ++i) shared[j * pitch + element + i] = values[j][i];
    }
  }
}

template <class Op, int V>
__global__ void __launch_bounds__(kThreads, 2) box_sums_kernel(Op op) {
  using Real = typename Op::Real;
  const TilePlace tile(op.box, op.tiling, blockIdx.x);
  Real* shared = dynamic_shared<Real>();
  lay_down_values<V>(op, tile, shared);
  __syncthreads();

  // Where elements are few, several threads share out each.
  Real* scratch = shared + Op::kValues * op.tiling.pitch;
#pragma unroll 1
  for (int s = 0; s < op.sums.count; ++s) {
    const BoxSum<Real>& sum = op.sums.of[s];
    const SumLoops loops(tile, sum.keeps);
    const Real* values = shared + sum.value * op.tiling.pitch;
    const unsigned helpers = sum.helpers;
    if (helpers == 1) {
      for (unsigned output = threadIdx.x; output < loops.outputs; output += blockDim.x) {
        const SumPlace<Real> place(tile, sum, output);
        sum.to[place.to] = loops.sum(values + place.from, 0, 1) * sum.share;
      }
      continue;
    }
    const unsigned thread = threadIdx.x;  // neighbours read neighbours
    const unsigned output = sum.keeps[2] ? thread % loops.outputs : thread / helpers;
    const unsigned helper = sum.keeps[2] ? thread / loops.outputs : thread % helpers;
    if (output >= loops.outputs || helper >= helpers) continue;
    const SumPlace<Real> place(tile, sum, output);
    scratch[s * blockDim.x + helper * loops.outputs + output] =
        loops.sum(values + place.from, helper, helpers);
  }
  __syncthreads();
#pragma unroll 1
  for (int s = 0; s < op.sums.count; ++s) {
    const BoxSum<Real>& sum = op.sums.of[s];
    const unsigned outputs = SumLoops(tile, sum.keeps).outputs, output = threadIdx.x;
    if (sum.helpers == 1 || output >= outputs) continue;
    const Real* found = scratch + s * blockDim.x + output;
    Real total = found[0];
    for (int helper = 1; helper < sum.helpers; ++helper) total += found[helper * outputs];
    sum.to[SumPlace<Real>(tile, sum, output).to] = total * sum.share;
  }
}

// The sum of parts, for plane_fold_kernel: each element of the result is a plane to it.
template <class Real>
struct BoxSumParts {
  using Stat = Real;

  int64_t planes;
  const Real* partial;  // (parts, planes)
  Real* to;
  Real share;

  static __device__ Stat none() { return 0; }
  static __device__ Stat combine(Stat a, Stat b) { return a + b; }
  __device__ void finish(int64_t plane, Stat total) const { to[plane] = total * share; }
};

}  // namespace attn_kernels
