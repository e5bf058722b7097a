// Memory of the simulated device, and launches on it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::printf("CUDA error %d\n", static_cast<int>(error));
  std::exit(1);
}

template <class E>
E* on_device(size_t count) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, count * sizeof(E)));
  return static_cast<E*>(memory);
}

template <class E>
E* to_device(const std::vector<E>& values) {
  E* memory = on_device<E>(values.size());
  check(cudaMemcpy(memory, values.data(), values.size() * sizeof(E), cudaMemcpyHostToDevice));
  return memory;
}

// Narrowed to E.
template <class E, class Values>
E* to_device_as(const Values& values) {
  std::vector<E> narrow;
  narrow.reserve(values.size());
  for (const auto value : values) narrow.push_back(static_cast<E>(value));
  return to_device(narrow);
}

template <class E>
std::vector<E> from_device(const E* memory, size_t count) {
  std::vector<E> values(count);
  check(cudaMemcpy(values.data(), memory, count * sizeof(E), cudaMemcpyDeviceToHost));
  return values;
}

// Waits after each launch, so that the simulator's counters are those of one kernel.
struct Launch {
  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
                  Arguments... arguments) const {
    std::printf("LAUNCH blocks=%lld threads=%d shared=%lld\n", static_cast<long long>(blocks),
                threads, static_cast<long long>(shared_bytes));
    kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes>>>(arguments...);
    check(cudaDeviceSynchronize());
  }
};
