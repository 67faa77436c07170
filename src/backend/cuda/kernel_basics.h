// What the kernel bodies stand on: values of any floating type as float32, eight at a time, and lanes.
//
// Every kernel is written once, as the body of one index (kernels_*.h), and compiled twice: by nvcc for the device, where
// a thread runs it for its index (device/kernels.cu), and by the C compiler as a loop over all indices (twin.c), which
// the tests hold against the reference backend on machines without a GPU. Nothing here contracts a*b+c (nvcc runs with
// --fmad=false), so but for exp, log and pow both give the same bits. Sums are in fixed order: no atomics on floats.
//
// C and CUDA C++. Pure functions of their arguments; any thread.
#ifndef LS_BACKEND_CUDA_KERNEL_BASICS_H
#define LS_BACKEND_CUDA_KERNEL_BASICS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "backend/backend.h"
#include "base/philox.h"
#include "tensor/tensor.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define LS_BODY static __device__ __forceinline__
#define LS_UNROLL _Pragma("unroll")
#else
#define LS_BODY static inline
#define LS_UNROLL
#endif

enum { LS_GROUP = 8 };  // values that one index of an elementwise kernel works on

// ---- bits of the 16-bit types, as the host makes them: to nearest, ties to even

static inline uint32_t ls_float_bits(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  return bits;
}

static inline float ls_float_of_bits(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

static inline uint16_t ls_bf16_of_float(float f) {
  uint32_t bits = ls_float_bits(f);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;  // NaN, as the device writes it
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float ls_float_of_bf16(uint16_t h) { return ls_float_of_bits((uint32_t)h << 16); }

static inline uint16_t ls_f16_of_float(float f) {
  uint32_t bits = ls_float_bits(f), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7c00);  // 65536 and more
  if (magnitude < 0x38800000) {                                   // below 2^-14: a multiple of 2^-24
    float scaled = ls_float_of_bits(magnitude) * 0x1p24f;
    return (uint16_t)(sign | (uint32_t)lrintf(scaled));
  }
  return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

static inline float ls_float_of_f16(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
  if (exponent == 31) return ls_float_of_bits(sign | 0x7f800000 | fraction << 13);
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * (float)fraction * 0x1p-24f;
  return ls_float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

// ---- values in memory

LS_BODY float ls_get(const void *memory, enum ls_dtype dtype, int64_t i) {
  switch (dtype) {
#ifdef __CUDACC__
    case LS_F16: return __half2float(((const __half *)memory)[i]);
    case LS_BF16: return __bfloat162float(((const __nv_bfloat16 *)memory)[i]);
#else
    case LS_F16: return ls_float_of_f16(((const uint16_t *)memory)[i]);
    case LS_BF16: return ls_float_of_bf16(((const uint16_t *)memory)[i]);
#endif
    case LS_U8: return (float)((const uint8_t *)memory)[i];
    case LS_I32: return (float)((const int32_t *)memory)[i];
    case LS_F64: return (float)((const double *)memory)[i];
    default: return ((const float *)memory)[i];
  }
}

LS_BODY void ls_put(void *memory, enum ls_dtype dtype, int64_t i, float value) {
  switch (dtype) {
#ifdef __CUDACC__
    case LS_F16: ((__half *)memory)[i] = __float2half_rn(value); break;
    case LS_BF16: ((__nv_bfloat16 *)memory)[i] = __float2bfloat16_rn(value); break;
#else
    case LS_F16: ((uint16_t *)memory)[i] = ls_f16_of_float(value); break;
    case LS_BF16: ((uint16_t *)memory)[i] = ls_bf16_of_float(value); break;
#endif
    case LS_U8: ((uint8_t *)memory)[i] = (uint8_t)value; break;
    case LS_I32: ((int32_t *)memory)[i] = (int32_t)value; break;
    case LS_F64: ((double *)memory)[i] = (double)value; break;
    default: ((float *)memory)[i] = value; break;
  }
}

#ifdef __CUDACC__
// Two 16-bit values in a word; in registers, which an array of them would leave.
LS_BODY void ls_split(unsigned word, enum ls_dtype dtype, float *v) {
  if (dtype == LS_BF16) {
    v[0] = __uint_as_float(word << 16);
    v[1] = __uint_as_float(word & 0xffff0000u);
  } else {
    v[0] = __half2float(__ushort_as_half((unsigned short)(word & 0xffffu)));
    v[1] = __half2float(__ushort_as_half((unsigned short)(word >> 16)));
  }
}

LS_BODY unsigned ls_join(enum ls_dtype dtype, const float *v) {
  if (dtype == LS_BF16) {
    return (unsigned)__bfloat16_as_ushort(__float2bfloat16_rn(v[1])) << 16 |
           __bfloat16_as_ushort(__float2bfloat16_rn(v[0]));
  }
  return (unsigned)__half_as_ushort(__float2half_rn(v[1])) << 16 | __half_as_ushort(__float2half_rn(v[0]));
}
#endif

// Group `group` of a row of n values: how many it has, LS_GROUP but for the last.
LS_BODY int ls_group_size(int64_t n, int64_t group) {
  int64_t rest = n - group * LS_GROUP;
  return rest < LS_GROUP ? (int)rest : LS_GROUP;
}

// Channel of a group's first value where channels are innermost. (Tensors have fewer than 2^31 values: lower.c.)
LS_BODY int ls_channel_of(int64_t group, int32_t c) { return (int)((uint32_t)(group * LS_GROUP) % (uint32_t)c); }

// Whole groups in memory that is aligned for it travel as 16-byte words.
LS_BODY void ls_get_group(const void *memory, enum ls_dtype dtype, int64_t group, int size, float *v) {
  int64_t at = group * LS_GROUP;
#ifdef __CUDACC__
  bool whole = size == LS_GROUP && ((uintptr_t)memory & 15) == 0;
  if (whole && dtype == LS_F32) {
    const float4 *words = (const float4 *)((const float *)memory + at);
    float4 a = words[0], b = words[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    return;
  }
  if (whole && (dtype == LS_F16 || dtype == LS_BF16)) {
    uint4 word = *(const uint4 *)((const uint16_t *)memory + at);
    ls_split(word.x, dtype, v), ls_split(word.y, dtype, v + 2);
    ls_split(word.z, dtype, v + 4), ls_split(word.w, dtype, v + 6);
    return;
  }
#endif
  LS_UNROLL for (int j = 0; j < LS_GROUP; j++) v[j] = j < size ? ls_get(memory, dtype, at + j) : 0;
}

LS_BODY void ls_put_group(void *memory, enum ls_dtype dtype, int64_t group, int size, const float *v) {
  int64_t at = group * LS_GROUP;
#ifdef __CUDACC__
  bool whole = size == LS_GROUP && ((uintptr_t)memory & 15) == 0;
  if (whole && dtype == LS_F32) {
    float4 *words = (float4 *)((float *)memory + at);
    words[0] = make_float4(v[0], v[1], v[2], v[3]);
    words[1] = make_float4(v[4], v[5], v[6], v[7]);
    return;
  }
  if (whole && (dtype == LS_F16 || dtype == LS_BF16)) {
    *(uint4 *)((uint16_t *)memory + at) =
        make_uint4(ls_join(dtype, v), ls_join(dtype, v + 2), ls_join(dtype, v + 4), ls_join(dtype, v + 6));
    return;
  }
#endif
  LS_UNROLL for (int j = 0; j < LS_GROUP; j++) {
    if (j < size) ls_put(memory, dtype, at + j, v[j]);
  }
}

// A stretch of channels that one index works on: LS_GROUP of them where they divide c, so that loads are 16 bytes wide; else
// one. Values beyond the stretch are 0.
LS_BODY int ls_stretch(int32_t c) { return c % LS_GROUP == 0 ? LS_GROUP : 1; }

LS_BODY void ls_get_stretch(const void *memory, enum ls_dtype dtype, int64_t at, int width, float *v) {
  if (width == LS_GROUP) {
    ls_get_group(memory, dtype, at / LS_GROUP, LS_GROUP, v);
  } else {
    LS_UNROLL for (int l = 1; l < LS_GROUP; l++) v[l] = 0;
    v[0] = ls_get(memory, dtype, at);
  }
}

LS_BODY void ls_put_stretch_of(void *memory, enum ls_dtype dtype, int64_t at, int width, const float *v) {
  if (width == LS_GROUP)
    ls_put_group(memory, dtype, at / LS_GROUP, LS_GROUP, v);
  else
    ls_put(memory, dtype, at, v[0]);
}

LS_BODY void ls_put_stretch(float *memory, int64_t at, int width, const float *v) {
  ls_put_stretch_of(memory, LS_F32, at, width, v);
}

// ---- lanes: a kernel of rows gives each row to 32 lanes, a warp on the device, a loop on the host. A variable of all
// lanes is an array of LS_LANE_VALUES; LS_LANE_LOOP runs for every lane that this thread is; `ls_lanes_*` combine all of
// them pairwise, 16 apart, then 8, 4, 2, 1, and every lane gets the same result.

enum { LS_LANES = 32 };
#ifdef __CUDACC__
enum { LS_LANE_VALUES = 1 };
#define LS_LANE_LOOP(l) for (int l = (int)(threadIdx.x & 31), l##_once = 1; l##_once; l##_once = 0)
#define LS_LANE(array, l) ((array)[0])
#define LS_LANES_FUNCTION(name, type, combine)                   \
  LS_BODY void name(type *v) {                                   \
    for (int apart = LS_LANES / 2; apart > 0; apart /= 2) {      \
      type a = v[0], b = __shfl_xor_sync(0xffffffffu, a, apart); \
      v[0] = combine;                                            \
    }                                                            \
  }
#else
enum { LS_LANE_VALUES = LS_LANES };
#define LS_LANE_LOOP(l) for (int l = 0; l < LS_LANES; l++)
#define LS_LANE(array, l) ((array)[l])
#define LS_LANES_FUNCTION(name, type, combine)              \
  LS_BODY void name(type *v) {                              \
    for (int apart = LS_LANES / 2; apart > 0; apart /= 2) { \
      type old[LS_LANES];                                   \
      memcpy(old, v, sizeof old);                           \
      for (int l = 0; l < LS_LANES; l++) {                  \
        type a = old[l], b = old[l ^ apart];                \
        v[l] = combine;                                     \
      }                                                     \
    }                                                       \
  }
#endif
LS_LANES_FUNCTION(ls_lanes_sum, float, a + b)
LS_LANES_FUNCTION(ls_lanes_sum_double, double, a + b)
LS_LANES_FUNCTION(ls_lanes_max, float, isnan(a) ? a : isnan(b) || b > a ? b : a)

// ---- blocks: a kernel of sums over rows gives each index to 256 lanes, a block on the device. The lanes are a rectangle:
// `tile` of them side by side, each at a stretch of channels of its own, as often as they fit below each other (`deep`), each
// at a row of its own. A variable of all lanes is an array of LS_BLOCK_VALUES stretches.

enum { LS_BLOCK_LANES = 256 };
#ifdef __CUDACC__
enum { LS_BLOCK_VALUES = 1 };
#define LS_BLOCK_LOOP(l) for (int l = (int)threadIdx.x, l##_once = 1; l##_once; l##_once = 0)
#define LS_BLOCK(array, l) ((array)[0])
#else
enum { LS_BLOCK_VALUES = LS_BLOCK_LANES };
#define LS_BLOCK_LOOP(l) for (int l = 0; l < LS_BLOCK_LANES; l++)
#define LS_BLOCK(array, l) ((array)[l])
#endif

// The sum of what lies below each other, in the lanes of the first row: pairwise, half of the rows apart, then a quarter ...
LS_BODY void ls_block_sum(float (*v)[LS_GROUP], int tile) {
  int deep = LS_BLOCK_LANES / tile, apart = 1;
  while (apart * 2 < deep) apart *= 2;
#ifdef __CUDACC__
  __shared__ float kept[LS_GROUP][LS_BLOCK_LANES];
  int l = (int)threadIdx.x, row = l / tile;
  __syncthreads();  // the sum before this one has been read
  LS_UNROLL for (int j = 0; j < LS_GROUP; j++) kept[j][l] = v[0][j];
  for (; apart > 0; apart /= 2) {
    __syncthreads();
    if (row >= apart || row + apart >= deep) continue;
    LS_UNROLL for (int j = 0; j < LS_GROUP; j++) kept[j][l] += kept[j][l + apart * tile];
  }
  if (row == 0) {  // the last sum was its own
    LS_UNROLL for (int j = 0; j < LS_GROUP; j++) v[0][j] = kept[j][l];
  }
#else
  for (; apart > 0; apart /= 2) {
    int rows = deep - apart < apart ? deep - apart : apart;
    for (int l = 0; l < rows * tile; l++) {
      for (int j = 0; j < LS_GROUP; j++) v[l][j] += v[l + apart * tile][j];
    }
  }
#endif
}

#endif
