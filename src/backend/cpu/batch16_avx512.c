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
#define V_MAX(a, b) _mm512_max_ps(a, b)  // b where either is NaN
#define V_SUM(v) _mm512_reduce_add_ps(v)
#define V_KEEP(v) __asm__("" : "+v"(v))
#define V_MUL(a, b) _mm512_mul_ps(a, b)
#define VM __mmask16
#define V_IS_NUMBER(v) _mm512_cmp_ps_mask(v, v, _CMP_ORD_Q)
#define V_GREATER_OR_NAN(a, b) _mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ)
#define VM_AND(a, b) _kand_mask16(a, b)
#define V_SELECT(mask, yes, no) _mm512_mask_blend_ps(mask, no, yes)
#define VI __m512i
#define VI_SET1(x) _mm512_set1_epi32(x)
#define VI_SELECT(mask, yes, no) _mm512_mask_blend_epi32(mask, no, yes)
#define VI_EQUAL(a, b) _mm512_cmpeq_epi32_mask(a, b)
#define VI_STORE8(p, v) _mm_storeu_si128((__m128i *)(p), _mm512_cvtepi32_epi8(v))
#define VI_LOAD8(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define KB 6
#define XB 4
#define ACCUMULATORS 25
#define FOR_WIDE(MACRO, kb) MACRO(kb, 3) MACRO(kb, 4)
#define KERNELS ls_b16_kernels_avx512
#define KERNELS_NAME "batch16:avx512"

#include "backend/cpu/batch16_kernels.h"
