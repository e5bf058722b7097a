// CUDA for a C++20 compiler: lets csrc/cuda/*.cuh run on the CPU.
//
// Every CUDA thread is a fiber (fibers.h) that runs from one __syncthreads() to the next; shared
// memory is a heap block that is filled with NaN before each block starts. Several blocks are alive
// at once, they and their threads in any order. So ThreadSanitizer sees the races that a GPU would
// have, and AddressSanitizer the stray accesses.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "fibers.h"
#include "tiling.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __syncthreads() cuda_on_cpu::sync_threads(__FILE__, __LINE__)

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

template <class T>
void __stcs(T* to, const T& value) {
  std::memcpy(to, &value, sizeof(T));
}

inline int __popc(unsigned bits) { return std::popcount(bits); }

template <class T>
T __ldcs(const T* from) {
  return *from;
}

struct __nv_bfloat16 {
  std::uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 value) {
  return std::bit_cast<float>(std::uint32_t{value.bits} << 16);
}

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) return {0x7fff};
  return {static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

struct __half {
  std::uint16_t bits;
};

inline float __half2float(__half value) {
  const float sign = value.bits & 0x8000 ? -1.0f : 1.0f;
  const int exponent = value.bits >> 10 & 31;
  const int mantissa = value.bits & 1023;
  if (exponent == 31) return mantissa != 0 ? std::nanf("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
}

inline __half __float2half_rn(float value) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (value != value) return {0x7fff};
  if (size >= 65520.0f) return {static_cast<std::uint16_t>(sign | 0x7c00)};
  const int exponent = std::max(size > 0 ? std::ilogb(size) : -14, -14);
  // In units of the last place; a mantissa that rounds up to 2048 carries into the exponent.
  const int mantissa = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  return {static_cast<std::uint16_t>(sign | (((exponent + 14) << 10) + mantissa))};
}

namespace cuda_on_cpu {

struct Index {
  unsigned x = 0;
};

// What the threads of the blocks that run one after another in one place have in common.
class Team {
 public:
  Team(int threads, std::int64_t shared_bytes)
      : shared(static_cast<unsigned char*>(::operator new(shared_bytes, std::align_val_t(16)))),
        threads_(threads) {}
  Team(const Team&) = delete;
  ~Team() { ::operator delete(shared, std::align_val_t(16)); }

  // Goes on when all threads are here.
  void meet() {
    const int meeting = meeting_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      arrived_.store(0, std::memory_order_relaxed);
      meeting_.store(meeting + 1, std::memory_order_release);
    }
    while (meeting_.load(std::memory_order_acquire) == meeting) yield();
  }

  unsigned char* const shared;

 private:
  const int threads_;
  std::atomic<int> arrived_ = 0, meeting_ = 0;
};

struct Thread {
  Team* team;
  Index thread_index, block_index, block_size, grid_size;
};

inline Thread& here() { return *static_cast<Thread*>(this_fiber().local); }

// CUDA_ON_CPU_WITHOUT=file:line takes out the barrier of that line.
inline bool is_taken_out(const char* file, int line) {
  static const char* const without = std::getenv("CUDA_ON_CPU_WITHOUT");
  if (without == nullptr) return false;
  const char* slash = std::strrchr(file, '/');
  return std::string(slash != nullptr ? slash + 1 : file) + ":" + std::to_string(line) == without;
}

inline void sync_threads(const char* file, int line) {
  if (!is_taken_out(file, line)) here().team->meet();
}

enum class Order { kForward, kReverse, kShuffled };

inline std::vector<unsigned> in_order(std::int64_t count, Order order) {
  std::vector<unsigned> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0u);
  if (order == Order::kReverse) std::reverse(numbers.begin(), numbers.end());
  if (order == Order::kShuffled) std::shuffle(numbers.begin(), numbers.end(), std::mt19937(1));
  return numbers;
}

// The stand-in for <<<blocks, threads, shared_bytes>>>, with `alive` blocks at a time.
struct Launch {
  Order order = Order::kForward;
  int alive = 2;

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), std::int64_t blocks, int threads,
                  std::int64_t shared_bytes, Arguments... arguments) const {
    run([&] { kernel(arguments...); }, blocks, threads, shared_bytes);
  }

 private:
  void run(const std::function<void()>& kernel, std::int64_t blocks, int threads,
           std::int64_t shared_bytes) const {
    const std::vector<unsigned> numbers = in_order(blocks, order);
    std::vector<std::unique_ptr<Team>> teams(std::min<std::int64_t>(alive, blocks));
    for (auto& team : teams) team = std::make_unique<Team>(threads, shared_bytes);
    run_fibers(in_order(teams.size() * threads, order), [&](int fiber) {
      const int first = fiber / threads, number = fiber % threads;
      Team& team = *teams[first];
      Thread thread{&team, {unsigned(number)}, {}, {unsigned(threads)}, {unsigned(blocks)}};
      this_fiber().local = &thread;
      for (std::int64_t i = first; i < blocks; i += alive) {
        thread.block_index.x = numbers[i];
        if (number == 0) std::memset(team.shared, 0xff, shared_bytes);
        team.meet();
        kernel();
        team.meet();
      }
    });
  }
};

}  // namespace cuda_on_cpu

#define threadIdx cuda_on_cpu::here().thread_index
#define blockIdx cuda_on_cpu::here().block_index
#define blockDim cuda_on_cpu::here().block_size
#define gridDim cuda_on_cpu::here().grid_size

namespace attn_kernels {

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(cuda_on_cpu::here().team->shared);
}

}  // namespace attn_kernels
