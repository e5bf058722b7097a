// What is summed or sought over the channels of each pixel: one walk over x for every such op.
//
// An Op holds the arguments (shape, tiling and pointers) and says (those in brackets if it has to)
//   Stat, none(), combine(a, b)     what is known of a pixel; of no channel; of two sets of
//     channels
//   [Pixel, pixel(image, pixel), pixels<V>(image, first, to)]   what has to be known beforehand
//   [Raw<V>, load<V>(at, first, u)] a vector of everything that is read: the u-th of the burst that
//     begins with vector `first` from element `at` on
//   [arrived(raw)]                  what can be said of a vector once it is there
//   add(stat, part, pixel, raw, i, view, channel)   takes in element i of raw. What is summed goes
//     to `part`, which begins at -0 (so the first sum is free) for each burst and ends in
//     close(stat, part): sums of short batches lose fewer bits. Channels come in descending order.
//   [keep(raw, at, k)]              writes what is to be kept of a vector
//   [unsure(stat), settle(stat, value)]   add() may be wrong where NaN is met, if unsure() then
//     says so: all channels are visited once more.
//   finish(image, pixel, stat)      writes what is known of a pixel from all channels
#pragma once

#include "burst.cuh"
#include "view.cuh"

namespace attn_kernels {

// What all Ops hold. `partial`: (N, chunks, H, W), where the channels are shared out among blocks.
template <class T, class PixelStat, bool kHasView>
struct Reduction {
  using Real = Acc<T>;
  using Stat = PixelStat;
  static constexpr bool kView = kHasView;

  Shape shape;
  Tiling tiling;
  const T* x;
  const Real *scale, *shift;  // (N, C), or null without a view
  Stat* partial;

  struct Pixel {};
  template <int V>
  struct Raw {
    Vector<T, V> x;
  };
  template <int V>
  __device__ Raw<V> load(int64_t at, int first, int u) const {
    return {attn_kernels::load<V>(vector<V>(x, at, first, u))};
  }
  __device__ Pixel pixel(int64_t, int64_t) const { return {}; }
  template <int V>
  __device__ void pixels(int64_t, int64_t, Pixel (&)[V]) const {}
  template <class Vectors>
  __device__ void arrived(Vectors&) const {}
  template <class Vectors>
  __device__ void keep(const Vectors&, int64_t, int) const {}
  static __device__ void close(Stat&, Real) {}
  static __device__ bool unsure(const Stat&) { return false; }
  static __device__ void settle(Stat&, Real) {}

  // In a tensor shaped like x.
  template <int V>
  __device__ const T* vector(const T* tensor, int64_t at, int first, int u) const {
    return stepped<V>(stepped<V>(tensor + at, first, tiling.step), u, tiling.step);
  }

  __device__ View<Real, kView> view(int64_t image, int channel) const {
    if constexpr (kView) {
      const int64_t at = image * shape.c + channel;
      return {scale[at], shift[at]};
    } else {
      return {};
    }
  }
};

// A block's place: which image, pixels and channels.
struct ReduceBlock {
  int64_t image, start;  // start: first pixel of the tile
  int count;             // pixels of the tile
  int first_channel, last_channel;
  unsigned chunk;

  __device__ ReduceBlock(const Shape& shape, const Tiling& tiling, unsigned item) {
    chunk = item % tiling.chunks;
    const unsigned tile = item / tiling.chunks;
    image = tile / static_cast<unsigned>(tiling.tiles);
    start = tile % static_cast<unsigned>(tiling.tiles) * tiling.tile;
    count = static_cast<int>(shape.hw - start < tiling.tile ? shape.hw - start : tiling.tile);
    first_channel = static_cast<int>(chunk) * tiling.channels;
    last_channel =
        shape.c - first_channel < tiling.channels ? shape.c : first_channel + tiling.channels;
  }
};

// Elements of the vectors of `slot` that lie before the tile's first pixel (see tiling.h).
template <int V>
__device__ __forceinline__ int elements_astray(const Shape& shape, const Tiling& tiling, int slot) {
  if (tiling.group == 1) return 0;
  return slot % tiling.group * static_cast<int>(shape.hw % V) % V;
}

// NCHW: V pixels of each of the thread's channels. Lays down the pixels' statistics for fold().
template <int V, class Op, class Stat>
__device__ __forceinline__ void reduce_planes(const Op& op, const ReduceBlock& block,
                                              Stat* shared) {
  using Real = typename Op::Real;
  const Shape& shape = op.shape;
  const int lanes = op.tiling.lanes, slots = op.tiling.slots;
  const int lane = threadIdx.x % lanes, slot = threadIdx.x / lanes;
  const int j = lane * V - elements_astray<V>(shape, op.tiling, slot);
  if (j >= block.count || slot >= slots) return;
  const int channel = block.first_channel + slot;
  const int count = (block.last_channel - channel + slots - 1) / slots;
  const int64_t at = (block.image * shape.c + channel) * shape.hw + block.start + j;

  typename Op::Pixel pixel[V];
  op.template pixels<V>(block.image, block.start + j, pixel);
  Stat stat[V];
#pragma unroll
  for (int i = 0; i < V; ++i) stat[i] = op.none();
  for_bursts_in_reverse(count, [&](int first, auto left) {
    typename Op::template Raw<V> raw[kBurst];
    View<Real, Op::kView> view[kBurst];
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      const int k = first + within(u, left);
      raw[u] = op.template load<V>(at, first, within(u, left));
      view[u] = op.view(block.image, channel + k * slots);
    }
    Real part[V];
#pragma unroll
    for (int i = 0; i < V; ++i) part[i] = Real(-0.0);
#pragma unroll
    for (int u = kBurst - 1; u >= 0; --u) {
      if (u >= left) continue;
      const int k = first + u;
      op.arrived(raw[u]);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        op.add(stat[i], part[i], pixel[i], raw[u], i, view[u], channel + k * slots);
      }
      // A vector that begins before the tile is kept by the block or slot in whose pixels it
      // begins.
      if (j >= 0) op.keep(raw[u], at, k);
    }
#pragma unroll
    for (int i = 0; i < V; ++i) op.close(stat[i], part[i]);
  });

  bool unsure = false;
#pragma unroll
  for (int i = 0; i < V; ++i) unsure |= op.unsure(stat[i]);
  if (unsure) {
#pragma unroll 1
    for (int k = count - 1; k >= 0; --k) {
      const auto raw = op.template load<V>(at, k, 0);
      const auto view = op.view(block.image, channel + k * slots);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        op.settle(stat[i], view(widen(raw.x.value[i])));
      }
    }
  }

  const int pitch = op.tiling.pitch;
#pragma unroll
  for (int i = 0; i < V; ++i) shared[(slot * V + i) * pitch + lane] = stat[i];
}

// channels_last: V channels at a time of kBurst of the thread's pixels together.
template <int V, class Op, class Stat>
__device__ __forceinline__ void reduce_pixels(const Op& op, const ReduceBlock& block,
                                              Stat* shared) {
  using Real = typename Op::Real;
  const Shape& shape = op.shape;
  const int lanes = op.tiling.lanes, slots = op.tiling.slots;
  const int lane = threadIdx.x % lanes, slot = threadIdx.x / lanes;
  const int channel = block.first_channel + lane * V;
  const int count = (block.last_channel - channel + lanes * V - 1) / (lanes * V);
  if (slot >= slots) return;

  for (int j = slot; j < block.count; j += kBurst * slots) {
    const int left = (block.count - j + slots - 1) / slots;  // of the burst's pixels, or more
    const int64_t first = block.image * shape.hw + block.start + j;
    const auto place = [&](int k) { return first * shape.c + channel + k * lanes * V; };
    typename Op::Pixel pixel[kBurst];
    Stat stat[kBurst];
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      pixel[u] = op.pixel(block.image, block.start + j + within(u, left) * slots);
      stat[u] = op.none();
    }
#pragma unroll 1
    for (int k = count - 1; k >= 0; --k) {
      typename Op::template Raw<V> raw[kBurst];
      View<Real, Op::kView> view[V];
#pragma unroll
      for (int u = 0; u < kBurst; ++u) {
        raw[u] = op.template load<V>(place(k), 0, within(u, left));
      }
#pragma unroll
      for (int i = 0; i < V; ++i) view[i] = op.view(block.image, channel + k * lanes * V + i);
      Real part[kBurst];
#pragma unroll
      for (int u = 0; u < kBurst; ++u) part[u] = Real(-0.0);
#pragma unroll
      for (int u = 0; u < kBurst; ++u) op.arrived(raw[u]);
#pragma unroll
      for (int i = V - 1; i >= 0; --i) {
#pragma unroll
        for (int u = 0; u < kBurst; ++u) {
          op.add(stat[u], part[u], pixel[u], raw[u], i, view[i], channel + k * lanes * V + i);
        }
      }
#pragma unroll
      for (int u = 0; u < kBurst; ++u) {
        op.close(stat[u], part[u]);
        if (u < left) op.keep(raw[u], place(k), u);
      }
    }
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      if (u >= left) break;
      if (op.unsure(stat[u])) {
#pragma unroll 1
        for (int k = count - 1; k >= 0; --k) {
          const auto raw = op.template load<V>(place(k), 0, u);
#pragma unroll
          for (int i = V - 1; i >= 0; --i) {
            const int at_channel = channel + k * lanes * V + i;
            op.settle(stat[u], op.view(block.image, at_channel)(widen(raw.x.value[i])));
          }
        }
      }
      shared[(j + u * slots) * op.tiling.pitch + lane] = stat[u];
    }
  }
}

constexpr int kFoldParts = 8;  // about the root of the number of partial statistics

// The block's statistics of each of its pixels, from those of its threads, in a fixed order.
template <class Op, bool kChannelsLast, int V>
__device__ __forceinline__ void reduce_item(const Op& op, unsigned item) {
  using Stat = typename Op::Stat;
  const ReduceBlock block(op.shape, op.tiling, item);
  Stat* shared = dynamic_shared<Stat>();
  if constexpr (kChannelsLast) {
    reduce_pixels<V>(op, block, shared);
  } else {
    reduce_planes<V>(op, block, shared);
  }
  __syncthreads();

  const int partials = kChannelsLast ? op.tiling.lanes : op.tiling.slots;
  const int pitch = op.tiling.pitch;
  const auto found = [&](int partial, int j) -> Stat& {
    if constexpr (kChannelsLast) return shared[j * pitch + partial];
    const int e = j + elements_astray<V>(op.shape, op.tiling, partial);
    return shared[(partial * V + e % V) * pitch + e / V];
  };
  const auto fold = [&](int first, int step, int end, int j) {
    Stat total = found(first, j);
    for (int partial = first + step; partial < end; partial += step) {
      total = Op::combine(total, found(partial, j));
    }
    return total;
  };
  // Where threads abound, several share a pixel at first.
  const int sharing = below(op.tiling.lanes * op.tiling.slots / block.count, kFoldParts);
  const int parts = below(sharing, partials);
  if (parts > 1) {
    const int part = threadIdx.x / block.count, j = threadIdx.x % block.count;
    if (part < parts) found(part, j) = fold(part, parts, partials, j);
    __syncthreads();
  }
  for (int j = threadIdx.x; j < block.count; j += blockDim.x) {
    const Stat total = fold(0, 1, parts > 1 ? parts : partials, j);
    const int64_t pixel = block.start + j;
    if (op.tiling.chunks == 1) {
      op.finish(block.image, pixel, total);
    } else {
      op.partial[(block.image * op.tiling.chunks + block.chunk) * op.shape.hw + pixel] = total;
    }
  }
}

template <class Op, bool kChannelsLast, int V>
__global__ void __launch_bounds__(kThreads, 2) reduce_kernel(Op op) {
  reduce_item<Op, kChannelsLast, V>(op, blockIdx.x);
}

// Where the channels were shared out: a thread folds what the blocks found of a pixel, `tiles`
// blocks those of an image.
template <class Op>
__global__ void __launch_bounds__(kThreads, 1) fold_kernel(Op op, unsigned tiles) {
  const int64_t image = blockIdx.x / tiles;
  const int64_t pixel = static_cast<int64_t>(blockIdx.x % tiles) * kThreads + threadIdx.x;
  if (pixel >= op.shape.hw) return;
  const int chunks = op.tiling.chunks;
  const auto* partial = op.partial + image * chunks * op.shape.hw + pixel;
  typename Op::Stat total = *partial;
#pragma unroll 1
  for (int first = 1; first < chunks; first += kBurst) {
    typename Op::Stat found[kBurst];
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      found[u] = partial[(first + within(u, chunks - first)) * op.shape.hw];
    }
#pragma unroll
    for (int u = 0; u < kBurst; ++u) {
      if (first + u < chunks) total = Op::combine(total, found[u]);
    }
  }
  op.finish(image, pixel, total);
}

}  // namespace attn_kernels
