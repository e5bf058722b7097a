// float16 and bfloat16, for what every machine of this architecture has.
#include "baseline.h"

ATTN_TABLE(Half, half_kernels)
ATTN_TABLE(BFloat16, bfloat16_kernels)
