// How the work is cut: which block and which thread takes which pixels and channels. Host code, and
// the plain structs that travel to the kernels. Functions of the shape alone: the same shape is cut
// the same way on every GPU, so that results do not depend on the machine.
//
// In a block, thread t = slot * lanes + lane; lanes follow memory, so that neighbours read
// neighbours, and a thread moves vectors of V elements. A block has a tile of an image and a chunk
// of its channels:
//                            tile                      lane takes         slot takes
//   reduction, NCHW          pixels                    V pixels           every slots-th channel
//   reduction, channels_last pixels                    V channels         every slots-th pixel
//   stream, NCHW             elements of a row         V elements         every slots-th row
//   stream, channels_last    pixels                    V channels         every slots-th pixel
// A row of NCHW is `group` channels end to end: as many as it takes for V to divide it. So 7 x 7
// and 14 x 14 maps move in vectors of 16 bytes too, of which some straddle two channels. A
// reduction wants pixels, not rows: there a slot's channels all have the same place in their rows,
// hence the same pixels in a vector (`slots` is a multiple of `group`).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>

namespace attn_kernels {

constexpr int kMaxThreads = 512;  // of any kernel
constexpr int kThreads = 256;
constexpr int64_t kSharedBytes = 48 * 1024;  // of a block, without asking for more
// Blocks that keep a large GPU busy: four on each of 132 multiprocessors, and again as many for
// streams, which are short.
constexpr int64_t kReduceBlocks = 528;
constexpr int64_t kStreamBlocks = 1056;
constexpr int64_t kWeightBlocks = 528;
// A thread's steps are counted in 32 bits.
constexpr int64_t kLargestStep = (int64_t{1} << 32) - 1;
// Vectors of a thread that are on their way at the same time (burst.cuh).
constexpr int kBurst = 4;
// Vectors of a thread where x is small: then all of it is on its way at once, from many threads.
constexpr int kFewVectors = 2;

// Of the machine. The order of the work depends on it (ordered.h), how it is cut does not.
struct Device {
  int multiprocessors;
  int64_t l2_bytes;
};

struct Shape {
  int64_t n;
  int c, h, w;
  int64_t hw;

  Shape(int64_t n, int64_t c, int64_t h, int64_t w)
      : n(n), c(static_cast<int>(c)), h(static_cast<int>(h)), w(static_cast<int>(w)), hw(h * w) {}
};

struct Tiling {
  int lanes, slots;
  int group;      // channels of a row (1 for channels_last)
  int64_t tile;   // pixels or elements of a tile
  int channels;   // of a chunk
  int64_t tiles;  // of an image
  int chunks;     // of the channels: the blocks of a tile
  int64_t blocks;
  unsigned step;  // vectors from a thread's vector to its next
  int pitch;      // of what a reduction lays down in shared memory (reduce.cuh)

  int threads() const { return lanes * slots; }
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// `total` in as few equal parts as have at most `limit` each: the size of a part.
inline int64_t even_part(int64_t total, int64_t limit) {
  return ceil_div(total, ceil_div(total, limit));
}

// Channels that make a row which V divides.
inline int row_group(int64_t hw, int vector) {
  return static_cast<int>(vector / std::gcd<int64_t>(hw, vector));
}

inline Tiling finish_tiling(const Shape& shape, int lanes, int slots, int group, int64_t tile,
                            int64_t channels, int64_t extent, int64_t step) {
  const int64_t tiles = ceil_div(extent, tile);
  const int chunks = static_cast<int>(ceil_div(shape.c, channels));
  return {lanes,
          slots,
          group,
          tile,
          static_cast<int>(channels),
          tiles,
          chunks,
          shape.n * tiles * chunks,
          static_cast<unsigned>(step),
          lanes | 1};
}

// Halves the channels of a chunk, in multiples of `step`, until there are `wanted` blocks or a
// thread is left with `least` steps.
inline int64_t chunk_channels(const Shape& shape, int64_t blocks, int64_t step, int64_t least,
                              int64_t wanted) {
  int64_t steps = ceil_div(shape.c, step);
  while (steps >= 2 * least && blocks * ceil_div(shape.c, steps * step) < wanted) {
    steps = ceil_div(steps, 2);
  }
  return steps * step;
}

// NCHW: where a reduction's slot lays down V results of each lane, so that neighbouring pixels,
// read back by neighbouring threads, come from different banks: lanes and some more.
inline int fold_pitch(int lanes, int vector, int64_t stat_bytes) {
  const int unit = static_cast<int>(std::max<int64_t>(128 / stat_bytes / vector, 1));
  return unit * static_cast<int>(ceil_div(lanes, unit) | 1);
}

// For what is summed or sought over channels, with statistics of `stat_bytes` each. Where tiles are
// few they get narrower (down to 128 bytes a row), then the channels are shared out among blocks
// and a second kernel folds what those found.
inline Tiling reduce_tiling(const Shape& shape, bool channels_last, int vector,
                            int64_t stat_bytes) {
  const auto chunk = [&](int64_t tiles, int64_t step, int64_t least) {
    const bool few = tiles < kReduceBlocks / 4;
    return chunk_channels(shape, tiles, step, least, few ? kReduceBlocks / 2 : 0);
  };
  if (channels_last) {
    const int lanes = static_cast<int>(even_part(shape.c / vector, 32));
    int64_t slots = std::min<int64_t>(kThreads / lanes, ceil_div(shape.hw, kBurst));
    int64_t pixels = 2 * kBurst * slots;
    const auto tiles = [&] { return shape.n * ceil_div(shape.hw, pixels); };
    if (tiles() < kReduceBlocks) pixels = kBurst * slots;
    while (tiles() < kReduceBlocks && lanes * slots >= 256) pixels = kBurst * (slots /= 2);
    if (tiles() < kReduceBlocks / 4) pixels = kFewVectors * slots;
    const int64_t channels = chunk(tiles(), int64_t{lanes} * vector, 1);
    return finish_tiling(shape, lanes, static_cast<int>(slots), 1, pixels, channels, shape.hw,
                         slots * shape.c / vector);
  }
  const int group = row_group(shape.hw, vector);
  const int astray = vector - vector / group;  // elements of a slot's first vector before its tile
  const int spare = astray > 0 ? 1 : 0;
  int64_t lanes = 32;
  const auto pixels = [&] {
    return shape.hw + astray <= lanes * vector
               ? shape.hw
               : even_part(ceil_div(shape.hw, vector), lanes - spare) * vector;
  };
  while (lanes > 8 && shape.n * ceil_div(shape.hw, pixels()) < kReduceBlocks) lanes -= 8;
  const int64_t tile = pixels(), tiles = shape.n * ceil_div(shape.hw, tile);
  lanes = ceil_div(tile + astray, vector);
  const int pitch = fold_pitch(static_cast<int>(lanes), vector, stat_bytes);
  const int64_t slots =
      std::min({kThreads / lanes, kSharedBytes / (vector * pitch * stat_bytes), int64_t{shape.c},
                std::max(kLargestStep / shape.hw * vector, int64_t{1})});
  const int64_t step = std::max<int64_t>(slots / group, 1) * group;
  Tiling tiling =
      finish_tiling(shape, static_cast<int>(lanes), static_cast<int>(step), group, tile,
                    chunk(tiles, step, kFewVectors), shape.hw, step * shape.hw / vector);
  tiling.pitch = pitch;
  return tiling;
}

inline int64_t fold_bytes(const Tiling& tiling, bool channels_last, int vector,
                          int64_t stat_bytes) {
  const int64_t rows = channels_last ? tiling.tile : int64_t{tiling.slots} * vector;
  return rows * tiling.pitch * stat_bytes;
}

// For work that is independent per element. `row_bytes`: of shared memory for each row of a chunk
// and each lane (NCHW). `wanted`: blocks.
inline Tiling stream_tiling(const Shape& shape, bool channels_last, int vector,
                            int64_t row_bytes = 0, int64_t wanted = kStreamBlocks) {
  if (channels_last) {
    const int lanes = static_cast<int>(even_part(shape.c / vector, 64));
    const int64_t channels = int64_t{lanes} * vector;
    const int64_t slots = std::min<int64_t>(kThreads / lanes, ceil_div(shape.hw, kBurst));
    int64_t pixels = 4 * kBurst * slots;
    const int64_t chunks = ceil_div(shape.c, channels);
    while (pixels > kFewVectors * slots && shape.n * chunks * ceil_div(shape.hw, pixels) < wanted) {
      pixels /= 2;
    }
    return finish_tiling(shape, lanes, static_cast<int>(slots), 1, pixels, channels, shape.hw,
                         slots * shape.c / vector);
  }
  const int group = row_group(shape.hw, vector);
  const int64_t row = group * shape.hw, rows = shape.c / group;
  const int lanes = static_cast<int>(even_part(row / vector, 64));
  const int slots = static_cast<int>(std::min(
      {int64_t{kThreads} / lanes, rows, std::max(kLargestStep / (row / vector), int64_t{1})}));
  const int64_t tile = int64_t{lanes} * vector;
  const int64_t step = int64_t{slots} * group;
  int64_t channels =
      chunk_channels(shape, shape.n * ceil_div(row, tile), step, kFewVectors, wanted);
  if (row_bytes > 0) {
    const int64_t most = kSharedBytes / (row_bytes * (lanes + 1)) / slots * step;
    channels = std::min(channels, most);
  }
  return finish_tiling(shape, lanes, slots, group, tile, channels, row, slots * row / vector);
}

// A convolution's tile: `rows` x `columns` of an image. A window around it holds K - 1 rows more,
// each `pitch` elements wide: taps are read in fours, also those beyond K.
struct StencilTiling {
  int rows, columns, pitch;
  int quad_bits;          // 2^quad_bits threads have a quad of pixels each,
  int parts;              // in each of so many parts, which share out the taps
  int64_t across, tiles;  // tiles side by side, and of an image
  int64_t blocks;
  int threads;
};

constexpr int kQuad = 4;  // neighbouring pixels, or taps, that a thread takes together

inline int tap_quads(int k) { return static_cast<int>(ceil_div(k, kQuad)); }

// Elements of both weight planes, each row filled up to whole quads.
inline int64_t padded_taps(int k) { return 2 * k * kQuad * tap_quads(k); }

inline int64_t window_elements(const StencilTiling& tiling, int k) {
  return int64_t{tiling.rows + k - 1} * tiling.pitch;
}

inline StencilTiling finish_stencil(const Shape& shape, int k, int rows, int columns) {
  const int64_t down = ceil_div(shape.h, rows), across = ceil_div(shape.w, columns);
  return {rows,   columns,       columns + kQuad * tap_quads(k), 0, 1,
          across, down * across, shape.n * down * across,        0};
}

// Several threads for each quad, up to kThreads: they fill the window and go through its rows
// quickly. These kernels are short, and what they wait for is most of their time.
inline StencilTiling stencil_tiling(const Shape& shape, int k) {
  const int quads = static_cast<int>(even_part(ceil_div(shape.w, kQuad), 8));
  int rows = std::min(128 / quads, 64);
  const int64_t across = ceil_div(shape.w, kQuad * quads);
  while (rows * quads >= 64 && shape.n * across * ceil_div(shape.h, rows) < kReduceBlocks) {
    rows = (rows + 1) / 2;
  }
  rows = static_cast<int>(even_part(shape.h, rows));
  StencilTiling tiling = finish_stencil(shape, k, rows, kQuad * quads);
  while (1 << tiling.quad_bits < rows * quads) ++tiling.quad_bits;
  tiling.parts = std::min(kThreads >> tiling.quad_bits, 8);
  tiling.threads = std::max(tiling.parts << tiling.quad_bits, 32);
  return tiling;
}

// The taps of the convolution: two planes of K x K, and the bias.
inline int weight_taps(int k) { return 2 * k * k + 1; }

// For the weight's gradient: kWeightRows threads, one for each row of a tile, for each (plane, ky).
// An odd number of quads in a pitch: so the rows of neighbouring threads lie in different banks.
constexpr int kWeightRows = 16;

struct WeightTiling {
  StencilTiling stencil;
  int64_t groups, tiles;  // tiles of a group
  int64_t rows;           // of partial sums of a group, one for each of its blocks
};

inline WeightTiling weight_tiling(const Shape& shape, int k, int64_t groups) {
  const int rows = static_cast<int>(even_part(shape.h, kWeightRows));
  const int quads = static_cast<int>(even_part(ceil_div(shape.w, kQuad), k <= 7 ? 14 : 7));
  StencilTiling stencil = finish_stencil(shape, k, rows, kQuad * quads);
  if (stencil.pitch / kQuad % 2 == 0) stencil.pitch += kQuad;
  stencil.threads = 2 * k * kWeightRows;
  const int64_t some = std::max(groups, int64_t{1});  // none only for an empty batch
  const int64_t tiles = shape.n / some * stencil.tiles;
  const int64_t blocks = std::min(tiles, std::max(kWeightBlocks / some, int64_t{1}));
  stencil.blocks = groups * blocks;
  return {stencil, groups, tiles, blocks};
}

inline int64_t weight_partials(const Shape& shape, int k, int64_t groups) {
  return weight_tiling(shape, k, groups).stencil.blocks * weight_taps(k);
}

}  // namespace attn_kernels
