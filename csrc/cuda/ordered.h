// When three stages run in one launch (ordered.cuh), and in which order. Host code.
#pragma once

#include "launch.h"
#include "ordered.cuh"

namespace attn_kernels {

// Bytes of x for an item of the second look, at most: small items keep close together.
constexpr int64_t kOrderedItemBytes = 32 * 1024;
constexpr int kMostOrderedBlocks = 2;  // of a multiprocessor

inline int64_t ordered_counters(const Shape& shape) { return 1 + 2 * shape.n; }

// Blocks of a multiprocessor, and the stages' lags in images; no blocks: launch them separately.
struct Order {
  int blocks;
  int64_t stencil_lag, second_lag;
};

// `bytes`: of what is read twice. All of it in L2 anyway: separate launches, which overlap better.
// Else one, with as many blocks as leave the images between both looks at x in half of L2; the other
// half is for what streams through. While an item of the first look is under way, all blocks together
// begin with blocks / (2 items) images, half of their time being spent on second looks. A stencil
// takes a small part of that time.
template <class Op>
Order order_of(const Device& device, int64_t bytes, const Stage<Op>& first) {
  const int64_t images = first.arguments.shape.n;
  if (bytes <= device.l2_bytes || first.arguments.tiling.chunks > 1) return {};
  for (int blocks = kMostOrderedBlocks; blocks > 0; --blocks) {
    const int64_t lag = ceil_div(int64_t{device.multiprocessors} * blocks, 2 * (first.blocks / images));
    const int64_t second = lag + ceil_div(lag, 4);
    if ((second + 1) * (bytes / images) <= device.l2_bytes / 2) return {blocks, lag, second};
  }
  return {};
}

template <class Launch, class First, class Stencil, class Second>
void launch_ordered(const Launch& launch, const Shape& shape, const Order& order,
                    const Stage<First>& first, const Stage<Stencil>& stencil,
                    const Stage<Second>& second, unsigned* counters) {
  const auto items = [&](int64_t blocks) { return static_cast<unsigned>(blocks / shape.n); };
  Ordered o = {};
  o.images = static_cast<unsigned>(shape.n);
  o.items[0] = items(first.blocks);
  o.items[1] = items(stencil.blocks);
  o.items[2] = items(second.blocks);
  o.lag[1] = static_cast<unsigned>(order.stencil_lag);
  o.lag[2] = static_cast<unsigned>(order.second_lag);
  o.tickets = (o.images + o.lag[2]) * (o.items[0] + o.items[1] + o.items[2]);
  const int64_t most = std::max({first.shared_bytes, stencil.shared_bytes, second.shared_bytes});
  o.shared_bytes = ceil_div(most, 16) * 16;
  o.counters = counters;
  launch.zero(counters, ordered_counters(shape));
  launch(ordered_kernel<First, Stencil, Second>,
         int64_t{launch.device().multiprocessors} * order.blocks,
         std::max({first.threads, stencil.threads, second.threads}), o.shared_bytes + 16, o,
         first.arguments, stencil.arguments, second.arguments);
}

}  // namespace attn_kernels
