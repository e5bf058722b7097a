// When three stages run in one launch (ordered.cuh), and in which order. Host code.
#pragma once

#include "launch.h"
#include "ordered.cuh"

namespace attn_kernels {

// Bytes of x for an item of the second look, at most: small items keep close together.
constexpr int64_t kOrderedItemBytes = 32 * 1024;
constexpr int kMostOrderedBlocks = 2;  // of a multiprocessor
constexpr int64_t kMostTickets = int64_t{1} << 31;

inline int64_t ordered_counters(const Shape& shape) { return 1 + 2 * shape.n; }

// Blocks of a multiprocessor, and the stages' lags in images; no blocks: launch them separately.
struct Order {
  int blocks;
  int64_t stencil_lag, second_lag;
};

// `bytes`: of what is looked at twice. If L2 holds all of it anyway: separate launches, which
// overlap better. Else one, with as many blocks as leave the images between both looks in half of
// L2, if any do; the other half is for what streams through. While an item of the first look is
// under way, all blocks together begin with blocks / (2 items) images, half of their time being
// spent on second looks. A stencil takes a small part of that time.
inline Order order_of(const Device& device, int64_t images, int64_t bytes, int64_t first_items) {
  if (bytes <= device.l2_bytes) return {};
  for (int blocks = kMostOrderedBlocks; blocks > 0; --blocks) {
    const int64_t lag = ceil_div(int64_t{device.multiprocessors} * blocks, 2 * first_items);
    const int64_t second = lag + ceil_div(lag, 4);
    if ((second + 1) * (bytes / images) <= device.l2_bytes / 2) return {blocks, lag, second};
  }
  return {};
}

// Launches all stages as one, if that pays; says whether it did. chunks: in which the first look
// shares out the channels. More than one, and no item knows a pixel's statistic.
template <class Launch, class First, class Stencil, class Second>
bool launch_ordered(const Launch& launch, int64_t images, int64_t bytes, int chunks,
                    const Stage<First>& first, const Stage<Stencil>& stencil,
                    const Stage<Second>& second, unsigned* counters) {
  constexpr int64_t kTicketBytes = 16;
  const Device device = launch.device();
  const Order order = chunks > 1 ? Order{} : order_of(device, images, bytes, first.blocks / images);
  const int64_t steps = images + order.second_lag;
  const int64_t items = (first.blocks + stencil.blocks + second.blocks) / images;
  int64_t shared = std::max({first.shared_bytes, stencil.shared_bytes, second.shared_bytes});
  shared = ceil_div(shared, kTicketBytes) * kTicketBytes;
  if (order.blocks == 0 || steps * items > kMostTickets || shared + kTicketBytes > kSharedBytes) {
    return false;
  }
  const auto of_image = [=](int64_t blocks) { return static_cast<unsigned>(blocks / images); };
  const Ordered o{
      static_cast<unsigned>(images),
      {0, static_cast<unsigned>(order.stencil_lag), static_cast<unsigned>(order.second_lag)},
      {of_image(first.blocks), of_image(stencil.blocks), of_image(second.blocks)},
      static_cast<unsigned>(steps * items),
      shared,
      counters};
  launch.zero(counters, 1 + 2 * images);
  launch(ordered_kernel<First, Stencil, Second>, int64_t{device.multiprocessors} * order.blocks,
         std::max({first.threads, stencil.threads, second.threads}), shared + kTicketBytes, o,
         first.arguments, stencil.arguments, second.arguments);
  return true;
}

}  // namespace attn_kernels
