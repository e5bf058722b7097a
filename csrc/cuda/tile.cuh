// A block's tile as its threads see it, the same for both layouts (see tiling.h).
#pragma once

#include "device.cuh"
#include "tiling.h"

namespace attn_kernels {

template <bool kChannelsLast, int V>
struct Tile {
  static constexpr int kPixels = kChannelsLast ? 1 : V;  // of a vector
  static constexpr __device__ int pixel(int i) { return kChannelsLast ? 0 : i; }
  static constexpr __device__ int channel(int i) { return kChannelsLast ? i : 0; }

  int64_t image, start;  // the image, and its pixel with which the tile starts
  int width;             // of the image
  int pixels, count;     // of the tile as it is cut, and those of them that the image has
  int first_pixel, pixel_step;
  int first_channel, last_channel, channel_step;
  int partial, partials;  // this thread's place among those that share its pixels
  bool owns_map;          // of a tile's blocks, the one that writes what is per pixel
  int64_t c, hw;

  __device__ Tile(const Shape& shape, const Tiling& tiling, unsigned block)
      : width(shape.w), pixels(tiling.pixels), c(shape.c), hw(shape.hw) {
    const unsigned chunk = block % tiling.chunks;
    const unsigned tile = block / tiling.chunks;
    image = tile / static_cast<unsigned>(tiling.tiles);
    start = static_cast<int64_t>(tile % static_cast<unsigned>(tiling.tiles)) * pixels;
    count = static_cast<int>(hw - start < pixels ? hw - start : pixels);
    owns_map = chunk == 0;

    const int lane = threadIdx.x % tiling.lanes;
    const int slot = threadIdx.x / tiling.lanes;
    const int chunk_start = static_cast<int>(chunk) * tiling.channels;
    first_pixel = kChannelsLast ? slot : lane * V;
    pixel_step = kChannelsLast ? tiling.slots : pixels;
    first_channel = chunk_start + (kChannelsLast ? lane * V : slot);
    last_channel =
        shape.c - chunk_start < tiling.channels ? shape.c : chunk_start + tiling.channels;
    channel_step = kChannelsLast ? tiling.lanes * V : tiling.slots;
    partial = kChannelsLast ? lane : slot;
    partials = kChannelsLast ? tiling.lanes : tiling.slots;
  }

  // Where channel `at_channel` of the tile's pixel j lies in a tensor shaped like x.
  __device__ int64_t offset(int at_channel, int j) const {
    return kChannelsLast ? (image * hw + start + j) * c + at_channel
                         : (image * c + at_channel) * hw + start + j;
  }

  // Where the tile's pixel j lies in plane `plane` of a contiguous (N, planes, H, W) tensor.
  __device__ int64_t at(int j, int planes = 1, int plane = 0) const {
    return (image * planes + plane) * hw + start + j;
  }
};

// Calls body(channel) for the thread's channels, in batches: begin() opens one, end() closes it.
// Sums of short batches lose fewer bits than one long sum, and the loads of a batch overlap.
constexpr int kBatch = 8;

template <class TileType, class Begin, class Body, class End>
__device__ __forceinline__ void for_channels(const TileType& tile, Begin begin, Body body,
                                             End end) {
  const int batch_step = kBatch * tile.channel_step;
  for (int batch = tile.first_channel; batch < tile.last_channel; batch += batch_step) {
    begin();
    const int left = tile.last_channel - batch;
    const int stop = batch + (left < batch_step ? left : batch_step);
#pragma unroll 4
    for (int channel = batch; channel < stop; channel += tile.channel_step) body(channel);
    end();
  }
}

// Combines what the threads that share a pixel found in their channels, in a fixed order, and calls
// finish(j, total) once for each pixel j of the tile. shared: (partials, pixels) values.
template <bool kChannelsLast, int V, class Value, class Combine, class Finish>
__device__ __forceinline__ void fold_channels(const Tile<kChannelsLast, V>& tile,
                                              const Value (&mine)[V], Value* shared,
                                              Combine combine, Finish finish) {
  Value* row = shared + tile.partial * tile.pixels + tile.first_pixel;
  if constexpr (kChannelsLast) {
    Value total = mine[0];
#pragma unroll
    for (int i = 1; i < V; ++i) total = combine(total, mine[i]);
    row[0] = total;
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) row[i] = mine[i];
  }
  __syncthreads();
  for (int j = threadIdx.x; j < tile.count; j += blockDim.x) {
    Value total = shared[j];
    for (int other = 1; other < tile.partials; ++other) {
      total = combine(total, shared[other * tile.pixels + j]);
    }
    finish(j, total);
  }
}

}  // namespace attn_kernels
