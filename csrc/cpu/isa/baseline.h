// The CPU kernels for what every machine of this architecture has.
#pragma once

#include "includes.h"

#define ATTN_ISA baseline
#define ATTN_VECTOR_BYTES 16
#include "table.h"
