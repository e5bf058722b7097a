// What the CPU kernels of mix are called with.
#pragma once

#include "planes.h"
#include "types.h"

namespace attn_kernels {

// One of the maps that are mixed, wherever its planes, or in channels_last its pixels, lie.
template <class E>
struct MixMap {
  E* data;
  int64_t image;  // elements from one image to the next,
  int64_t line;   // and from one channel to the next; in channels_last from one pixel to the next

  ATTN_HD E* at(int64_t n, int64_t channel_or_pixel) const {
    return data + n * image + channel_or_pixel * line;
  }
};

template <class E>
struct MixMaps {
  const MixMap<E>* map;
  int64_t count;
};

// y = act(sum of s * map + residual)
template <class T>
struct Mix {
  Planes planes;
  MixMaps<const T> x;
  const acc_t<T>* s;  // (n, maps, c)
  const T* residual;  // may be null
  bool relu, past_cache;
  T* y;
};

// The sums over pixels of dr * map; dr = dy where y, the result of a ReLU, is not 0 (y null:
// everywhere, and dr is not written).
template <class T>
struct MixSums {
  Planes planes;
  MixMaps<const T> x;
  const T *dy, *y;
  acc_t<T>* d_s;  // (n, maps, c)
  T* dr;
};

// The mean over pixels of the sum of all maps.
template <class T>
struct MixSqueeze {
  Planes planes;
  MixMaps<const T> x;
  acc_t<T>* mean;  // (n, c)
};

// dx = s * dr + offset, of each map
template <class T>
struct MixBackward {
  Planes planes;
  const T* dr;             // null together with s
  const acc_t<T>* s;       // (n, maps, c)
  const acc_t<T>* offset;  // (n, c); may be null
  bool past_cache;
  MixMaps<T> dx;
};

}  // namespace attn_kernels
