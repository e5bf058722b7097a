// Scratch memory of one kernel call.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

#include "simd.h"

namespace attn_kernels::ATTN_ISA {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <class A>
using Buffer = std::unique_ptr<A[], Free>;

// Zero-filled, aligned to a cache line, with room for one vector read or written past the end.
template <class A>
Buffer<A> make_buffer(int64_t count) {
  const size_t bytes =
      (static_cast<size_t>(count + 4 * kLanes<A>) * sizeof(A) + kVectorBytes + 63) / 64 * 64;
  void* p = std::aligned_alloc(64, bytes);
  if (p == nullptr) throw std::bad_alloc();
  std::memset(p, 0, bytes);
  return Buffer<A>(static_cast<A*>(p));
}

}  // namespace attn_kernels::ATTN_ISA
