// Host side shared by the ops that see a map as planes.
#pragma once

#include "../common/plane_operands.h"
#include "launch.h"
#include "planes.h"

namespace attn_kernels {

// A single pixel is the same map in both formats: many images of it are one of many channels.
inline Planes whole_planes(const FeatureMap& x) {
  STD_TORCH_CHECK(x.c > 0 && x.h > 0 && x.w > 0, "attn_kernels: x must have channels and pixels");
  if (x.h * x.w == 1) return {1, x.n * x.c, 1, true, 1, 1};
  return {x.n, x.c, x.h * x.w, x.channels_last, 1, 1};
}

// For passes that treat every element alone.
inline Planes elementwise_planes(const FeatureMap& x) {
  Planes p = whole_planes(x);
  p.channel_block = std::clamp<int64_t>(p.c, 1, 4096);
  p.pixel_block = std::clamp<int64_t>(32768 / p.channel_block, 1, p.pixels);
  return p;
}

// For sums over pixels: few images are shared out by channels. No channel's sum depends on that.
inline Planes summing_planes(const FeatureMap& x) {
  constexpr int64_t kMost = 1024, kLeast = 32;
  const int64_t threads = torch::stable::get_num_threads();
  Planes p = whole_planes(x);
  p.pixel_block = p.pixels;
  p.channel_block = std::clamp<int64_t>(p.c, 1, kMost);
  while (p.n % threads != 0 && p.tasks() < 4 * threads && p.channel_block > kLeast)
    p.channel_block = (p.channel_block / 2 + kLeast - 1) / kLeast * kLeast;
  return p;
}

constexpr int64_t kElementsPerThread = 1 << 14;

// kernel(args, begin, end) over all tasks, in as many threads as the work is worth.
template <class Args>
void run_planes(void (*kernel)(const Args&, int64_t, int64_t), const Args& args) {
  const Planes& p = args.planes;
  const int64_t per_task = p.channels_last ? p.pixel_block * p.channel_block : p.pixels;
  torch::stable::parallel_for(0, p.tasks(), kElementsPerThread / per_task + 1,
                              [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

// An optional (n, c) coefficient of the accumulate dtype; null where it is absent.
template <class A>
const A* coefficient(const char* name, const std::optional<Tensor>& t, const FeatureMap& x) {
  check_coefficient(name, t, x);
  return t ? data<A>(*t) : nullptr;
}

// An optional map, laid out as x is.
inline std::optional<Tensor> optional_map(const std::optional<Tensor>& t, const FeatureMap& x) {
  if (!t) return t;
  return laid_out_as(*t, x);
}

template <class T>
T* optional_data(const std::optional<Tensor>& t) {
  return t ? data<T>(*t) : nullptr;
}

}  // namespace attn_kernels
