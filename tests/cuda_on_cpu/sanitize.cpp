// Runs every op on small shapes, for the sanitizers: they watch, and end the program if they see a
// race, a stray access or undefined behaviour.
#include <array>
#include <cstdio>

#include "broadcast_ops.h"
#include "mix_ops.h"

namespace {

using namespace cuda_on_cpu;

template <class T>
Bytes random_tensor(std::int64_t count) {
  static std::mt19937 bits(0);
  std::normal_distribution<float> normal;
  std::vector<T> values(count);
  for (T& value : values) value = attn_kernels::narrow<T>(normal(bits));
  return Bytes(reinterpret_cast<const char*>(values.data()), count * sizeof(T));
}

template <class T>
void run_all(const Case& at) {
  using Real = Acc<T>;
  const std::int64_t pixels = at.shape.n * at.shape.hw, elements = pixels * at.shape.c;
  const Bytes x = random_tensor<T>(elements), dy = random_tensor<T>(elements), none;
  const Bytes weight = random_tensor<Real>(at.groups * 2 * at.k * at.k);
  const Bytes bias = random_tensor<Real>(at.groups);
  const Bytes planes = random_tensor<Real>(2 * pixels), plane = random_tensor<Real>(pixels);
  const Bytes scale = random_tensor<Real>(at.shape.n * at.shape.c);
  const auto run = [&](const char* op, const std::vector<Bytes>& input) {
    AllOps<T>(at, input).run(op);
  };
  run("channel_pool", {x, none, none});
  run("channel_pool_backward", {planes, x, none, none});
  run("channel_pool_backward", {planes, x, scale, scale});
  run("spatial_gate", {x, weight, bias, none, none, none});
  run("spatial_gate", {x, weight, none, scale, scale, dy});
  run("spatial_gate_backward", {dy, x, weight, plane, planes, none, none, none});
  run("spatial_gate_backward", {dy, x, weight, plane, planes, scale, scale, dy});
  run("spatial_attention_backward", {plane, x, weight, plane, planes, none, none});
}

template <class Value>
Bytes bytes_of(const std::vector<Value>& values) {
  return Bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Value));
}

// Those that see x as planes, of which each has an extreme in its first and its last pixel; with R
// hidden units.
template <class T>
void run_planes(const Case& at, std::int64_t r) {
  using Real = Acc<T>;
  const std::int64_t planes = at.shape.n * at.shape.c, elements = planes * at.shape.hw;
  const Bytes x = random_tensor<T>(elements), dy = random_tensor<T>(elements), none;
  const Bytes scale = random_tensor<Real>(planes), hidden = random_tensor<Real>(at.shape.n * r);
  const Bytes w = random_tensor<Real>(at.shape.c * r), b = random_tensor<Real>(r);
  const Bytes silu_and_sigmoid = bytes_of<std::int64_t>({2, 0});
  const auto places = [&](std::int64_t pixel) {
    return bytes_of(std::vector<std::int64_t>(planes, pixel));
  };
  const auto run = [&](const char* op, const std::vector<Bytes>& input) {
    AllOps<T>(at, input).run(op);
  };
  for (const std::int64_t statistics : {1, 3, 12, 15}) {
    run("squeeze", {x, bytes_of<std::int64_t>({statistics})});
  }
  run("affine_gate", {x, scale, none, none});
  run("affine_gate", {x, scale, scale, dy});
  run("affine_gate_sums", {dy, x, none});
  run("affine_gate_sums", {dy, x, dy});
  const Bytes first = places(0), last = places(at.shape.hw - 1);
  run("squeeze_backward", {dy, x, scale, scale, scale, first, scale, last, scale});
  run("squeeze_excite", {x, w, b, w, none, silu_and_sigmoid});
  run("squeeze_excite_backward", {dy, x, w, w, scale, scale, hidden, silu_and_sigmoid});
}

// Those whose operands broadcast to x: a per channel, b per pixel; statistics of all kinds, in one
// part or in several; two groups.
template <class T>
void run_broadcast(const Case& at) {
  using Real = Acc<T>;
  const std::int64_t n = at.shape.n, c = at.shape.c, elements = n * c * at.shape.hw;
  const Bytes x = random_tensor<T>(elements), dy = random_tensor<T>(elements), none;
  const Bytes channels = random_tensor<Real>(n * c), pixels = random_tensor<Real>(n * at.shape.hw);
  const Bytes rows = random_tensor<Real>(n * c * at.shape.h);
  const Bytes columns = random_tensor<Real>(n * c * at.shape.w);
  const Bytes kinds = bytes_of<std::int64_t>({1, 6, 0, 1, 1});
  const Bytes groups = bytes_of<std::int64_t>({2}), every = bytes_of<std::int64_t>({15});
  const auto run = [&](const char* op, const std::vector<Bytes>& input) {
    BroadcastOps<T>(at, input).run(op);
  };
  run("broadcast_gate", {x, channels, pixels, dy, kinds});
  run("broadcast_gate_sums", {dy, x, channels, pixels, dy, kinds});
  run("broadcast_squeeze", {x, channels, every});
  run("broadcast_squeeze_backward",
      {dy, x, channels, pixels, channels, channels, pixels, rows, columns, kinds});
  run("self_gate", {x, channels, channels, none, channels, groups});
  run("self_gate_sums", {dy, x, channels, channels, none, channels, groups});
  run("self_gate_backward",
      {dy, x, channels, channels, channels, channels, channels, none, groups});
}

// Those of maps alike: three, or three parts of one, and slices of it.
template <class T>
void run_mix(const Case& at) {
  using Real = Acc<T>;
  const std::int64_t planes = at.shape.n * at.shape.c, elements = planes * at.shape.hw;
  const Bytes x = random_tensor<T>(elements), all = random_tensor<T>(3 * elements), none;
  const Bytes s = random_tensor<Real>(3 * planes), scale = random_tensor<Real>(planes);
  const auto numbers = [](std::int64_t a, std::int64_t b) {
    return bytes_of<std::int64_t>({a, b});
  };
  const auto run = [&](const char* op, const std::vector<Bytes>& input) {
    MixOps<T>(at, input).run(op);
  };
  run("mix", {x, x, x, none, numbers(1, 0), s, x});
  run("mix_sums", {x, x, x, none, numbers(1, 0), x, x});
  for (const std::int64_t sliced : {0, 1}) {
    run("mix", {all, none, none, none, numbers(3, sliced), s, none});
    run("mix_sums", {all, none, none, none, numbers(3, sliced), none, none});
  }
  run("mix_backward", {x, s, none, numbers(1, 3)});
  run("mix_backward", {none, none, scale, numbers(3, 1)});
  const Bytes factor = bytes_of<Real>({2});
  run("blend", {x, x, x, scale, scale, factor});
  run("blend_backward", {x, x, x, x, scale, scale, factor});
}

// Two tiles for one block of the weight gradient, which loops over them.
[[maybe_unused]] void run_weight_gradient_in_one_block() {
  const Shape shape(2, 1, 3, 5);
  const int k = 3;
  attn_kernels::WeightTiling tiling = attn_kernels::weight_tiling(shape, k, 1);
  tiling.rows = tiling.stencil.blocks = 1;
  const std::int64_t bytes = attn_kernels::weight_bytes<float>(tiling.stencil, k);
  Buffer<float> d_logit("d_logit", random_tensor<float>(30));
  Buffer<float> pooled("pooled", random_tensor<float>(60));
  Buffer<float> partial("partial", attn_kernels::weight_taps(k));
  Launch()(attn_kernels::weight_kernel<3, float>, tiling.stencil.blocks, tiling.stencil.threads,
           bytes,
           attn_kernels::WeightArguments<float>{shape, tiling, k, d_logit.data(), pooled.data(),
                                                partial.data()});
}

#if defined(OF_OTHER_DTYPES)
// As much to compile as all of the other program: of `make exhaustive`.
void run() {
  for (const bool channels_last : {false, true}) {
    run_planes<__half>({Shape(2, 8, 5, 7), channels_last}, 1);
    run_planes<__half>({Shape(1, 4, 3, 3), channels_last, 0, 1}, 3);
    run_broadcast<__half>({Shape(1, 8, 20, 30), channels_last});
    run_broadcast<__half>({Shape(2, 8, 7, 7), channels_last, 0, 1});
    run_mix<__half>({Shape(2, 8, 7, 7), channels_last});
    run_mix<__half>({Shape(2, 3, 3, 3), channels_last, 0, 1});
    run_all<__half>({Shape(2, 8, 4, 6), channels_last, 1, 0, {}, 2});
    run_all<__half>({Shape(1, 16, 3, 5), channels_last, 3});
    run_all<__half>({Shape(1, 4, 2, 2), channels_last, 5});
    run_planes<double>({Shape(1, 3, 15, 15), channels_last}, 2);
    run_broadcast<double>({Shape(2, 4, 5, 7), channels_last});
    run_mix<double>({Shape(1, 2, 50, 84), channels_last});
    run_all<double>({Shape(2, 6, 3, 5), channels_last, 3});
  }
}
#else
void run() {
  run_weight_gradient_in_one_block();
  run_planes<float>({Shape(1, 130, 1, 1), false},
                    130);  // more hidden units than a block takes at once
  for (const bool channels_last : {false, true}) {
    run_planes<float>({Shape(2, 4, 5, 7), channels_last}, 2);
    run_planes<float>({Shape(1, 2, 50, 84), channels_last}, 1);  // in parts
    run_broadcast<float>({Shape(2, 4, 5, 7), channels_last});
    run_mix<float>({Shape(2, 4, 5, 7), channels_last});
    run_all<float>({Shape(2, 6, 3, 5), channels_last, 3});
    run_all<float>({Shape(1, 8, 4, 6), channels_last, 3});
#if !defined(__SANITIZE_THREAD__)  // Races depend on neither sizes nor K.
    run_planes<float>({Shape(2, 8, 5, 7), channels_last}, 1);
    run_planes<float>({Shape(1, 4, 3, 3), channels_last, 0, 1}, 3);
    run_broadcast<float>({Shape(1, 8, 20, 30), channels_last});
    run_broadcast<float>({Shape(2, 8, 7, 7), channels_last, 0, 1});
    run_mix<float>({Shape(1, 2, 50, 84), channels_last});
    run_mix<float>({Shape(2, 8, 7, 7), channels_last});
    run_mix<float>({Shape(2, 3, 3, 3), channels_last, 0, 1});
    run_all<float>({Shape(2, 8, 5, 7), channels_last, 7});
    run_all<float>({Shape(1, 8, 2, 4), channels_last, 15, 1});
    run_all<float>({Shape(2, 8, 4, 6), channels_last, 1, 0, {}, 2});
    run_all<float>({Shape(1, 4, 2, 2), channels_last, 5});
#endif
  }
}
#endif

}  // namespace

int main() {
  run();
  std::puts("every op has run");
}
