// Sixteen-image kernels for AVX2 with FMA: two vectors hold the lanes, one after the other; 6 x 2 accumulators of the 16
// registers.
#pragma GCC target("avx2,fma")
#include <immintrin.h>

#include "backend/cpu/batch16_internal.h"

static inline float sum_of(__m256 v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

static inline void store_bytes(uint8_t *to, __m256i v) {
  __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storel_epi64((__m128i *)to, _mm_packus_epi16(half, half));
}

#define V __m256
#define V_LANES 8
#define V_LOAD(p) _mm256_loadu_ps(p)
#define V_STORE(p, v) _mm256_storeu_ps(p, v)
#define V_SET1(x) _mm256_set1_ps(x)
#define V_ZERO() _mm256_setzero_ps()
#define V_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define V_ADD(a, b) _mm256_add_ps(a, b)
#define V_MAX(a, b) _mm256_max_ps(a, b)  // b where either is NaN
#define V_SUM(v) sum_of(v)
#define V_KEEP(v) __asm__("" : "+x"(v))
#define V_MUL(a, b) _mm256_mul_ps(a, b)
#define VM __m256
#define V_IS_NUMBER(v) _mm256_cmp_ps(v, v, _CMP_ORD_Q)
#define V_GREATER_OR_NAN(a, b) _mm256_cmp_ps(a, b, _CMP_NLE_UQ)
#define VM_AND(a, b) _mm256_and_ps(a, b)
#define V_SELECT(mask, yes, no) _mm256_blendv_ps(no, yes, mask)
#define VI __m256i
#define VI_SET1(x) _mm256_set1_epi32(x)
#define VI_SELECT(mask, yes, no) _mm256_blendv_epi8(no, yes, _mm256_castps_si256(mask))
#define VI_EQUAL(a, b) _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b))
#define VI_STORE8(p, v) store_bytes(p, v)
#define VI_LOAD8(p) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define KB 6
#define XB 2
#define ACCUMULATORS 12
#define FOR_WIDE(MACRO, kb)
#define KERNELS ls_b16_kernels_avx2
#define KERNELS_NAME "batch16:avx2"

#include "backend/cpu/batch16_kernels.h"
