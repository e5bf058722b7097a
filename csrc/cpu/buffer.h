// Scratch memory of one kernel call.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "simd.h"

namespace attn_kernels::ATTN_ISA {

// What malloc gave lies just before the buffer.
struct Free {
  void operator()(void* p) const { std::free(static_cast<void**>(p)[-1]); }
};
template <class A>
using Buffer = std::unique_ptr<A[], Free>;

// Zero-filled, aligned to a cache line, with room for one vector read or written past the end.
// (Aligned here: for a small image aligned_alloc takes as long as the work.)
template <class A>
Buffer<A> make_buffer(int64_t count) {
  constexpr size_t kLine = 64;
  const size_t bytes = static_cast<size_t>(count + 4 * kLanes<A>) * sizeof(A) + kVectorBytes;
  void* const given = std::malloc(bytes + sizeof(void*) + kLine);
  if (given == nullptr) throw std::bad_alloc();
  const auto first = reinterpret_cast<uintptr_t>(given) + sizeof(void*);
  void* const p = reinterpret_cast<void*>((first + kLine - 1) / kLine * kLine);
  static_cast<void**>(p)[-1] = given;
  std::memset(p, 0, bytes);
  return Buffer<A>(static_cast<A*>(p));
}

}  // namespace attn_kernels::ATTN_ISA
