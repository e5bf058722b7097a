// gate_sim CHAIN DTYPE nchw|channels_last N C H W, to be run in GPGPU-Sim. DTYPE is that of TYPE.
// CHAIN: copy; ours, eager, compile; the backwards ours_bwd, eager_bwd, compile_bwd, recompute_bwd.
// Runs the chain once and compares its outputs with plain loops on the CPU.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>

#include "baseline_chains.cuh"
#include "ours.cuh"
#include "reference.h"

namespace {

bool all_right = true;

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

template <class T>
std::vector<T> narrowed(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

template <class T>
int run(const std::string& chain, const Sizes& s) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const auto normals = [&](int64_t count, float size, bool rounded) {
    std::vector<float> values(count);
    for (float& value : values) {
      value = size * normal(random);
      if (rounded) value = static_cast<float>(static_cast<T>(value));
    }
    return values;
  };
  const std::vector<float> x = normals(s.elements(), 1, true), dy = normals(s.elements(), 1, true);
  const std::vector<float> weight = normals(2 * kTaps, 0.1f, false);
  const std::vector<float> bias = {0.1f};
  const Forward wanted = forward(s, x, weight, bias[0]);

  base::Tensors<T> t;
  t.n = s.n, t.c = s.c, t.h = s.h, t.w = s.w;
  t.x = to_device(narrowed<T>(x));
  t.dy = to_device(narrowed<T>(dy));
  for (T** map : {&t.y, &t.dx, &t.temporary[0], &t.temporary[1], &t.temporary[2]}) {
    *map = on_device<T>(s.elements());
  }
  t.weight = to_device(weight);
  t.bias = to_device(bias);
  for (float** plane : {&t.d_map, &t.d_logit, &t.mean, &t.max}) {
    *plane = on_device<float>(s.pixels());
  }
  t.d_pooled = on_device<float>(2 * s.pixels());
  t.d_weight = on_device<float>(2 * kTaps);
  t.d_bias = on_device<float>(1);

  const bool backwards = chain.size() > 4 && chain.compare(chain.size() - 4, 4, "_bwd") == 0;
  const auto saved = [&](const std::vector<double>& values) {
    const std::vector<float> narrow(values.begin(), values.end());
    return backwards ? to_device(narrow) : on_device<float>(values.size());
  };
  t.pooled = saved(wanted.pooled);
  t.logit = saved(wanted.logit);
  t.map = saved(wanted.map);
  t.index = to_device(wanted.argmax);

  std::printf("BEGIN %s\n", chain.c_str());
  const Launch launch;
  if (chain == "copy") base::copy(launch, t);
  if (chain == "eager") base::eager(launch, t);
  if (chain == "compile") base::compiled(launch, t);
  if (chain == "ours") ours(launch, s, t);
  if (chain == "eager_bwd") base::eager_backward(launch, t);
  if (chain == "compile_bwd") base::compiled_backward(launch, t);
  if (chain == "recompute_bwd") base::recomputed_backward(launch, t);
  if (chain == "ours_bwd") ours_backward(launch, s, t);

  const double tolerance = sizeof(T) == 2 ? 2e-3 : 1e-5;
  if (chain == "copy") {
    compare("copy", t.y, {x.begin(), x.end()}, 0);
  } else if (backwards) {
    const Backward gradients = backward(s, dy, x, weight, wanted);
    compare("dx", t.dx, gradients.dx, tolerance);
    compare("d_weight", t.d_weight, gradients.d_weight, 1e-5);
    compare("d_bias", t.d_bias, gradients.d_bias, 1e-5);
  } else {
    compare("pooled", t.pooled, wanted.pooled, 1e-5);
    compare("y", t.y, wanted.y, tolerance);
  }
  std::printf("RESULT %s\n", all_right ? "PASS" : "FAIL");
  return all_right ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 8) {
    std::fprintf(stderr, "usage: %s CHAIN DTYPE nchw|channels_last N C H W\n", argv[0]);
    return 2;
  }
  const Sizes sizes = {std::atoll(argv[4]), std::atoll(argv[5]), std::atoll(argv[6]),
                       std::atoll(argv[7]), std::string(argv[3]) == "channels_last"};
  return run<TYPE>(argv[1], sizes);
}
