// One launch for three kernels that follow each other, for an x that is larger than the L2 cache:
// the second look at x comes so soon after the first that it is a hit, and DRAM is read once.
//
// The stages are the first look (a reduction over channels), the stencil, and the second look.
// Their items, the very ones of the separate kernels, are handed out by a ticket in steps: step s
// has the first look at image s, the stencil of image s - lag[1] and the second look at image s -
// lag[2]. An item waits until all items of its image in the stage before are done; the lags are
// what it takes for that to have happened already, as a rule.
//
// Nothing need be resident at the same time: an item waits only for items with lower tickets, which
// running blocks hold. What a block writes and others read is published by a fence before its item
// is counted and read after a fence behind the count: by loads that see what changes while the
// kernel runs, which __restrict__ would not allow.
#pragma once

#include "device.cuh"
#include "tiling.h"

namespace attn_kernels {

struct Ordered {
  unsigned images;
  unsigned lag[3];    // of the stages behind the first, in images
  unsigned items[3];  // of an image, in each stage
  unsigned tickets;
  int64_t shared_bytes;  // of the items; the block's ticket lies behind them
  // One ticket, then (2, images): how many items of an image are done in the first two stages. All
  // are 0 when the kernel starts.
  unsigned* counters;

  __device__ unsigned* done(int stage, unsigned image) const {
    return counters + 1 + stage * images + image;
  }
};

struct OrderedItem {
  int stage;
  unsigned image, item;  // item: of the image
  bool exists;           // in the first and the last steps some stages have no image

  __device__ OrderedItem(const Ordered& o, unsigned ticket) : stage(0) {
    const unsigned of_step = o.items[0] + o.items[1] + o.items[2];
    item = ticket % of_step;
    while (item >= o.items[stage]) item -= o.items[stage++];
    image = ticket / of_step - o.lag[stage];  // wraps around below 0
    exists = image < o.images;
  }
};

// Looks less and less often, so that those who wait leave the L2 cache to those who work.
__device__ __forceinline__ void wait_for(unsigned* counter, unsigned wanted) {
  unsigned nanoseconds = 32;
  while (atomicAdd(counter, 0u) < wanted) {
    __nanosleep(nanoseconds);
    if (nanoseconds < 1024) nanoseconds *= 2;
  }
  __threadfence();
}

// A Stage does its item-th item of all when it is called; threads beyond those it wants do nothing.
template <class First, class Stencil, class Second>
__global__ void __launch_bounds__(kThreads, 1)
    ordered_kernel(Ordered o, First first, Stencil stencil, Second second) {
  auto* mine = reinterpret_cast<unsigned*>(dynamic_shared<unsigned char>() + o.shared_bytes);
  while (true) {
    if (threadIdx.x == 0) {
      *mine = atomicAdd(o.counters, 1u);
      const OrderedItem next(o, *mine);
      if (next.exists && next.stage > 0) {
        wait_for(o.done(next.stage - 1, next.image), o.items[next.stage - 1]);
      }
    }
    __syncthreads();
    const unsigned ticket = *mine;
    if (ticket >= o.tickets) return;
    const OrderedItem now(o, ticket);
    if (now.exists) {
      const unsigned item = now.image * o.items[now.stage] + now.item;
      if (now.stage == 0) first(item);
      if (now.stage == 1) stencil(item);
      if (now.stage == 2) second(item);
    }
    __syncthreads();
    if (threadIdx.x == 0 && now.exists && now.stage < 2) {
      __threadfence();
      atomicAdd(o.done(now.stage, now.image), 1u);
    }
  }
}

}  // namespace attn_kernels
