// The types in which the CPU kernels store maps, and the one in which they reckon.
#pragma once

#include <cstdint>
#include <type_traits>

namespace attn_kernels {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Statistics, convolution and sums are kept in this type.
template <class T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace attn_kernels
