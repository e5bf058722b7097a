// The CPU kernels for AVX-512; what is to be compiled so ends with end.h.
#pragma once

// Standard headers first: their functions must not be compiled for this instruction set, since the
// linker keeps one copy of them for everybody.
#include "includes.h"

#if defined(__clang__)
#pragma clang attribute push(                                                         \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2")
#endif

#define ATTN_ISA avx512
#define ATTN_VECTOR_BYTES 64
#include "table.h"
