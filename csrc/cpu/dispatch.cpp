// The choice of instruction set, at run time and once: the best that the machine has, or a lesser
// one by PyTorch's own variable, ATEN_CPU_CAPABILITY=default or avx2.
#include <cstdlib>
#include <string_view>

#include "kernels.h"

namespace attn_kernels {

#define ATTN_DECLARE(isa)                          \
  namespace isa {                                  \
  extern const Kernels<float> float_kernels;       \
  extern const Kernels<double> double_kernels;     \
  extern const Kernels<Half> half_kernels;         \
  extern const Kernels<BFloat16> bfloat16_kernels; \
  }

ATTN_DECLARE(baseline)
#if defined(__x86_64__)
ATTN_DECLARE(avx2)
ATTN_DECLARE(avx512)
#endif
#undef ATTN_DECLARE

namespace {

enum class Isa { kBaseline, kAvx2, kAvx512 };

Isa detect() {
#if defined(__x86_64__)
  const char* variable = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view most = variable != nullptr ? variable : "";
  if (most == "default") return Isa::kBaseline;
  __builtin_cpu_init();
  if (most != "avx2" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return Isa::kAvx512;
  // Every x86 processor with AVX2 and FMA has F16C and BMI2.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
  return Isa::kBaseline;
}

const Isa kIsa = detect();

}  // namespace

#if defined(__x86_64__)
#define ATTN_CHOOSE(table) \
  (kIsa == Isa::kAvx512 ? avx512::table : kIsa == Isa::kAvx2 ? avx2::table : baseline::table)
#else
#define ATTN_CHOOSE(table) baseline::table
#endif

bool has_matrix_instructions() {
#if defined(__x86_64__)
  static const bool found = __builtin_cpu_supports("amx-bf16");
  return found;
#else
  return false;
#endif
}

template <>
const Kernels<float>& kernels() {
  return ATTN_CHOOSE(float_kernels);
}
template <>
const Kernels<double>& kernels() {
  return ATTN_CHOOSE(double_kernels);
}
template <>
const Kernels<Half>& kernels() {
  return ATTN_CHOOSE(half_kernels);
}
template <>
const Kernels<BFloat16>& kernels() {
  return ATTN_CHOOSE(bfloat16_kernels);
}

}  // namespace attn_kernels
