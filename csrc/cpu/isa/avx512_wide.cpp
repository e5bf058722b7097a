// float and double, for AVX-512: on x86 only.
#if defined(__x86_64__)
#include "avx512.h"

ATTN_TABLE(float, float_kernels)
ATTN_TABLE(double, double_kernels)

#include "end.h"
#endif
