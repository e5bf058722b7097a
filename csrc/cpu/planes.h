// How ops that know of no neighbours among pixels see a map, and into which tasks they cut it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/spatial_gate.h"

namespace attn_kernels {

// In NCHW a task is the plane of one channel of one image. In channels_last it is a block of pixels
// and channels of one image; who sums over pixels has all of them in one block.
struct Planes {
  int64_t n, c, pixels;
  bool channels_last;
  int64_t pixel_block, channel_block;

  ATTN_HD int64_t pixel_blocks() const { return (pixels + pixel_block - 1) / pixel_block; }
  ATTN_HD int64_t channel_blocks() const { return (c + channel_block - 1) / channel_block; }
  ATTN_HD int64_t tasks() const {
    return channels_last ? n * pixel_blocks() * channel_blocks() : n * c;
  }
};

// One task in channels_last: `channels` channels from `channel` on, in pixels [begin, end).
struct PlaneBlock {
  int64_t n, channel, channels, begin, end;
};

ATTN_HD PlaneBlock plane_block(const Planes& p, int64_t task) {
  const int64_t blocks = p.channel_blocks(), channel = task % blocks * p.channel_block;
  const int64_t n = task / blocks / p.pixel_blocks();
  const int64_t begin = task / blocks % p.pixel_blocks() * p.pixel_block;
  return {n, channel, std::min(p.channel_block, p.c - channel), begin,
          std::min(begin + p.pixel_block, p.pixels)};
}

}  // namespace attn_kernels
