// Sixteen-image kernels for AVX-512: one vector holds all lanes; 6 x 4 accumulators of the 32 registers.
#pragma GCC target("avx512f,avx512vl,avx512dq,avx2,fma")
#include <immintrin.h>

#include "backend/cpu/batch16_internal.h"

#define V __m512
#define V_LANES 16
#define V_LOAD(p) _mm512_loadu_ps(p)
#define V_STORE(p, v) _mm512_storeu_ps(p, v)
#define V_SET1(x) _mm512_set1_ps(x)
#define V_ZERO() _mm512_setzero_ps()
#define V_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define V_ADD(a, b) _mm512_add_ps(a, b)
#define V_MAX(a, b) _mm512_max_ps(a, b)
#define V_SUM(v) _mm512_reduce_add_ps(v)
#define KB 6
#define XB 4
#define ACCUMULATORS 25
#define FOR_WIDE(MACRO, kb) MACRO(kb, 3) MACRO(kb, 4)
#define KERNELS ls_b16_kernels_avx512
#define KERNELS_NAME "batch16:avx512"

#include "backend/cpu/batch16_kernels.h"
