// gate_sim CHAIN DTYPE nchw|channels_last N C H W, to be run in GPGPU-Sim. DTYPE is that of TYPE.
// CHAIN: copy; of the spatial gate ours, eager, compile and ours_bwd, eager_bwd, compile_bwd,
// recompute_bwd; OP_ours, OP_compile, OP_ours_bwd, OP_compile_bwd with OP of se, se_tail,
// cbam_tail. Runs the chain once and compares its outputs with plain loops on the CPU.
#include <string>

#include "run_tail.cuh"

namespace {

template <class T>
void run_spatial(const std::string& chain, const Sizes& s) {
  Normals normals;
  const Values x = normals.of<T>(s.elements()), dy = normals.of<T>(s.elements());
  const Values weight = normals.of<float>(2 * kTaps, 0.1f), bias = {0.1f};
  const Forward wanted = forward(s, x, weight, bias[0]);

  base::Tensors<T> t = base::allocate<T>(s);
  t.x = to_device_as<T>(x), t.dy = to_device_as<T>(dy);
  t.weight = to_device_as<float>(weight), t.bias = to_device_as<float>(bias);
  const bool backwards = is_backward(chain);
  if (backwards) base::save(t, wanted);

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

  if (chain == "copy") {
    compare("copy", t.y, x, 0);
  } else if (backwards) {
    const Backward gradients = backward(s, dy, x, weight, wanted);
    compare("dx", t.dx, gradients.dx, kMaps<T>);
    compare("d_weight", t.d_weight, gradients.d_weight, kSums);
    compare("d_bias", t.d_bias, gradients.d_bias, kSums);
  } else {
    compare("pooled", t.pooled, wanted.pooled, kSums);
    compare("y", t.y, wanted.y, kMaps<T>);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 8) {
    std::fprintf(stderr, "usage: %s CHAIN DTYPE nchw|channels_last N C H W\n", argv[0]);
    return 2;
  }
  const std::string chain = argv[1];
  const Sizes sizes = {std::atoll(argv[4]), std::atoll(argv[5]), std::atoll(argv[6]),
                       std::atoll(argv[7]), std::string(argv[3]) == "channels_last"};
  if (is_of(chain, "se_tail") || is_of(chain, "cbam_tail")) {
    run_tail<TYPE>(chain, sizes);
  } else if (is_of(chain, "se")) {
    run_excite<TYPE>(chain, sizes);
  } else {
    run_spatial<TYPE>(chain, sizes);
  }
  std::printf("RESULT %s\n", all_right ? "PASS" : "FAIL");
  return all_right ? 0 : 1;
}
