// The CPU kernels for what every machine of this architecture has.
#include "includes.h"

#define ATTN_ISA baseline
#define ATTN_VECTOR_BYTES 16
#include "../affine_gate_kernels.h"
#include "../channel_pool_kernels.h"
#include "../excite_kernels.h"
#include "../gam_kernels.h"
#include "../scale_gate_kernels.h"
#include "../spatial_kernels.h"
#include "../squeeze_backward_kernels.h"
#include "../squeeze_kernels.h"
#include "table.h"
