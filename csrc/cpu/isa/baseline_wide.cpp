// float and double, for what every machine of this architecture has.
#include "baseline.h"

ATTN_TABLE(float, float_kernels)
ATTN_TABLE(double, double_kernels)
