// y = x * activation(w2 @ relu(w1 @ x + b1) + b2) per pixel, on the CPU. The map is never permuted:
// some of its pixels with all their channels, a tile, are a matrix in either memory format, which
// goes through all the products at once; see gam_tiles.h for how large it is.
#include <string>
#include <tuple>

#include "gam_tiles.h"
#include "matmul.h"

namespace attn_kernels {
namespace {

struct Call {
  FeatureMap x;
  int64_t r;
  bool sigmoid;

  // The map of the hidden channels.
  FeatureMap hidden() const {
    FeatureMap map = x;
    map.c = r;
    return map;
  }
};

Call make_call(const Tensor& x_any, const Tensor& w1, const Tensor& w2, const Tensor& b2,
               const std::string& activation) {
  const FeatureMap x = feature_map(x_any);
  STD_TORCH_CHECK(activation == "identity" || activation == "sigmoid",
                  "attn_kernels: activation must be identity or sigmoid, got ", activation);
  const int64_t r = w1.numel() / std::max<int64_t>(x.c, 1);
  STD_TORCH_CHECK(x.c > 0 && r > 0, "attn_kernels: x and w1 must have channels");
  check_parameter("w1", w1, x, std::array{r, x.c}, true);
  check_parameter("w2", w2, x, std::array{x.c, r}, true);
  check_parameter("b2", b2, x, std::array{x.c}, true);
  return {x, r, activation == "sigmoid"};
}

// fn(passes, G{}): the type G of the products. Small ones of bfloat16 are done in float32, which
// needs no preparation.
template <class T, class Fn>
void with_product_type(const Call& call, const Fn& fn) {
  constexpr int64_t kFewestProducts = 1 << 21;
  if constexpr (!std::is_same_v<native_t<T>, acc_t<T>>) {
    if (has_matrix_instructions() && call.x.pixels() * call.x.c * call.r >= kFewestProducts)
      return fn(kernels<T>().gam_native, native_t<T>{});
  }
  // The baseline lacks instructions for float16.
  const bool narrow =
      !std::is_same_v<T, Half> && !pixels_outermost(call.x) && call.x.h * call.x.w == kNarrowLanes;
  fn(narrow ? narrow_kernels<T>().gam : kernels<T>().gam, acc_t<T>{});
}

// ---- Forward ------------------------------------------------------------------------------------

std::tuple<Tensor, Tensor> gam_channel_gate(const Tensor& x_any, const Tensor& w1, const Tensor& b1,
                                            const Tensor& w2, const Tensor& b2,
                                            const std::string& activation) {
  const Call call = make_call(x_any, w1, w2, b2, activation);
  const FeatureMap& x = call.x;
  check_parameter("b1", b1, x, std::array{call.r}, true);
  const Tensor y = empty_like(x), hidden = empty_like(call.hidden());
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    with_product_type<T>(call, [&](const auto& passes, auto product) {
      using G = decltype(product);
      const Tensor weight1 = parameter<T, G>(w1, x), weight2 = parameter<T, G>(w2, x);
      const Tensor bias1 = parameter<T, A>(b1, x), bias2 = parameter<T, A>(b2, x);
      const Tiling tiling(x, call.r, 2, sizeof(G));
      const auto x_map = map_of<T>(x, x.tensor, x.c), y_map = map_of<T>(x, y, x.c);
      const auto hidden_map = map_of<T>(x, hidden, call.r);
      tiling.share_out_tiles([&](int64_t begin, int64_t end) {
        const Staging<T, G> wide(tiling, x, x.c), narrow(tiling, x, call.r);
        for (int64_t i = begin; i < end; ++i) {
          const Tile tile = tiling.tile(i);
          const Matrix<G> mixed = narrow.room_for(hidden_map, tile);
          const Matrix<G> tile_of_x = wide.copy_of(x_map, tile, passes.copy);
          // Where products are rounded, the bias goes into the sum: near zero, where ReLU decides,
          // the result must not have the rounding error of a large product. Else it comes last.
          constexpr bool kRounded = !std::is_same_v<G, A>;
          if (kRounded) {
            tiling.for_each_piece(
                tile, [&](const Piece& piece) { passes.fill(piece.of(mixed), data<A>(bias1)); });
          }
          matmul(mixed, matrix_of<G>(weight1), tile_of_x, kRounded ? 1 : 0);
          tiling.for_each_piece(tile, [&](const Piece& piece) {
            passes.relu(piece.of(mixed), kRounded ? nullptr : data<A>(bias1), piece.of(hidden_map));
          });
          const Matrix<G> gate = wide.room_for(y_map, tile);
          matmul(gate, matrix_of<G>(weight2), mixed);
          tiling.for_each_piece(tile, [&](const Piece& piece) {
            passes.gate(piece.of(gate), data<A>(bias2), call.sigmoid, piece.of(x_map),
                        piece.of(y_map));
          });
        }
      });
    });
  });
  return {y, hidden};
}

// ---- Backward -----------------------------------------------------------------------------------

// The gradients of the parameters, or some pixels' share of them.
template <class A>
struct Sums {
  Matrix<A> d_w1, d_w2, d_b1, d_b2;
};

template <class A>
Sums<A> split(A* values, int64_t c, int64_t r) {
  const Matrix<A> d_w1{values, r, c, c, 1}, d_w2{values + r * c, c, r, r, 1};
  A* biases = values + 2 * r * c;
  return {d_w1, d_w2, {biases, 1, r, r, 1}, {biases + r, 1, c, c, 1}};
}

template <class A>
void clear(const Matrix<A>& m) {
  std::fill_n(m.data, m.rows * m.columns, A(0));
}

// dx of a unit's pixels, and their share of the parameters' gradients.
template <class T, class G>
class UnitBackward {
  using A = acc_t<T>;

 public:
  UnitBackward(const Call& call, const GamPasses<T, G>& passes, const Tiling& tiling,
               const Tensor& dy, const Tensor& hidden, const Tensor& w1, const Tensor& w2,
               const Tensor& b2, const Tensor& dx)
      : passes_(passes),
        tiling_(tiling),
        sigmoid_(call.sigmoid),
        x_(map_of<T>(call.x, call.x.tensor, call.x.c)),
        dy_(map_of<T>(call.x, dy, call.x.c)),
        hidden_(map_of<T>(call.x, hidden, call.r)),
        dx_(map_of<T>(call.x, dx, call.x.c)),
        w1_(matrix_of<G>(w1)),
        w2_(matrix_of<G>(w2)),
        b2_(data<A>(b2)),
        wide_(tiling, call.x, call.x.c),
        narrow_(tiling, call.x, call.r),
        gate_(room(call.x, call.x.c * tiling.most_columns())),
        da_(room(call.x, call.x.c * tiling.most_columns())),
        d_hidden_(room(call.x, call.r * tiling.most_columns())),
        product_(std::is_same_v<G, A> ? Tensor() : room(call.x, call.x.c * call.r)) {}

  void run(int64_t unit, const Sums<A>& sums) const {
    clear(sums.d_b1);
    clear(sums.d_b2);
    bool first = true;
    tiling_.for_each_tile_of_unit(unit, [&](const Tile& tile) {
      run_tile(tile, sums, first);
      first = false;
    });
    if (first) {  // an empty batch
      clear(sums.d_w1);
      clear(sums.d_w2);
    }
  }

 private:
  static Tensor room(const FeatureMap& x, int64_t count) {
    return empty(x, std::array{count}, kScalarType<G>);
  }

  // `first`: the weights' sums begin here.
  void run_tile(const Tile& tile, const Sums<A>& sums, bool first) const {
    const Matrix<G> x = wide_.copy_of(x_, tile, passes_.copy);
    const Matrix<G> hidden = narrow_.copy_of(hidden_, tile, passes_.copy);
    const Matrix<G> gate = tiling_.packed(data<G>(gate_), x_.channels, tile);
    const Matrix<G> da = tiling_.packed(data<G>(da_), x_.channels, tile);
    const Matrix<G> d_hidden = tiling_.packed(data<G>(d_hidden_), hidden_.channels, tile);
    matmul(gate, w2_, hidden);
    tiling_.for_each_piece(tile, [&](const Piece& piece) {
      passes_.gate_backward(piece.of(gate), b2_, sigmoid_, piece.of(dy_), piece.of(x_),
                            piece.of(da));
    });
    matmul(d_hidden, w2_.transposed(), da);
    tiling_.for_each_piece(tile, [&](const Piece& piece) {
      passes_.hidden_backward(piece.of(hidden_), piece.of(d_hidden));
    });
    add_product(d_hidden, x, sums.d_w1, first);
    add_product(da, hidden, sums.d_w2, first);
    add_pixels(d_hidden, sums.d_b1);
    add_pixels(da, sums.d_b2);
    const Matrix<G>& through_hidden = da;  // which has served
    matmul(through_hidden, w1_.transposed(), d_hidden);
    tiling_.for_each_piece(tile, [&](const Piece& piece) {
      passes_.dx(piece.of(dy_), piece.of(gate), piece.of(through_hidden), piece.of(dx_));
    });
  }

  // sum += a @ b^T, or sum = a @ b^T where it is the first term
  void add_product(const Matrix<G>& a, const Matrix<G>& b, const Matrix<A>& sum, bool first) const {
    if constexpr (std::is_same_v<G, A>) {
      matmul(sum, a, b.transposed(), first ? 0 : 1);
    } else {
      const Matrix<G> product{data<G>(product_), sum.rows, sum.columns, sum.columns, 1};
      matmul(product, a, b.transposed());
      const auto add = first ? kernels<T>().gam.copy : passes_.add;
      tiling_.for_each_block(sum.rows, [&](int64_t row, int64_t count) {
        add(product.rows_from(row, count), sum.rows_from(row, count));
      });
    }
  }

  void add_pixels(const Matrix<G>& from, const Matrix<A>& sums) const {
    tiling_.for_each_block(from.rows, [&](int64_t first, int64_t count) {
      passes_.add_pixels(from.rows_from(first, count), sums.data + first);
    });
  }

  const GamPasses<T, G>& passes_;
  const Tiling& tiling_;
  const bool sigmoid_;
  const Map<T> x_, dy_, hidden_, dx_;
  const Matrix<G> w1_, w2_;
  const A* const b2_;
  const Staging<T, G> wide_, narrow_;
  const Tensor gate_, da_, d_hidden_, product_;
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gam_channel_gate_backward(
    const Tensor& dy_any, const Tensor& x_any, const Tensor& hidden_any, const Tensor& w1,
    const Tensor& w2, const Tensor& b2, const std::string& activation) {
  const Call call = make_call(x_any, w1, w2, b2, activation);
  const FeatureMap& x = call.x;
  check_same_shape("dy", dy_any, x);
  check_same_shape("hidden", hidden_any, call.hidden());
  const Tensor dy = laid_out_as(dy_any, x), hidden = laid_out_as(hidden_any, call.hidden());
  const Tensor dx = empty_like(x);
  const auto gradient = [&](auto... sizes) {
    return empty(x, std::array<int64_t, sizeof...(sizes)>{sizes...}, x.acc_dtype());
  };
  const Tensor d_w1 = gradient(call.r, x.c), d_b1 = gradient(call.r);
  const Tensor d_w2 = gradient(x.c, call.r), d_b2 = gradient(x.c);
  with_dtype(x, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    with_product_type<T>(call, [&](const auto& passes, auto product) {
      using G = decltype(product);
      const Tensor weight1 = parameter<T, G>(w1, x), weight2 = parameter<T, G>(w2, x);
      const Tiling tiling(x, call.r, 4, sizeof(G));
      const Tensor bias2 = parameter<T, A>(b2, x);
      // The first unit's sums become the total.
      const int64_t others = tiling.units() - 1, size = 2 * x.c * call.r + x.c + call.r;
      const Tensor partials = gradient(others, size);
      const Sums<A> total{matrix_of<A>(d_w1), matrix_of<A>(d_w2), matrix_of<A>(d_b1),
                          matrix_of<A>(d_b2)};
      const auto sums_of = [&](int64_t unit) {
        return unit == 0 ? total : split(data<A>(partials) + (unit - 1) * size, x.c, call.r);
      };
      tiling.share_out_units([&](int64_t begin, int64_t end) {
        const UnitBackward<T, G> backward(call, passes, tiling, dy, hidden, weight1, weight2, bias2,
                                          dx);
        for (int64_t unit = begin; unit < end; ++unit) backward.run(unit, sums_of(unit));
      });
      using S = Sums<A>;
      for (int64_t unit = 1; unit <= others; ++unit)
        for (const auto sum : {&S::d_w1, &S::d_w2, &S::d_b1, &S::d_b2})
          kernels<T>().gam.add(sums_of(unit).*sum, total.*sum);
    });
  });
  return {dx, d_w1, d_b1, d_w2, d_b2};
}

STABLE_TORCH_LIBRARY_IMPL(attn_kernels, CPU, m) {
  m.impl("gam_channel_gate", TORCH_BOX(&gam_channel_gate));
  m.impl("gam_channel_gate_backward", TORCH_BOX(&gam_channel_gate_backward));
}

}  // namespace
}  // namespace attn_kernels
