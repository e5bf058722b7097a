// What the CPU kernels of the perceptron between squeeze and gate are called with.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/excite.h"

namespace attn_kernels {

// A task is so many units of a layer, of all images. No unit's bits depend on the others.
constexpr int64_t kExciteBlock = 64;
constexpr int64_t excite_blocks(int64_t units) { return (units + kExciteBlock - 1) / kExciteBlock; }

// For images [first, last): scale = gate(w2 activation(w1 mean + b1) + b2).
template <class A>
struct Excite {
  int64_t first, last, c, r;
  ExciteActivation activation;
  ExciteGate gate;
  const A* mean;               // (n, c)
  const A *w1, *b1, *w2, *b2;  // (r, c), (r), (c, r), (c); a bias may be null
  A *hidden, *active;          // (n, r), before and behind the activation
  A* scale;                    // (n, c)
};

template <class A>
struct ExciteBackward {
  int64_t first, last, c, r;
  ExciteActivation activation;
  ExciteGate gate;
  A share;  // of one pixel in the mean
  const A *mean, *w1, *w2, *hidden, *scale;
  A* d_logit;            // (n, c), at first the gradient of scale
  A *active, *d_hidden;  // (n, r)
  A* offset;             // (n, c): what each pixel gets through the mean
  A *d_w1, *d_b1, *d_w2, *d_b2;
};

// The same with image `i` alone.
template <class Args>
Args of_image(Args args, int64_t i) {
  args.first = i;
  args.last = i + 1;
  return args;
}

}  // namespace attn_kernels
