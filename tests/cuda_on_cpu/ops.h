// Every op of csrc/cuda on plain memory: the launches of launch.h on threads (cuda_on_cpu.h).
// Tensors come and go as bytes; workspaces and outputs start as NaN and lie between red zones.
#pragma once

#include <stdexcept>

#include "launch_gate.h"

namespace cuda_on_cpu {

using attn_kernels::Acc;
using attn_kernels::Shape;
using Bytes = std::string;

// `count` elements between two red zones, all bytes 0xff (NaN in every type) at first. `skew`
// elements off a multiple of 64 bytes. AddressSanitizer has better red zones of its own: `kZone` 0.
#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kZone = 0;
#else
constexpr std::size_t kZone = 256;
#endif

template <class T>
class Buffer {
 public:
  Buffer(const char* name, std::int64_t count, int skew = 0)
      : name_(name),
        before_(kZone + skew * sizeof(T)),
        size_(count * sizeof(T)),
        memory_(static_cast<char*>(::operator new(before_ + size_ + kZone, std::align_val_t(64)))) {
    std::memset(memory_, 0xff, before_ + size_ + kZone);
  }
  Buffer(const char* name, const Bytes& bytes, int skew = 0)
      : Buffer(name, static_cast<std::int64_t>(bytes.size() / sizeof(T)), skew) {
    std::memcpy(data(), bytes.data(), bytes.size());
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { ::operator delete(memory_, std::align_val_t(64)); }

  T* data() { return reinterpret_cast<T*>(memory_ + before_); }

  // What is in it now; throws if something wrote beside it.
  Bytes bytes() const {
    const auto untouched = [](char byte) { return byte == '\xff'; };
    const char* end = memory_ + before_ + size_;
    if (!std::all_of(memory_, memory_ + before_, untouched) ||
        !std::all_of(end, end + kZone, untouched)) {
      throw std::runtime_error(std::string("written beside ") + name_);
    }
    return Bytes(memory_ + before_, size_);
  }

 private:
  const char* name_;
  std::size_t before_, size_;
  char* memory_;
};

struct Case {
  Shape shape;
  bool channels_last;
  int k = 0;
  int skew = 0;
  Launch launch = {};
  std::int64_t groups = 1;
  bool relu = false;
};

// The ops, each with the inputs and outputs of its schema, in order; empty is none. Maps are `skew`
// elements off, and so are the statistics.
template <class T>
struct Ops {
  using Real = Acc<T>;
  const Case& at;
  const std::vector<Bytes>& input;
  std::int64_t pixels = at.shape.n * at.shape.hw;
  std::int64_t elements = pixels * at.shape.c;
  std::int64_t taps = 2 * at.k * at.k;

  // An input of the op, and its pointer: null if there is none.
  template <class Element>
  struct Input {
    Buffer<Element> buffer;
    bool given;
    Element* data() { return given ? buffer.data() : nullptr; }
  };
  template <class Element = Real>
  Input<Element> in(const char* name, int i) const {
    const bool is_map = std::is_same_v<Element, T> && input.at(i).size() == elements * sizeof(T);
    return {{name, input.at(i), is_map ? at.skew : 0}, !input[i].empty()};
  }

  // What a view's gradient takes and gives.
  struct View {
    bool given;
    Buffer<Real> tiles, d_scale, d_shift;

    View(const Ops& op, bool given)
        : given(given),
          tiles("tiles",
                given ? attn_kernels::view_partials<T>(op.at.shape, op.at.channels_last) : 0),
          d_scale("d_scale", given ? op.at.shape.n * op.at.shape.c : 0),
          d_shift("d_shift", given ? op.at.shape.n * op.at.shape.c : 0) {}
    attn_kernels::ViewGradients<Real> pointers() {
      return {tiles.data(), d_scale.data(), d_shift.data()};
    }
  };

  Buffer<Real> partial() const {
    return {"partial", attn_kernels::reduce_partials<T>(at.shape, at.channels_last)};
  }
  Buffer<unsigned> counters() const {
    return {"counters", attn_kernels::ordered_counters(at.shape)};
  }
  Buffer<Real> weights() const {
    return {"weights", attn_kernels::weight_partials(at.shape, at.k, at.groups)};
  }

  std::vector<Bytes> channel_pool() {
    auto x = in<T>("x", 0);
    auto scale = in("scale", 1), shift = in("shift", 2);
    auto stats = partial();
    Buffer<T> pooled("pooled", 2 * pixels);
    attn_kernels::pool<T>(at.launch, at.shape, at.channels_last, x.data(), scale.data(),
                          shift.data(), stats.data(), pooled.data());
    stats.bytes();
    return {pooled.bytes()};
  }

  std::vector<Bytes> channel_pool_backward() {
    auto d_pooled = in("d_pooled", 0), scale = in("scale", 2), shift = in("shift", 3);
    auto x = in<T>("x", 1);
    auto stats = partial();
    Buffer<int> argmax("argmax", pixels);
    Buffer<T> dx("dx", elements, at.skew);
    View view(*this, scale.given);
    attn_kernels::channel_pool_backward<T>(
        at.launch, at.shape, at.channels_last,
        {x.data(), d_pooled.data(), scale.data(), shift.data(), stats.data(), argmax.data(),
         dx.data(), view.pointers()});
    stats.bytes(), argmax.bytes(), view.tiles.bytes();
    return {dx.bytes(), view.d_scale.bytes(), view.d_shift.bytes()};
  }

  // spatial_attention with x, weight, bias, scale, shift; `gate` with residual too.
  std::vector<Bytes> spatial(bool gate) {
    auto x = in<T>("x", 0);
    auto weight = in("weight", 1), bias = in("bias", 2), scale = in("scale", 3);
    auto shift = in("shift", 4);
    auto stats = partial();
    Buffer<Real> map("map", pixels), pooled("pooled", 2 * pixels);
    const attn_kernels::SpatialAttention<T> attention{
        x.data(),     {at.k, at.groups, weight.data(), bias.data()},
        scale.data(), shift.data(),
        stats.data(), map.data(),
        pooled.data()};
    if (!gate) {
      attn_kernels::spatial_attention<T>(at.launch, at.shape, at.channels_last, attention);
      stats.bytes();
      return {map.bytes(), pooled.bytes()};
    }
    auto residual = in<T>("residual", 5);
    Buffer<T> y("y", elements, at.skew);
    auto counters = this->counters();
    attn_kernels::spatial_gate<T>(at.launch, at.shape, at.channels_last,
                                  {attention, residual.data(), at.relu, y.data(), counters.data()});
    stats.bytes(), counters.bytes();
    return {y.bytes(), map.bytes(), pooled.bytes()};
  }

  // spatial_attention_backward with d_map, x, weight, map, pooled, scale, shift; `gate` with dy
  // instead of d_map, and y too.
  std::vector<Bytes> spatial_backward(bool gate) {
    auto x = in<T>("x", 1);
    auto weight = in("weight", 2), map = in("map", 3), pooled = in("pooled", 4);
    auto scale = in("scale", 5), shift = in("shift", 6);
    auto stats = partial(), weights = this->weights();
    Buffer<Real> d_logit("d_logit", pixels), d_pooled("d_pooled", 2 * pixels);
    Buffer<int> argmax("argmax", pixels);
    Buffer<T> dx("dx", elements, at.skew);
    Buffer<Real> d_weight("d_weight", at.groups * taps), d_bias("d_bias", at.groups);
    View view(*this, scale.given);
    const attn_kernels::Convolution<Real> conv{at.k, at.groups, weight.data(), nullptr};
    const auto results = [&] {
      stats.bytes(), weights.bytes(), d_logit.bytes(), d_pooled.bytes(), argmax.bytes();
      view.tiles.bytes();
      return std::vector<Bytes>{dx.bytes(), d_weight.bytes(), d_bias.bytes(), view.d_scale.bytes(),
                                view.d_shift.bytes()};
    };
    const attn_kernels::SpatialGradient<T> gradient{
        x.data(),      conv,         map.data(),      pooled.data(),  scale.data(),
        shift.data(),  stats.data(), weights.data(),  d_logit.data(), d_pooled.data(),
        argmax.data(), dx.data(),    d_weight.data(), d_bias.data(),  view.pointers()};
    if (!gate) {
      auto d_map = in("d_map", 0);
      attn_kernels::spatial_attention_backward<T>(at.launch, at.shape, at.channels_last, gradient,
                                                  d_map.data());
      return results();
    }
    auto dy = in<T>("dy", 0), y = in<T>("y", 7);
    Buffer<T> dr("dr", y.given ? elements : 0, at.skew);
    auto counters = this->counters();
    attn_kernels::spatial_gate_backward<T>(
        at.launch, at.shape, at.channels_last,
        {gradient, dy.data(), y.data(), y.given ? dr.data() : nullptr, counters.data()});
    auto all = results();
    counters.bytes();
    all.push_back(dr.bytes());
    return all;
  }

  std::vector<Bytes> run(const std::string& op) {
    if (op == "channel_pool") return channel_pool();
    if (op == "channel_pool_backward") return channel_pool_backward();
    if (op == "spatial_gate") return spatial(true);
    if (op == "spatial_gate_backward") return spatial_backward(true);
    if (op == "spatial_attention") return spatial(false);
    if (op == "spatial_attention_backward") return spatial_backward(false);
    throw std::runtime_error("no op " + op);
  }
};

}  // namespace cuda_on_cpu
