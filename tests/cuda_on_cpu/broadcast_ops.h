// The ops of csrc/cuda whose operands broadcast to a map, beside all others (mix_ops.h).
#pragma once

#include "launch_box.h"
#include "mix_ops.h"

namespace cuda_on_cpu {

using attn_kernels::Box;
using attn_kernels::BoxResult;
using attn_kernels::BoxResults;
using attn_kernels::Extents;
using attn_kernels::Spread;

template <class T>
struct BroadcastOps : MixOps<T> {
  using Real = Acc<T>;
  using Inputs = std::vector<Bytes>;
  using Sizes = std::array<std::int64_t, 3>;  // C, H, W, or 1
  template <class Element = Real>
  using Given = typename Ops<T>::template Input<Element>;

  const Shape& shape = this->at.shape;
  const bool last = this->at.channels_last;
  const Box box = attn_kernels::box_of(shape, last);

  BroadcastOps(const Case& at, const Inputs& input) : MixOps<T>(at, input) {}

  // What broadcasts, and its sizes, from the mask: 1 with channels, 2 with rows, 4 with columns.
  Extents extents(std::int64_t mask) const {
    const auto of = [&](int bit, int size) { return (mask & bit) != 0 ? size : 1; };
    return attn_kernels::in_memory_order(last, of(1, shape.c), of(2, shape.h), of(4, shape.w));
  }
  Spread<const Real> spread(Given<>& from, std::int64_t mask) const {
    if (!from.given) return {};
    return attn_kernels::spread_of<const Real>(from.data(), extents(mask));
  }
  std::int64_t count(std::int64_t mask) const {
    const Extents size = extents(mask);
    return shape.n * size[0] * size[1] * size[2];
  }
  Given<> real(const char* name, int i) const { return this->template in<Real>(name, i); }
  Given<T> map(const char* name, int i) const { return this->template in<T>(name, i); }

  template <class Op>
  void sum(const Op& op, std::initializer_list<const T*> tensors, const BoxResults<Real>& results) {
    Buffer<Real> partial("partial", attn_kernels::box_sum_partials<Op>(op.box, results));
    attn_kernels::sum_box(this->at.launch, op, tensors, results, partial.data());
    partial.bytes();
  }

  // Kinds: masks of a and b, is_sum, gate, skip.
  attn_kernels::BroadcastFactor<Real> factor(Given<>& a, Given<>& b, const std::int64_t* kinds) {
    return {spread(a, kinds[0]), spread(b, kinds[1]), kinds[2] != 0, attn_kernels::Gate(kinds[3])};
  }

  // x, a, b, residual, kinds.
  Inputs broadcast_gate() {
    auto x = map("x", 0), residual = map("residual", 3);
    auto a = real("a", 1), b = real("b", 2);
    auto kinds = this->places("kinds", 4);
    Buffer<T> y("y", this->elements, this->at.skew);
    attn_kernels::broadcast_gate<T>(this->at.launch, {box,
                                                      {},
                                                      x.data(),
                                                      factor(a, b, kinds.data()),
                                                      Real(kinds.data()[4]),
                                                      0,
                                                      {},
                                                      residual.data(),
                                                      this->at.relu,
                                                      y.data()});
    return {y.bytes()};
  }

  // dy, x, a, b, y, kinds.
  Inputs broadcast_gate_sums() {
    auto dy = map("dy", 0), x = map("x", 1), y = map("y", 4);
    auto a = real("a", 2), b = real("b", 3);
    auto kinds = this->places("kinds", 5);
    const std::int64_t mask_a = kinds.data()[0], mask_b = kinds.data()[1];
    Buffer<T> dr("dr", y.given ? this->elements : 0, this->at.skew);
    Buffer<Real> d_a("d_a", count(mask_a)), d_b("d_b", b.given ? count(mask_b) : 0);
    const attn_kernels::BroadcastGateSums<T> op{box,
                                                {},
                                                {},
                                                dy.data(),
                                                x.data(),
                                                y.data(),
                                                y.given ? dr.data() : nullptr,
                                                factor(a, b, kinds.data())};
    sum(op, {op.dy, op.x, op.y, op.dr},
        {{d_a.data(), 0, extents(mask_a)}, {b.given ? d_b.data() : nullptr, 1, extents(mask_b)}});
    return {d_a.bytes(), d_b.bytes(), dr.bytes()};
  }

  // x, weight, statistics.
  Inputs broadcast_squeeze() {
    auto x = map("x", 0);
    auto weight = real("weight", 1);
    const std::int64_t statistics = *this->places("statistics", 2).data();
    const std::int64_t masks[] = {1, 6, 3, 5};  // mean, sum, rows, columns
    const Real shares[] = {Real(1) / Real(shape.hw), 1, Real(1) / Real(shape.w),
                           Real(1) / Real(shape.h)};
    std::vector<std::unique_ptr<Buffer<Real>>> to;
    BoxResult<Real> results[4];
    for (int i = 0; i < 4; ++i) {
      const bool wanted = (statistics >> i & 1) != 0;
      to.push_back(std::make_unique<Buffer<Real>>("statistic", wanted ? count(masks[i]) : 0));
      results[i] = {wanted ? to[i]->data() : nullptr, i == 1 ? 1 : 0, extents(masks[i]), shares[i]};
    }
    const attn_kernels::BroadcastMap<T> op{box, {}, {}, x.data(), spread(weight, 1)};
    sum(op, {op.x}, {results[0], results[1], results[2], results[3]});
    return {to[0]->bytes(), to[1]->bytes(), to[2]->bytes(), to[3]->bytes()};
  }

  // dr, x, a, b, weight, d_mean, d_sum, d_rows, d_columns, kinds.
  Inputs broadcast_squeeze_backward() {
    auto dr = map("dr", 0), x = map("x", 1);
    auto a = real("a", 2), b = real("b", 3), weight = real("weight", 4), d_mean = real("d_mean", 5);
    auto d_sum = real("d_sum", 6), d_rows = real("d_rows", 7), d_columns = real("d_columns", 8);
    auto kinds = this->places("kinds", 9);
    Buffer<T> dx("dx", this->elements, this->at.skew);
    Buffer<Real> d_weight("d_weight", d_sum.given ? count(1) : 0);
    attn_kernels::BroadcastGateArguments<T> to{
        box,     {},    dr.data(), factor(a, b, kinds.data()), Real(kinds.data()[4]), 0, {},
        nullptr, false, dx.data()};
    const auto add = [&](const Spread<const Real>& value, Real share,
                         const Spread<const Real>& by = {}) {
      if (value.data != nullptr) to.terms[to.term_count++] = {value, by, share};
    };
    add(spread(d_mean, 1), Real(1) / Real(shape.hw));
    add(spread(d_rows, 3), Real(1) / Real(shape.w));
    add(spread(d_columns, 5), Real(1) / Real(shape.h));
    add(spread(d_sum, 6), 1, spread(weight, 1));
    attn_kernels::broadcast_gate<T>(this->at.launch, to);
    if (d_sum.given) {
      const attn_kernels::BroadcastMap<T> op{box, {}, {}, x.data(), spread(d_sum, 6)};
      sum(op, {op.x}, {{d_weight.data(), 1, extents(1)}});
    }
    return {dx.bytes(), d_weight.bytes()};
  }

  // Coefficients of a shuffle in so many groups.
  Spread<const Real> channels(Given<>& from, std::int64_t groups) const {
    return attn_kernels::shuffled_channels<const Real>(from.data(), shape, last, groups);
  }

  // x, center, p2, p1, p0, groups; or dy, x, center, p2, p1, p0, groups, and for the last slope and
  // offset in front of groups.
  Inputs self_gate(int kind) {
    const int at = kind > 0 ? 1 : 0;
    auto dy = map("dy", 0), x = map("x", at);
    auto center = real("center", at + 1), p2 = real("p2", at + 2), p1 = real("p1", at + 3);
    auto p0 = real("p0", at + 4);
    const std::int64_t groups = *this->places("groups", kind == 2 ? 8 : at + 5).data();
    const Box shuffled = attn_kernels::shuffled_box(shape, last, groups);
    const attn_kernels::SelfGateCoefficients<Real> of{
        channels(center, groups), channels(p2, groups), channels(p1, groups), channels(p0, groups)};
    const auto moved = [&](auto* data) {
      return attn_kernels::shuffled_map(data, shape, last, groups);
    };
    if (kind == 1) {
      Buffer<Real> d_p2("d_p2", count(1)), d_p1("d_p1", count(1)), d_p0("d_p0", count(1));
      const attn_kernels::SelfGateSums<T> op{
          shuffled, {}, {}, moved(static_cast<const T*>(dy.data())), x.data(), of};
      const Extents size = attn_kernels::shuffled_extents(shape.c, 1, last, groups);
      sum(op, {op.x}, {{d_p2.data(), 0, size}, {d_p1.data(), 1, size}, {d_p0.data(), 2, size}});
      return {d_p2.bytes(), d_p1.bytes(), d_p0.bytes()};
    }
    Buffer<T> to("to", this->elements, this->at.skew);
    if (kind == 0) {
      attn_kernels::self_gate<T>(this->at.launch, {shuffled, {}, x.data(), of, moved(to.data())});
      return {to.bytes()};
    }
    auto slope = real("slope", 6), offset = real("offset", 7);
    attn_kernels::self_gate_gradient<T>(this->at.launch, {shuffled,
                                                          {},
                                                          moved(static_cast<const T*>(dy.data())),
                                                          x.data(),
                                                          of,
                                                          channels(slope, groups),
                                                          channels(offset, groups),
                                                          to.data()});
    return {to.bytes()};
  }

  Inputs run(const std::string& op) {
    if (op == "broadcast_gate") return broadcast_gate();
    if (op == "broadcast_gate_sums") return broadcast_gate_sums();
    if (op == "broadcast_squeeze") return broadcast_squeeze();
    if (op == "broadcast_squeeze_backward") return broadcast_squeeze_backward();
    if (op == "self_gate") return self_gate(0);
    if (op == "self_gate_sums") return self_gate(1);
    if (op == "self_gate_backward") return self_gate(2);
    return MixOps<T>::run(op);
  }
};

// What would be launched, with everything at `x` and `real`. lines: factors and statistics of rows
// and columns, not of channels and pixels; shuffled in two groups.
template <class T, class Launch>
void launch_broadcast(const Launch& launch, const std::string& op, const Shape& shape,
                      bool channels_last, T* x, Acc<T>* real, bool lines) {
  using Real = Acc<T>;
  const Box box = attn_kernels::box_of(shape, channels_last);
  const auto of = [&](std::int64_t c, std::int64_t h, std::int64_t w) {
    return attn_kernels::in_memory_order(channels_last, c, h, w);
  };
  const int c = shape.c, h = shape.h, w = shape.w;
  const Extents size_a = lines ? of(c, h, 1) : of(c, 1, 1),
                size_b = lines ? of(c, 1, w) : of(1, h, w);
  const Spread<const Real> a = attn_kernels::spread_of<const Real>(real, size_a);
  const Spread<const Real> b = attn_kernels::spread_of<const Real>(real, size_b);
  const BoxResults<Real> two{{real, 0, size_a}, {real, 1, size_b}};
  const int groups = lines && c % 2 == 0 ? 2 : 1;
  const Box shuffled = attn_kernels::shuffled_box(shape, channels_last, groups);
  const auto moved = [&](auto* data) {
    return attn_kernels::shuffled_map(data, shape, channels_last, groups);
  };
  const T* in = x;
  if (op == "broadcast_gate" || op == "broadcast_squeeze_backward") {
    attn_kernels::broadcast_gate<T>(
        launch, {box, {}, x, {a, b, false, {}}, 0, 0, {}, lines ? x : nullptr, lines, x});
  } else if (op == "broadcast_gate_sums") {
    const attn_kernels::BroadcastGateSums<T> sums{box, {},      {},      x,
                                                  x,   nullptr, nullptr, {a, b, false, {}}};
    attn_kernels::sum_box(launch, sums, {in}, two, real);
  } else if (op == "broadcast_squeeze") {
    attn_kernels::sum_box(launch, attn_kernels::BroadcastMap<T>{box, {}, {}, x, a}, {in}, two,
                          real);
  } else if (op == "self_gate") {
    attn_kernels::self_gate<T>(launch, {shuffled, {}, x, {}, moved(x)});
  } else if (op == "self_gate_sums") {
    const Extents size = attn_kernels::shuffled_extents(c, 1, channels_last, groups);
    attn_kernels::sum_box(launch, attn_kernels::SelfGateSums<T>{shuffled, {}, {}, moved(in), x, {}},
                          {in}, {{real, 0, size}, {real, 1, size}, {real, 2, size}}, real);
  } else if (op == "self_gate_backward") {
    attn_kernels::self_gate_gradient<T>(launch, {shuffled, {}, moved(in), x, {}, {}, {}, x});
  }
}

}  // namespace cuda_on_cpu
