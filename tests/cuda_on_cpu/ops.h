// Every op of csrc/cuda on plain memory: the launches of launch.h on threads (cuda_on_cpu.h).
// Tensors come and go as bytes; workspaces and outputs start as NaN and lie between red zones.
#pragma once

#include <stdexcept>

#include "launch.h"

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
};

// The ops, each with the inputs and outputs of its schema, in order; an empty bias is none.
template <class T>
struct Ops {
  using Real = Acc<T>;
  const Case& at;
  const std::vector<Bytes>& input;
  std::int64_t pixels = at.shape.n * at.shape.hw;
  std::int64_t elements = pixels * at.shape.c;

  std::vector<Bytes> channel_pool() {
    Buffer<T> x("x", input.at(0), at.skew), pooled("pooled", 2 * pixels);
    attn_kernels::pool(at.launch, at.shape, at.channels_last, x.data(), pooled.data());
    return {pooled.bytes()};
  }

  std::vector<Bytes> channel_pool_backward() {
    Buffer<Real> d_pooled("d_pooled", input.at(0));
    Buffer<T> x("x", input.at(1), at.skew), dx("dx", elements, at.skew);
    attn_kernels::pool_backward(at.launch, at.shape, at.channels_last, x.data(), d_pooled.data(),
                                dx.data());
    return {dx.bytes()};
  }

  std::vector<Bytes> spatial_gate() {
    Buffer<T> x("x", input.at(0), at.skew), y("y", elements, at.skew);
    Buffer<Real> weight("weight", input.at(1)), bias("bias", input.at(2));
    Buffer<Real> map("map", pixels), pooled("pooled", 2 * pixels);
    attn_kernels::spatial_gate(at.launch, at.shape, at.channels_last, at.k, x.data(), weight.data(),
                               input[2].empty() ? nullptr : bias.data(), y.data(), map.data(),
                               pooled.data());
    return {y.bytes(), map.bytes(), pooled.bytes()};
  }

  std::vector<Bytes> spatial_gate_backward() {
    Buffer<T> dy("dy", input.at(0), at.skew), x("x", input.at(1), at.skew);
    Buffer<Real> weight("weight", input.at(2)), map("map", input.at(3));
    Buffer<Real> pooled("pooled", input.at(4)), d_logit("d_logit", pixels);
    Buffer<int> argmax("argmax", pixels);
    Buffer<Real> partial("partial", attn_kernels::weight_partials(at.shape, at.k));
    Buffer<T> dx("dx", elements, at.skew);
    Buffer<Real> d_weight("d_weight", 2 * at.k * at.k), d_bias("d_bias", 1);
    attn_kernels::spatial_gate_backward(at.launch, at.shape, at.channels_last, at.k, dy.data(),
                                        x.data(), weight.data(), map.data(), pooled.data(),
                                        d_logit.data(), argmax.data(), partial.data(), dx.data(),
                                        d_weight.data(), d_bias.data());
    d_logit.bytes(), argmax.bytes(), partial.bytes();
    return {dx.bytes(), d_weight.bytes(), d_bias.bytes()};
  }

  std::vector<Bytes> spatial_attention() {
    Buffer<T> x("x", input.at(0), at.skew);
    Buffer<Real> weight("weight", input.at(1)), bias("bias", input.at(2));
    Buffer<Real> map("map", pixels), pooled("pooled", 2 * pixels);
    attn_kernels::spatial_attention(at.launch, at.shape, at.channels_last, at.k, x.data(),
                                    weight.data(), input[2].empty() ? nullptr : bias.data(),
                                    map.data(), pooled.data());
    return {map.bytes(), pooled.bytes()};
  }

  std::vector<Bytes> spatial_attention_backward() {
    Buffer<Real> d_map("d_map", input.at(0)), weight("weight", input.at(2));
    Buffer<T> x("x", input.at(1), at.skew), dx("dx", elements, at.skew);
    Buffer<Real> map("map", input.at(3)), pooled("pooled", input.at(4));
    Buffer<Real> d_logit("d_logit", pixels), d_pooled("d_pooled", 2 * pixels);
    Buffer<Real> partial("partial", attn_kernels::weight_partials(at.shape, at.k));
    Buffer<Real> d_weight("d_weight", 2 * at.k * at.k), d_bias("d_bias", 1);
    attn_kernels::spatial_attention_backward(
        at.launch, at.shape, at.channels_last, at.k, d_map.data(), x.data(), weight.data(),
        map.data(), pooled.data(), d_logit.data(), d_pooled.data(), partial.data(), dx.data(),
        d_weight.data(), d_bias.data());
    d_logit.bytes(), d_pooled.bytes(), partial.bytes();
    return {dx.bytes(), d_weight.bytes(), d_bias.bytes()};
  }

  std::vector<Bytes> run(const std::string& op) {
    if (op == "channel_pool") return channel_pool();
    if (op == "channel_pool_backward") return channel_pool_backward();
    if (op == "spatial_gate") return spatial_gate();
    if (op == "spatial_gate_backward") return spatial_gate_backward();
    if (op == "spatial_attention") return spatial_attention();
    if (op == "spatial_attention_backward") return spatial_attention_backward();
    throw std::runtime_error("no op " + op);
  }
};

}  // namespace cuda_on_cpu
