// What every chain's run needs: inputs, and outputs beside those of plain loops.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>

#include "device.h"

inline bool all_right = true;

template <class E>
void compare(const char* name, const E* on_device, const std::vector<double>& wanted,
             double tolerance) {
  const std::vector<E> got = from_device(on_device, wanted.size());
  double worst = 0, size = 1;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double error = std::fabs(static_cast<double>(got[i]) - wanted[i]);
    if (!(error <= worst)) worst = error;
    size = std::max(size, std::fabs(wanted[i]));
  }
  const bool right = worst <= tolerance * size;
  all_right = all_right && right;
  std::printf("CHECK %s max_abs_err=%.3g size=%.3g %s\n", name, worst, size,
              right ? "ok" : "WRONG");
}

// Of maps in T; what is kept in float32 is held to kSums.
template <class T>
constexpr double kMaps = sizeof(T) == 2 ? 2e-3 : 1e-5;
constexpr double kSums = 1e-5;

// The same numbers for every chain, as doubles that E holds.
struct Normals {
  std::mt19937 random{7};
  std::normal_distribution<float> normal;

  template <class E>
  std::vector<double> of(int64_t count, float size = 1) {
    std::vector<double> values(count);
    for (double& value : values) {
      value = static_cast<float>(static_cast<E>(size * normal(random)));
    }
    return values;
  }
};
