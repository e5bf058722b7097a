// float16 and bfloat16, for AVX2: on x86 only.
#if defined(__x86_64__)
#include "avx2.h"

ATTN_TABLE(Half, half_kernels)
ATTN_TABLE(BFloat16, bfloat16_kernels)

#include "end.h"
#endif
