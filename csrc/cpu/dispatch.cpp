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

// ATTN_KERNELS_MATRIX_INSTRUCTIONS=1 says yes on any machine, so that tests go the same way on all.
bool has_matrix_instructions() {
  static const bool found = [] {
    const char* variable = std::getenv("ATTN_KERNELS_MATRIX_INSTRUCTIONS");
    if (variable != nullptr && std::string_view(variable) == "1") return true;
#if defined(__x86_64__)
    return __builtin_cpu_supports("amx-bf16") != 0;
#else
    return false;
#endif
  }();
  return found;
}

#define ATTN_DEFINE(type, table)          \
  template <>                             \
  const Kernels<type>& kernels() {        \
    return ATTN_CHOOSE(table);            \
  }                                       \
  template <>                             \
  const Kernels<type>& narrow_kernels() { \
    return baseline::table;               \
  }
ATTN_DEFINE(float, float_kernels)
ATTN_DEFINE(double, double_kernels)
ATTN_DEFINE(Half, half_kernels)
ATTN_DEFINE(BFloat16, bfloat16_kernels)
#undef ATTN_DEFINE

}  // namespace attn_kernels
