// How the work of a reduction over pixels is cut: which block and which thread takes which part of
// which planes (image, channel). Host code; functions of the shape alone, as in tiling.h.
//
// In a block, thread t = slot * lanes + lane, and a thread moves vectors of V elements:
//                  block                        lane takes               slot takes
//   NCHW           `slots` planes, or a part    every lanes-th vector    a plane
//                  of one
//   channels_last  a chunk of channels in a     V channels               every slots-th pixel
//                  part of an image's pixels
// A plane of NCHW need not begin where a vector does: then its first and its last vector are shared
// with its neighbours, and both planes read it.
#pragma once

#include "tiling.h"

namespace attn_kernels {

// Blocks that keep a large GPU busy, without a second kernel that folds what they found.
constexpr int64_t kPlaneBlocks = 264;

struct PlaneTiling {
  int lanes, slots;
  int64_t tile;  // of a part: vectors of its plane (NCHW), pixels (channels_last)
  int parts;     // of a plane
  int chunks;    // of the channels (channels_last)
  int64_t blocks;
  unsigned step;  // vectors from a thread's vector to its next
  int helpers;    // threads that fold a plane's statistics in shared memory

  int threads() const { return lanes * slots; }
};

// Threads that first fold `inputs` statistics of each of `outputs` planes, as many each.
inline int fold_helpers(int threads, int outputs, int inputs) {
  int helpers = 1;
  while (helpers * helpers < inputs) ++helpers;
  return inputs < 8 ? 1 : std::clamp(threads / outputs, 1, helpers);
}

inline PlaneTiling nchw_plane_tiling(const Shape& shape, int vector) {
  const int64_t planes = shape.n * shape.c;
  const int64_t astray = shape.hw % vector == 0 ? 0 : vector - 1;
  const int64_t vectors = ceil_div(shape.hw + astray, vector);
  const int64_t rounds = ceil_div(vectors, kThreads * kBurst);
  const int64_t few = ceil_div(kPlaneBlocks, std::max(planes, int64_t{1}));
  const int64_t tile = ceil_div(vectors, std::min(rounds, few));
  const int parts = static_cast<int>(ceil_div(vectors, tile));
  const auto lanes = static_cast<int>(ceil_div(tile, kBurst * ceil_div(tile, kThreads * kBurst)));
  int slots = static_cast<int>(std::clamp<int64_t>(planes, 1, parts > 1 ? 1 : kThreads / lanes));
  while (slots > 1 && lanes * slots > 64 && ceil_div(planes, slots) < kPlaneBlocks) {
    slots = (slots + 1) / 2;
  }
  return {lanes,
          slots,
          tile,
          parts,
          1,
          ceil_div(planes, slots) * parts,
          static_cast<unsigned>(lanes),
          fold_helpers(lanes * slots, slots, lanes)};
}

// Where blocks are few, they get narrower (down to 8 vectors a row), then the pixels are shared
// out.
inline PlaneTiling channels_last_plane_tiling(const Shape& shape, int vector, int64_t stat_bytes) {
  const int64_t all = shape.c / vector;
  int64_t lanes = even_part(all, 32);
  const auto blocks = [&] { return std::max(shape.n, int64_t{1}) * ceil_div(all, lanes); };
  while (lanes >= 16 && blocks() < kPlaneBlocks && shape.hw > kBurst * (kThreads / lanes)) {
    lanes = ceil_div(lanes, 2);
  }
  const int64_t slots = std::max<int64_t>(std::min({kThreads / lanes, ceil_div(shape.hw, kBurst),
                                                    kSharedBytes / (lanes * vector * stat_bytes)}),
                                          1);
  const int64_t burst = kBurst * slots;
  const int64_t few = ceil_div(shape.hw, ceil_div(kPlaneBlocks, blocks()));
  const int64_t tile = ceil_div(few, burst) * burst;
  const int64_t parts = ceil_div(shape.hw, tile), chunks = ceil_div(all, lanes);
  const int width = static_cast<int>(lanes), height = static_cast<int>(slots);
  return {width,
          height,
          tile,
          static_cast<int>(parts),
          static_cast<int>(chunks),
          shape.n * parts * chunks,
          static_cast<unsigned>(slots * all),
          fold_helpers(width * height, width * vector, height)};
}

// For what is summed or sought over pixels, with statistics of up to `stat_bytes` each.
inline PlaneTiling plane_tiling(const Shape& shape, bool channels_last, int vector,
                                int64_t stat_bytes) {
  return channels_last ? channels_last_plane_tiling(shape, vector, stat_bytes)
                       : nchw_plane_tiling(shape, vector);
}

}  // namespace attn_kernels
