// When three stages run in one launch (ordered.cuh), and in which order. Host code.
#pragma once

#include <optional>

#include "launch.h"
#include "ordered.cuh"

namespace attn_kernels {

// Bytes of x for an item of the second look, at most: small items keep close together.
constexpr int64_t kOrderedItemBytes = 32 * 1024;
// Blocks of a multiprocessor: one alone has too few loads in flight.
constexpr int kOrderedBlocks = 2;
constexpr int64_t kMostTickets = int64_t{1} << 31;

inline int64_t ordered_counters(const Shape& shape) { return 1 + 2 * shape.n; }

// What is looked at twice: of all images; map_bytes of it are a map like x.
struct Twice {
  int64_t images, bytes, map_bytes;
};

struct Order {
  int64_t stencil_lag, second_lag;  // in images
};

// None where separate launches are better: where L2 holds all that is looked at twice anyway, and
// where what lies between both looks takes more than two thirds of it: as many images as the lag,
// of what is looked at twice and as much again that streams through. While an item of the first
// look is under way, all blocks together begin with blocks / (2 items) images, half of their time
// being spent on second looks; a third less lets few wait and keeps more. A stencil takes a small
// part of that time.
inline std::optional<Order> order_of(const Device& device, const Twice& twice,
                                     int64_t first_items) {
  if (twice.bytes <= device.l2_bytes) return {};
  const int64_t blocks = int64_t{device.multiprocessors} * kOrderedBlocks;
  const int64_t stencil = ceil_div(blocks, 3 * first_items);
  const int64_t second = stencil + ceil_div(stencil, 4);
  const int64_t image = (twice.bytes + twice.map_bytes) / twice.images;
  if ((second + 1) * image > device.l2_bytes / 3 * 2) return {};
  return Order{stencil, second};
}

// Launches all stages as one, if that pays; says whether it did. chunks: in which the first look
// shares out the channels. More than one, and no item knows a pixel's statistic.
template <class Launch, class First, class Stencil, class Second>
bool launch_ordered(const Launch& launch, const Twice& twice, int chunks, const Stage<First>& first,
                    const Stage<Stencil>& stencil, const Stage<Second>& second,
                    unsigned* counters) {
  constexpr int64_t kTicketBytes = 16;
  const Device device = launch.device();
  const int64_t images = twice.images;
  const auto order = order_of(device, twice, first.blocks / images);
  if (chunks > 1 || !order) return false;
  const int64_t steps = images + order->second_lag;
  const int64_t items = (first.blocks + stencil.blocks + second.blocks) / images;
  int64_t shared = std::max({first.shared_bytes, stencil.shared_bytes, second.shared_bytes});
  shared = ceil_div(shared, kTicketBytes) * kTicketBytes;
  const int threads = std::max({first.threads, stencil.threads, second.threads});
  if (steps * items > kMostTickets || shared + kTicketBytes > kSharedBytes) return false;
  if (threads > kThreads) return false;
  const auto of_image = [=](int64_t blocks) { return static_cast<unsigned>(blocks / images); };
  const Ordered o{
      static_cast<unsigned>(images),
      {0, static_cast<unsigned>(order->stencil_lag), static_cast<unsigned>(order->second_lag)},
      {of_image(first.blocks), of_image(stencil.blocks), of_image(second.blocks)},
      static_cast<unsigned>(steps * items),
      shared,
      counters};
  launch.zero(counters, 1 + 2 * images);
  launch(ordered_kernel<First, Stencil, Second>, int64_t{device.multiprocessors} * kOrderedBlocks,
         threads, shared + kTicketBytes, o, first.arguments, stencil.arguments, second.arguments);
  return true;
}

}  // namespace attn_kernels
