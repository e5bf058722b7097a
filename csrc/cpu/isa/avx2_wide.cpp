// float and double, for AVX2: on x86 only.
#if defined(__x86_64__)
#include "avx2.h"

ATTN_TABLE(float, float_kernels)
ATTN_TABLE(double, double_kernels)

#include "end.h"
#endif
