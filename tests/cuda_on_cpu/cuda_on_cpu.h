// CUDA for a C++20 compiler: lets csrc/cuda/*.cuh run on threads of the operating system.
//
// Every CUDA thread is a thread, __syncthreads() a std::barrier, shared memory a heap block that is
// filled with NaN before each block starts. Several blocks are alive at once, in any order. So
// ThreadSanitizer sees the races that a GPU would have, and AddressSanitizer the stray accesses.
#pragma once

#include <algorithm>
#include <atomic>
#include <barrier>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tiling.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __syncthreads() cuda_on_cpu::sync_threads(__FILE__, __LINE__)
#define __threadfence() cuda_on_cpu::fence(__FILE__, __LINE__)
#define __nanosleep(nanoseconds) cuda_on_cpu::nap()
#define atomicAdd(counter, value) cuda_on_cpu::add(__FILE__, __LINE__, counter, value)

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
struct Team {
  Team(int threads, std::int64_t shared_bytes)
      : barrier(threads),
        shared_bytes(shared_bytes),
        shared(static_cast<unsigned char*>(::operator new(shared_bytes, std::align_val_t(16)))) {}
  ~Team() { ::operator delete(shared, std::align_val_t(16)); }

  std::barrier<> barrier;
  std::int64_t shared_bytes;
  unsigned char* shared;
};

inline thread_local Index thread_index, block_index, block_size, grid_size;
inline thread_local Team* team = nullptr;

// CUDA_ON_CPU_WITHOUT=file:line takes out the barrier, fence or atomic of that line.
inline bool is_taken_out(const char* file, int line) {
  static const char* const without = std::getenv("CUDA_ON_CPU_WITHOUT");
  if (without == nullptr) return false;
  const char* slash = std::strrchr(file, '/');
  return std::string(slash != nullptr ? slash + 1 : file) + ":" + std::to_string(line) == without;
}

// A fence right before an atomic makes it a release, one right after it an acquire; without, it
// orders nothing. So ThreadSanitizer, which knows no fences, sees what a missing fence allows.
inline thread_local bool is_fenced = false;
inline thread_local unsigned* looked_at = nullptr;

inline void sync_threads(const char* file, int line) {
  is_fenced = false;
  looked_at = nullptr;
  if (!is_taken_out(file, line)) team->barrier.arrive_and_wait();
}

inline void fence(const char* file, int line) {
  if (is_taken_out(file, line)) return;
  is_fenced = true;
  if (looked_at != nullptr) std::atomic_ref(*looked_at).load(std::memory_order_acquire);
}

inline unsigned add(const char* file, int line, unsigned* counter, unsigned value) {
  if (is_taken_out(file, line)) return 0;
  looked_at = counter;
  const auto order = is_fenced ? std::memory_order_release : std::memory_order_relaxed;
  is_fenced = false;
  return std::atomic_ref(*counter).fetch_add(value, order);
}

// Whoever waits for what never comes ends the program.
inline thread_local int naps = 0;
constexpr int kMostNaps = 20000;

inline void nap() {
  if (++naps > kMostNaps) {
    std::fputs("a thread waits for ever\n", stderr);
    std::_Exit(66);
  }
  std::this_thread::sleep_for(std::chrono::microseconds(100));
}

enum class Order { kForward, kReverse, kShuffled };

inline std::vector<unsigned> block_order(std::int64_t blocks, Order order) {
  std::vector<unsigned> numbers(blocks);
  std::iota(numbers.begin(), numbers.end(), 0u);
  if (order == Order::kReverse) std::reverse(numbers.begin(), numbers.end());
  if (order == Order::kShuffled) std::shuffle(numbers.begin(), numbers.end(), std::mt19937(1));
  return numbers;
}

// The stand-in for <<<blocks, threads, shared_bytes>>>, with `alive` blocks at a time.
struct Launch {
  Order order = Order::kForward;
  int alive = 2;
  // With more L2 than any x takes, unless a test says otherwise.
  attn_kernels::Device machine = {1, INT64_MAX};

  static constexpr bool kOrdered = true;
  attn_kernels::Device device() const { return machine; }
  void zero(unsigned* memory, std::int64_t count) const { std::fill_n(memory, count, 0u); }

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), std::int64_t blocks, int threads,
                  std::int64_t shared_bytes, Arguments... arguments) const {
    const std::vector<unsigned> numbers = block_order(blocks, order);
    const auto run_thread = [&](Team* my_team, std::int64_t first, int thread) {
      team = my_team;
      thread_index.x = thread;
      block_size.x = threads;
      grid_size.x = static_cast<unsigned>(blocks);
      for (std::int64_t i = first; i < blocks; i += alive) {
        block_index.x = numbers[i];
        if (thread == 0) std::memset(team->shared, 0xff, shared_bytes);
        team->barrier.arrive_and_wait();
        kernel(arguments...);
        team->barrier.arrive_and_wait();
      }
    };
    std::vector<std::unique_ptr<Team>> teams;
    std::vector<std::thread> running;
    for (std::int64_t first = 0; first < std::min<std::int64_t>(alive, blocks); ++first) {
      teams.push_back(std::make_unique<Team>(threads, shared_bytes));
      for (int thread = 0; thread < threads; ++thread) {
        running.emplace_back(run_thread, teams.back().get(), first, thread);
      }
    }
    for (std::thread& thread : running) thread.join();
  }
};

}  // namespace cuda_on_cpu

#define threadIdx cuda_on_cpu::thread_index
#define blockIdx cuda_on_cpu::block_index
#define blockDim cuda_on_cpu::block_size
#define gridDim cuda_on_cpu::grid_size

namespace attn_kernels {

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(cuda_on_cpu::team->shared);
}

}  // namespace attn_kernels
