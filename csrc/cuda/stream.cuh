// What a thread of a streaming kernel visits: `count` vectors, `step` apart. The two layouts mirror
// each other: with NCHW a thread stays at its pixels and goes through channels, with channels_last
// it stays at its channels and goes through pixels.
#pragma once

#include "view.cuh"

namespace attn_kernels {

template <bool kChannelsLast, int V>
struct Stream {
  int64_t image, tile;
  int64_t at;  // the first vector, in a tensor shaped like x
  int count;
  int64_t pixel;     // of the first vector's first element
  int pixel_step;    // channels_last; with NCHW all vectors have the same pixels
  int channel;       // of the first vector's first element
  int channel_step;  // NCHW; with channels_last all vectors have the same channels
  int split;         // from this element on, a vector's pixels are those of the next channel
  bool aligned;      // V divides the pixels of a channel
  int lane, slot;
  int first_channel, last_channel;  // of the block

  __device__ Stream(const Shape& shape, const Tiling& tiling, unsigned item)
      : lane(threadIdx.x % tiling.lanes), slot(threadIdx.x / tiling.lanes) {
    // Blocks that run at the same time have neighbouring tiles, of the same channels: together they
    // move long stretches of memory, which DRAM likes best.
    const unsigned tiles = static_cast<unsigned>(tiling.tiles), chunks = tiling.chunks;
    const unsigned chunk = item / tiles % chunks;
    image = item / tiles / chunks;
    tile = item % tiles;
    first_channel = static_cast<int>(chunk) * tiling.channels;
    last_channel =
        shape.c - first_channel < tiling.channels ? shape.c : first_channel + tiling.channels;
    aligned = tiling.group == 1;
    split = V;
    if constexpr (kChannelsLast) {
      channel = first_channel + lane * V;
      channel_step = 0;
      pixel = tile * tiling.tile + slot;
      pixel_step = tiling.slots;
      const bool inside = channel < last_channel;
      const int64_t end =
          shape.hw - tile * tiling.tile < tiling.tile ? shape.hw - tile * tiling.tile : tiling.tile;
      count = inside ? (static_cast<int>(end) - slot + pixel_step - 1) / pixel_step : 0;
      at = (image * shape.hw + pixel) * shape.c + channel;
      if (channel >= last_channel) channel = 0;  // any that is there: nothing is visited
    } else {
      pixel = tile * tiling.tile + lane * V;
      const bool inside = pixel < tiling.group * shape.hw;
      at = (image * shape.c + first_channel + slot * tiling.group) * shape.hw + pixel;
      channel = first_channel + slot * tiling.group;
      channel_step = tiling.slots * tiling.group;
      count = inside ? (last_channel - channel + channel_step - 1) / channel_step : 0;
      pixel_step = 0;
      if (!inside) pixel = 0;
      for (; pixel >= shape.hw; ++channel) pixel -= shape.hw;
      if (shape.hw - pixel < V) split = static_cast<int>(shape.hw - pixel);
    }
  }
};

// What is known per pixel, in planes of hw contiguous values.
template <class Value, bool kChannelsLast, int V>
class PerPixel {
 public:
  // plane: the image's
  __device__ void begin(const Value* plane, const Stream<kChannelsLast, V>& stream, int64_t hw) {
    plane_ = plane;
    if constexpr (!kChannelsLast) {
      load_pixels<V>(plane, stream.pixel, hw, stream.aligned, value_);
    }
  }
  // For the k-th vector, the u-th of a burst.
  __device__ void fetch(const Stream<kChannelsLast, V>& stream, int u, int k) {
    if constexpr (kChannelsLast) value_[u] = plane_[stream.pixel + k * stream.pixel_step];
  }
  // For element i of the burst's vector u.
  __device__ Value operator()(int u, int i) const { return value_[kChannelsLast ? u : i]; }

 private:
  const Value* plane_;
  Value value_[kChannelsLast ? kBurst : V];
};

// What is known per channel. kSplit: vectors of NCHW may straddle two channels.
template <class Value, bool kChannelsLast, int V, bool kSplit>
class PerChannel {
 public:
  // row: the image's
  __device__ void begin(const Value* row, const Stream<kChannelsLast, V>& stream,
                        bool aligned = false) {
    row_ = row;
    split_ = stream.split;
    if constexpr (kChannelsLast) {
      if (aligned) return load_aligned(row + stream.channel, value_);
#pragma unroll
      for (int i = 0; i < V; ++i) value_[i] = row[stream.channel + i];
    }
  }
  __device__ void fetch(const Stream<kChannelsLast, V>& stream, int u, int k) {
    if constexpr (!kChannelsLast) {
      const Value* at = row_ + stream.channel + k * stream.channel_step;
      value_[u] = at[0];
      if constexpr (kSplit) value_[kBurst + u] = at[split_ < V ? 1 : 0];
    }
  }
  __device__ Value operator()(int u, int i) const {
    if constexpr (kChannelsLast) {
      return value_[i];
    } else if constexpr (kSplit) {
      return i < split_ ? value_[u] : value_[kBurst + u];
    } else {
      return value_[u];
    }
  }

 protected:
  const Value* row_;
  int split_;
  Value value_[kChannelsLast ? V : (kSplit ? 2 : 1) * kBurst];
};

// The same from rows that need not be there: then it is 0.
template <class Value, bool kChannelsLast, int V, bool kSplit>
class MaybePerChannel : public PerChannel<Value, kChannelsLast, V, kSplit> {
  using Given = PerChannel<Value, kChannelsLast, V, kSplit>;

 public:
  // rows: of all images, or null; at: where the image's row begins
  __device__ void begin(const Value* rows, int64_t at, const Stream<kChannelsLast, V>& stream,
                        bool aligned = false) {
    is_given_ = rows != nullptr;
    if (is_given_) return Given::begin(rows + at, stream, aligned);
    this->split_ = V;
#pragma unroll
    for (Value& value : this->value_) value = 0;
  }
  __device__ void fetch(const Stream<kChannelsLast, V>& stream, int u, int k) {
    if (is_given_) Given::fetch(stream, u, k);
  }

 private:
  bool is_given_;
};

}  // namespace attn_kernels
