// How ops with operands that broadcast to a map see it: image by image, in bands of whole rows.
#pragma once

#include <algorithm>
#include <cstdint>

namespace attn_kernels {

// A task is a band of some channels of one image. In channels_last a run, the unit of work, is
// along the channels of a pixel; in NCHW along the pixels of a channel. Those of whole rows,
// `by_rows`, are for operands that have one value for each row, or for each column.
struct Bands {
  int64_t n, c, h, w;
  bool channels_last;
  bool by_rows;
  int64_t rows, channels;  // of a task

  int64_t bands() const { return (h + rows - 1) / rows; }
  int64_t blocks() const { return (c + channels - 1) / channels; }
  int64_t tasks() const { return n * bands() * blocks(); }
};

// A tensor that broadcasts to the map: its strides are 0 along what it has one of.
struct Broadcast {
  int64_t n, c, h, w;

  // Whether one stride leads through all pixels.
  bool runs_on(int64_t width) const { return h == width * w; }
};

// A factor, or the gradient of a statistic; data may be null. Where it counts along a run, it does
// so element by element.
template <class A>
struct Operand {
  const A* data;
  Broadcast stride;
};

// Where sums over what is broadcast are added up. Bands that share sums have one set each.
struct Sums {
  double* data;  // may be null
  Broadcast stride;
  int64_t of_band;
};

}  // namespace attn_kernels
