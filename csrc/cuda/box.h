// How ops whose operands broadcast to a map see it, and how their work is cut: the map in the order
// of its memory, whatever its layout means. Host code, and the plain structs that travel to the
// kernels. Functions of the shape alone, as in tiling.h.
//
// So NCHW and channels_last are one to the kernels, and so is a shuffle of channels: it is a map of
// the same box, with other strides.
#pragma once

#include <array>
#include <limits>

#include "tiling.h"

namespace attn_kernels {

// n images of size[0] x size[1] x size[2] elements, the last of them side by side.
struct Box {
  int64_t n;
  unsigned size[3];

  int64_t elements() const { return int64_t{size[0]} * size[1] * size[2]; }
};

// A tensor that broadcasts to a box: its strides are 0 along what it has one of.
template <class Value>
struct Spread {
  Value* data;  // may be null
  int64_t image;
  int64_t stride[3];
};

using Extents = std::array<int64_t, 3>;

// Channels, rows and columns in the order of memory.
inline Extents in_memory_order(bool channels_last, int64_t c, int64_t h, int64_t w) {
  return channels_last ? Extents{h, w, c} : Extents{c, h, w};
}

inline Box box_of(int64_t n, const Extents& size) {
  return {n,
          {static_cast<unsigned>(size[0]), static_cast<unsigned>(size[1]),
           static_cast<unsigned>(size[2])}};
}

inline Box box_of(const Shape& s, bool channels_last) {
  return box_of(s.n, in_memory_order(channels_last, s.c, s.h, s.w));
}

// A dense tensor of these sizes.
template <class Value>
Spread<Value> spread_of(Value* data, const Extents& size) {
  const int64_t row = size[2], plane = size[1] * row;
  const auto of = [](int64_t extent, int64_t stride) { return extent == 1 ? 0 : stride; };
  return {data, size[0] * plane, {of(size[0], plane), of(size[1], row), of(size[2], 1)}};
}

// Channels of a group, of every group, and `pixels`, in the order of memory: of what a shuffle of
// channels takes, which puts channel (group, j) to (j, group).
inline Extents shuffled_extents(int64_t c, int64_t pixels, bool channels_last, int64_t groups) {
  return channels_last ? Extents{pixels, groups, c / groups} : Extents{groups, c / groups, pixels};
}

inline Box shuffled_box(const Shape& s, bool channels_last, int64_t groups) {
  return box_of(s.n, shuffled_extents(s.c, s.hw, channels_last, groups));
}

// (N, C) coefficients of what is shuffled.
template <class Value>
Spread<Value> shuffled_channels(Value* data, const Shape& s, bool channels_last, int64_t groups) {
  return spread_of(data, shuffled_extents(s.c, 1, channels_last, groups));
}

// What is left of the shuffle, as the box before it has it.
template <class Value>
Spread<Value> shuffled_map(Value* data, const Shape& s, bool channels_last, int64_t groups) {
  const int64_t image = s.c * s.hw;
  if (channels_last) return {data, image, {s.c, 1, groups}};
  return {data, image, {s.hw, groups * s.hw, 1}};
}

// How a stream is cut: a block has `threads` * `steps` vectors of an image, one after the other.
struct BoxStream {
  int64_t vectors;   // of an image
  unsigned tiles;    // of an image
  int threads;       // hence vectors from a thread's vector to its next,
  unsigned step[3];  // and how far that is
  int steps;         // vectors of a thread
  int64_t blocks;
};

inline BoxStream box_stream(const Box& box, int vector) {
  const int64_t vectors = box.elements() / vector;
  const auto threads =
      static_cast<int>(std::clamp<int64_t>(ceil_div(vectors, kFewVectors), 1, kThreads));
  int steps = 4 * kBurst;
  const auto tiles = [&] { return ceil_div(vectors, int64_t{threads} * steps); };
  while (steps > kFewVectors && box.n * tiles() < kStreamBlocks) steps /= 2;
  const int64_t far = int64_t{threads} * vector, row = box.size[2], plane = row * box.size[1];
  return {vectors,
          static_cast<unsigned>(tiles()),
          threads,
          {static_cast<unsigned>(far / plane), static_cast<unsigned>(far % plane / row),
           static_cast<unsigned>(far % row)},
          steps,
          box.n * tiles()};
}

// ---- Sums ------------------------------------------------------------------------------------

constexpr int kBoxSums = 4;                // at once
constexpr int64_t kTileElements = 4096;    // of a tile of sums, at most
constexpr int64_t kTileBytes = 36 * 1024;  // of shared memory for them

// What is summed along the sizes that it does not keep.
using Keeps = std::array<bool, 3>;

// How sums are cut: a block has a tile of an image, in shared memory.
struct BoxTiling {
  unsigned tile[3], tiles[3];
  int64_t blocks;
  int threads;
  int pitch;  // elements of a value in shared memory

  int64_t elements() const { return int64_t{tile[0]} * tile[1] * tile[2]; }
  // Tiles along what a sum does not keep: parts of it.
  int64_t parts(const Keeps& keeps) const {
    int64_t parts = 1;
    for (int d = 0; d < 3; ++d) parts *= keeps[d] ? 1 : tiles[d];
    return parts;
  }
};

// Whether all vectors of every tile begin where memory has them, and end within it.
inline bool vectors_fit(const Box& box, const Extents& tile, int vector) {
  const int64_t row = box.size[2], plane = row * box.size[1];
  const auto fits = [=](int64_t elements) { return elements % vector == 0; };
  if (fits(row) && fits(tile[2])) return true;
  if (tile[2] < row) return false;
  if (fits(plane) && fits(tile[1] * row)) return true;
  return tile[1] * row == plane && fits(box.elements()) && fits(tile[0] * plane);
}

// The tile of at most `capacity` elements that moves the fewest bytes: what parts of sums take, and
// what short runs of memory waste. No element of it is 0, but where no tile fits the vector.
inline Extents best_tile(const Box& box, int vector, int64_t capacity, const Keeps* keeps, int sums,
                         int64_t element_bytes) {
  const auto candidates = [&](int64_t size) {
    std::array<int64_t, 16> all{};
    int count = 0;
    for (int64_t some = 1; some < size && some <= capacity; some *= 2) all[count++] = some;
    if (size <= capacity) all[count++] = size;
    return all;
  };
  const int64_t depth = box.size[0], height = box.size[1], width = box.size[2];
  const int64_t group = row_group(height * width, vector);
  Extents best{};
  double least = std::numeric_limits<double>::infinity();
  for (const int64_t columns : candidates(width)) {
    for (const int64_t rows : candidates(height)) {
      if (columns == 0 || rows == 0 || columns * rows > capacity) continue;
      const bool whole = columns * rows == height * width;
      const int64_t unit = whole ? group : 1;
      const int64_t most = std::min(depth, capacity / (columns * rows)) / unit * unit;
      if (most == 0) continue;
      const int64_t planes = ceil_div(even_part(depth, most), unit) * unit;
      const Extents tile{planes, rows, columns};
      if (!vectors_fit(box, tile, vector)) continue;
      const double run = static_cast<double>(columns < width ? columns
                                             : rows < height ? rows * columns
                                                             : planes * rows * columns);
      double cost = 16 / (run * static_cast<double>(element_bytes)) +
                    64 / static_cast<double>(planes * rows * columns);
      for (int s = 0; s < sums; ++s) {
        double summed = 1;
        bool in_one = true;
        for (int d = 0; d < 3; ++d) {
          if (keeps[s][d]) continue;
          summed *= static_cast<double>(tile[d]);
          in_one = in_one && tile[d] >= int64_t{box.size[d]};
        }
        if (!in_one) cost += 8 / (summed * static_cast<double>(element_bytes));
      }
      if (cost < least) least = cost, best = tile;
    }
  }
  return best;
}

// No blocks where the vector does not fit. values: of value_bytes each, for each element.
inline BoxTiling box_tiling(const Box& box, int vector, const Keeps* keeps, int sums, int values,
                            int64_t value_bytes, int64_t element_bytes) {
  int64_t capacity = std::min(kTileElements, kTileBytes / (values * value_bytes));
  BoxTiling tiling{};
  for (;; capacity /= 2) {
    const Extents tile = best_tile(box, vector, capacity, keeps, sums, element_bytes);
    if (tile[0] == 0) return tiling;  // as it was with more
    tiling.blocks = box.n;
    for (int d = 0; d < 3; ++d) {
      tiling.tile[d] = static_cast<unsigned>(tile[d]);
      tiling.tiles[d] = static_cast<unsigned>(ceil_div(box.size[d], tile[d]));
      tiling.blocks *= tiling.tiles[d];
    }
    const int64_t elements = tiling.elements();
    tiling.pitch = static_cast<int>(ceil_div(elements, 8) * 8);
    const int64_t warps = ceil_div(elements, int64_t{vector} * kBurst * 32);
    tiling.threads = static_cast<int>(std::min<int64_t>(32 * warps, kThreads));
    if (tiling.blocks >= kReduceBlocks || capacity < 1024) return tiling;
  }
}

}  // namespace attn_kernels
