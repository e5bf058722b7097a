// y = x * activation(w2 @ relu(w1 @ x + b1) + b2) per pixel: the native CPU kernel of
// gam_channel_gate.
#include <string>
#include <tuple>
#include <vector>

#include "launch.h"

namespace attn_kernels {
namespace {

// One call: the map, the sizes and how the work is cut up.
struct Gate {
  FeatureMap x;
  GamProblem problem;
};

// Pixels per tile: about 256 KB of x in the accumulate type, all tiles of an image about as long.
int64_t tile_pixels(int64_t channels, int64_t pixels, int64_t bytes) {
  constexpr int64_t kTileBytes = 256 << 10;
  const int64_t most = std::clamp<int64_t>(kTileBytes / (channels * bytes), 48, 384);
  const int64_t tiles = (pixels + most - 1) / most;
  return tiles <= 1 ? std::max<int64_t>(pixels, 1) : padded((pixels + tiles - 1) / tiles);
}

Gate make_gate(const Tensor& x_any, const Tensor& w1, const Tensor& b1, const Tensor& w2,
               const Tensor& b2, const std::string& activation) {
  const FeatureMap x = feature_map(x_any);
  STD_TORCH_CHECK(activation == "identity" || activation == "sigmoid",
                  "attn_kernels: activation must be identity or sigmoid, got ", activation);
  const int64_t r = w1.numel() / std::max<int64_t>(x.c, 1);
  check_parameter("w1", w1, x, std::array{r, x.c});
  check_parameter("b1", b1, x, std::array{r});
  check_parameter("w2", w2, x, std::array{x.c, r});
  check_parameter("b2", b2, x, std::array{x.c});
  const int64_t n = x.channels_last ? 1 : x.n;
  const int64_t pixels = x.channels_last ? x.pixels() : x.h * x.w;
  const int64_t bytes = x.acc_dtype() == ScalarType::Double ? 8 : 4;
  return {x,
          {n, x.c, r, pixels, tile_pixels(x.c, pixels, bytes), x.channels_last,
           activation == "sigmoid"}};
}

// A (rows, columns) parameter as the kernels want it: see Mixer.
template <class T>
class PreparedWeight {
  using A = acc_t<T>;

 public:
  PreparedWeight(const Tensor& weight, bool transposed, bool pad) {
    const int64_t rows = weight.size(0), columns = weight.size(1);
    const A* from = data<A>(weight);
    if (!transposed && (!pad || columns % kRowPadding == 0)) {
      mixer = {from, columns};
      return;
    }
    const int64_t stride = padded(transposed ? rows : columns);
    copy_.resize(static_cast<size_t>((transposed ? columns : rows) * stride));
    if (transposed) {
      kernels<T>().transpose(from, columns, rows, columns, copy_.data(), stride);
    } else {
      for (int64_t i = 0; i < rows; ++i)
        std::copy_n(from + i * columns, columns, copy_.data() + i * stride);
    }
    mixer = {copy_.data(), stride};
  }

  Mixer<A> mixer;

 private:
  std::vector<A> copy_;
};

template <class A>
std::vector<A> padded_bias(const Tensor& bias) {
  std::vector<A> values(static_cast<size_t>(padded(bias.numel())));
  std::copy_n(data<A>(bias), bias.numel(), values.data());
  return values;
}

// kernel(args, begin, end) over `tasks` of so many multiplications each.
template <class Args>
void run_tasks(void (*kernel)(const Args&, int64_t, int64_t), const Args& args, int64_t tasks,
               int64_t products_per_task) {
  constexpr int64_t kProductsPerThread = 1 << 20;
  const int64_t grain = kProductsPerThread / std::max<int64_t>(products_per_task, 1) + 1;
  torch::stable::parallel_for(0, tasks, grain,
                              [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

Tensor empty_hidden(const FeatureMap& x, int64_t r) {
  FeatureMap hidden = x;
  hidden.c = r;
  return empty_like(hidden);
}

std::tuple<Tensor, Tensor> gam_channel_gate(const Tensor& x_any, const Tensor& w1, const Tensor& b1,
                                            const Tensor& w2, const Tensor& b2,
                                            const std::string& activation) {
  const auto [x, p] = make_gate(x_any, w1, b1, w2, b2, activation);
  const Tensor y = empty_like(x), hidden = empty_hidden(x, p.r);
  with_dtype(x, [&, &x = x, &p = p](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    const bool last = p.channels_last;
    const PreparedWeight<T> first_layer(w1, last, last), second_layer(w2, last, last);
    const auto bias1 = padded_bias<A>(b1), bias2 = padded_bias<A>(b2);
    run_tasks(kernels<T>().gam_forward,
              GamForward<T>{p, data<T>(x.tensor), first_layer.mixer, second_layer.mixer,
                            bias1.data(), bias2.data(), data<T>(y), data<T>(hidden)},
              p.n * p.tiles(), 2 * p.c * p.r * p.tile);
  });
  return {y, hidden};
}

// The partials of all units, summed in their order onto the first. An empty batch has one unit,
// too.
template <class T>
void sum_partials(const GamWeightBackward<T>& a, const Tensor& d_w1, const Tensor& d_b1,
                  const Tensor& d_w2, const Tensor& d_b2) {
  using A = acc_t<T>;
  const int64_t c = a.problem.c, r = a.problem.r, row = padded(r);
  const auto sum = [&, units = a.units(), stride = a.row()](int64_t at, int64_t count) {
    A* total = a.partials + at;
    for (int64_t unit = 1; unit < units; ++unit)
      for (int64_t i = 0; i < count; ++i) total[i] += total[unit * stride + i];
    return total;
  };
  A *w1 = data<A>(d_w1), *b1 = data<A>(d_b1), *w2 = data<A>(d_w2), *b2 = data<A>(d_b2);
  torch::stable::parallel_for(0, a.blocks(), 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kGamChannels, count = std::min(end * kGamChannels, c) - first;
    kernels<T>().transpose(sum(first * row, count * row), row, count, r, w1 + first, c);
    const A* rows = sum(a.d_w2() + first * row, count * row);
    for (int64_t i = 0; i < count; ++i) std::copy_n(rows + i * row, r, w2 + (first + i) * r);
    std::copy_n(sum(a.d_b2() + first, count), count, b2 + first);
  });
  std::copy_n(sum(a.d_b1(), r), r, b1);
}

// Pixels per partial gradient: enough that writing and summing partials is little beside the
// products they hold.
int64_t tiles_per_unit(const GamProblem& p) {
  const int64_t pixels = std::max<int64_t>(2048, 16 * p.r);
  return (pixels + p.tile - 1) / p.tile;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gam_channel_gate_backward(
    const Tensor& dy_any, const Tensor& x_any, const Tensor& hidden_any, const Tensor& w1,
    const Tensor& b1, const Tensor& w2, const Tensor& b2, const std::string& activation) {
  const auto [x, p] = make_gate(x_any, w1, b1, w2, b2, activation);
  check_same_shape("dy", dy_any, x);
  FeatureMap hidden_map = x;
  hidden_map.c = p.r;
  check_same_shape("hidden", hidden_any, hidden_map);
  const Tensor dy = laid_out_as(dy_any, x), hidden = laid_out_as(hidden_any, hidden_map);
  const Tensor dx = empty_like(x);
  const Tensor d_w1 = empty(x, std::array{p.r, p.c}, x.acc_dtype());
  const Tensor d_w2 = empty(x, std::array{p.c, p.r}, x.acc_dtype());
  const Tensor d_b1 = empty(x, std::array{p.r}, x.acc_dtype());
  const Tensor d_b2 = empty(x, std::array{p.c}, x.acc_dtype());
  const std::array rows{x.pixels(), padded(p.r)};
  const Tensor hidden_rows = empty(x, rows, x.acc_dtype());
  const Tensor d_pre_rows = empty(x, rows, x.acc_dtype());
  const Tensor da = empty(x, std::array{p.sigmoid ? x.tensor.numel() : 0}, x.acc_dtype());
  with_dtype(x, [&, &x = x, &p = p](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    const bool last = p.channels_last;
    const PreparedWeight<T> second_layer(w2, last, last);
    const PreparedWeight<T> first_back(w1, !last, last), second_back(w2, !last, last);
    const auto bias2 = padded_bias<A>(b2);
    A* da_data = p.sigmoid ? data<A>(da) : nullptr;
    run_tasks(kernels<T>().gam_backward,
              GamBackward<T>{p, data<T>(dy), data<T>(x.tensor), data<T>(hidden), second_layer.mixer,
                             first_back.mixer, second_back.mixer, bias2.data(), data<T>(dx),
                             data<A>(hidden_rows), data<A>(d_pre_rows), da_data},
              p.n * p.tiles(), 3 * p.c * p.r * p.tile);
    GamWeightBackward<T> weights{
        p,       tiles_per_unit(p),    data<T>(dy),         data<T>(x.tensor),
        da_data, data<A>(hidden_rows), data<A>(d_pre_rows), nullptr};
    const int64_t units = std::max<int64_t>(weights.units(), 1);
    const Tensor partials = empty(x, std::array{units, weights.row()}, x.acc_dtype());
    weights.partials = data<A>(partials);
    run_tasks(kernels<T>().gam_weight_backward, weights, units * weights.blocks(),
              2 * kGamChannels * p.r * p.tile * weights.tiles_per_unit);
    sum_partials(weights, d_w1, d_b1, d_w2, d_b2);
  });
  return {dx, d_w1, d_b1, d_w2, d_b2};
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("gam_channel_gate", TORCH_BOX(&gam_channel_gate));
  m.impl("gam_channel_gate_backward", TORCH_BOX(&gam_channel_gate_backward));
}

}  // namespace
}  // namespace attn_kernels
