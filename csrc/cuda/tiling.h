// How the work is cut: which block and which thread takes which pixels and channels. Host code, and
// the plain structs that travel to the kernels. Functions of the shape alone: the same shape is cut
// the same way on every GPU, so that results do not depend on the machine.
//
// A tile is a run of neighbouring pixels of one image (rows laid end to end). In a block, thread
// t = slot * lanes + lane; lanes follow memory, so that neighbours read neighbours:
//                  lane takes                    slot takes
//   NCHW           V neighbouring pixels         every slots-th channel
//   channels_last  V neighbouring channels       every slots-th pixel
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace attn_kernels {

constexpr int kMaxThreads = 512;
constexpr int kThreads = 256;
// Blocks that fill a large GPU: once over for a reduction, some times over for streaming.
constexpr int64_t kReduceBlocks = 256;
constexpr int64_t kStreamBlocks = 1024;
// Pixels whose neighbourhood is held in shared memory at a time (K = 15 in float64 fits 48 KB).
constexpr int kStencilPixels = 128;
constexpr int64_t kWeightBlocks = 1024;

struct Shape {
  int64_t n;
  int c, h, w;
  int64_t hw;

  Shape(int64_t n, int64_t c, int64_t h, int64_t w)
      : n(n), c(static_cast<int>(c)), h(static_cast<int>(h)), w(static_cast<int>(w)), hw(h * w) {}
};

struct Tiling {
  int lanes, slots;
  int pixels;     // of a tile
  int channels;   // of a block
  int64_t tiles;  // of an image
  int chunks;     // of the channels: the blocks of a tile
  int64_t blocks;

  int threads() const { return lanes * slots; }
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The smallest power of two that is at least `value`, and at most `limit` (a power of two).
inline int power_of_two(int64_t value, int limit) {
  int power = 1;
  while (power < value && power < limit) power *= 2;
  return power;
}

inline Tiling finish_tiling(const Shape& shape, int lanes, int slots, int pixels, int channels) {
  const int64_t tiles = ceil_div(shape.hw, pixels);
  const int chunks = static_cast<int>(ceil_div(shape.c, channels));
  return {lanes, slots, pixels, channels, tiles, chunks, shape.n * tiles * chunks};
}

// Lanes for channels_last: at least 8 vectors (a cache line) side by side, then 4 per thread.
inline int channel_lanes(const Shape& shape, int vector) {
  const int64_t vectors = ceil_div(shape.c, vector);
  return std::max(power_of_two(vectors, 8), power_of_two(ceil_div(vectors, 4), 32));
}

// For sums over channels: a block has all channels of its tile. Small maps have few tiles, so tiles
// get narrower and the channels are spread over more threads.
inline Tiling reduce_tiling(const Shape& shape, bool channels_last, int vector) {
  if (channels_last) {
    int lanes = channel_lanes(shape, vector);
    int slots = power_of_two(shape.hw, kThreads / lanes);
    const auto tiles = [&] { return shape.n * ceil_div(shape.hw, slots); };
    while (lanes * slots > 64 && tiles() < kReduceBlocks) slots /= 2;
    if (tiles() < kReduceBlocks) lanes = power_of_two(ceil_div(shape.c, 4 * vector), 4 * lanes);
    return finish_tiling(shape, lanes, slots, slots, shape.c);
  }
  const auto tiles = [&](int lanes) { return shape.n * ceil_div(shape.hw, lanes * vector); };
  int lanes = power_of_two(ceil_div(shape.hw, vector), 32);
  while (lanes > 8 && tiles(lanes) < kReduceBlocks) lanes /= 2;
  const int threads = tiles(lanes) < kReduceBlocks ? kMaxThreads : kThreads;
  const int slots = power_of_two(shape.c, threads / lanes);
  return finish_tiling(shape, lanes, slots, lanes * vector, shape.c);
}

// For work that is independent per element once the map is known. Small maps have few tiles, so the
// channels of a tile are shared out among blocks, each of which computes the tile's stencil itself.
inline Tiling stream_tiling(const Shape& shape, bool channels_last, int vector) {
  int lanes, slots, pixels, step;
  if (channels_last) {
    lanes = channel_lanes(shape, vector);
    slots = power_of_two(shape.hw, std::min(kThreads / lanes, kStencilPixels));
    pixels = std::min(4 * slots, kStencilPixels);
    while (pixels > slots && shape.n * ceil_div(shape.hw, pixels) < kStreamBlocks) pixels /= 2;
    step = lanes * vector;
  } else {
    lanes = power_of_two(ceil_div(shape.hw, vector), 32);
    slots = power_of_two(shape.c, kThreads / lanes);
    pixels = lanes * vector;
    step = slots;
  }
  int64_t channels = ceil_div(shape.c, step) * step;
  const int64_t blocks = shape.n * ceil_div(shape.hw, pixels);
  while (channels >= 8 * step && blocks * ceil_div(shape.c, channels) < kStreamBlocks) {
    channels = ceil_div(channels / 2, step) * step;
  }
  return finish_tiling(shape, lanes, slots, pixels, static_cast<int>(channels));
}

// For work on the map alone: one thread per pixel, whatever x looks like.
inline Tiling pixel_tiling(const Shape& shape) {
  const int pixels = std::max(32, power_of_two(shape.hw, kStencilPixels));
  return finish_tiling(shape, 1, pixels, pixels, shape.c);
}

// The taps of the convolution: two planes of K x K, and the bias.
inline int weight_taps(int k) { return 2 * k * k + 1; }

// For the weight gradient: one thread per tap, some tiles per block, and one row of partial sums
// per block.
inline Tiling weight_tiling(const Shape& shape, int k) {
  const int warps = static_cast<int>(ceil_div(weight_taps(k), 32));
  Tiling tiling = finish_tiling(shape, 32, warps, kStencilPixels, shape.c);
  tiling.blocks = std::min(tiling.blocks, kWeightBlocks);
  return tiling;
}

inline int64_t weight_partials(const Shape& shape, int k) {
  return weight_tiling(shape, k).blocks * weight_taps(k);
}

// Elements of shared memory with which fold_channels combines what the threads of a pixel found.
inline int64_t fold_elements(const Tiling& tiling, bool channels_last) {
  return static_cast<int64_t>(channels_last ? tiling.lanes : tiling.slots) * tiling.pixels;
}

// Elements of shared memory of a kernel with a stencil: both weight planes, `planes` windows, and
// `per_pixel` values for each pixel of the tile.
inline int64_t stencil_elements(const Tiling& tiling, int k, int planes, int per_pixel) {
  return 2 * k * k + planes * k * (tiling.pixels + k - 1) + per_pixel * tiling.pixels;
}

}  // namespace attn_kernels
