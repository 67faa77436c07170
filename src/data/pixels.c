// Rows of pixels: turned round, split into planes, made floats. The loops a reader spends its time in; for RGB on x86 with
// byte shuffles, else plain C. Both give the same bits.
#include <string.h>

#include "data/augment.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))
static bool has_avx2(void) { return __builtin_cpu_supports("avx2"); }
#endif

static void reverse_plain(const uint8_t *from, int64_t n, int64_t c, uint8_t *to) {
  if (c == 3) {
    for (int64_t i = 0; i < n; i++) {
      const uint8_t *p = from + 3 * (n - 1 - i);
      to[3 * i] = p[0], to[3 * i + 1] = p[1], to[3 * i + 2] = p[2];
    }
    return;
  }
  for (int64_t i = 0; i < n; i++) memcpy(to + i * c, from + (n - 1 - i) * c, (size_t)c);
}

static void planes_plain(const uint8_t *row, int64_t n, int64_t c, uint8_t *out, int64_t plane) {
  for (int64_t k = 0; k < c; k++) {
    for (int64_t i = 0; i < n; i++) out[k * plane + i] = row[i * c + k];
  }
}

static void float_planes_plain(const uint8_t *row, int64_t n, int64_t c, const float *scale, const float *bias,
                               float *out, int64_t plane) {
  for (int64_t k = 0; k < c; k++) {
    for (int64_t i = 0; i < n; i++) out[k * plane + i] = (float)row[i * c + k] * scale[k] + bias[k];
  }
}

#if defined(__x86_64__)
// Sixteen RGB pixels at a time, three vectors: what byte of the input each byte of the output is; -1: of another vector.
AVX2 static void reverse_rgb(const uint8_t *from, int64_t n, uint8_t *to) {
  const __m128i c0 = _mm_setr_epi8(13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, -1);
  const __m128i b0 = _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 14);
  const __m128i c1 = _mm_setr_epi8(-1, 0, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m128i b1 = _mm_setr_epi8(15, -1, 11, 12, 13, 8, 9, 10, 5, 6, 7, 2, 3, 4, -1, 0);
  const __m128i a1 = _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 15, -1);
  const __m128i b2 = _mm_setr_epi8(1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m128i a2 = _mm_setr_epi8(-1, 12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m128i *in = (const __m128i *)(from + 3 * (n - i - 16));
    __m128i *out = (__m128i *)(to + 3 * i);
    const __m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1), c = _mm_loadu_si128(in + 2);
    _mm_storeu_si128(out, _mm_or_si128(_mm_shuffle_epi8(c, c0), _mm_shuffle_epi8(b, b0)));
    _mm_storeu_si128(
        out + 1, _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(c, c1), _mm_shuffle_epi8(b, b1)), _mm_shuffle_epi8(a, a1)));
    _mm_storeu_si128(out + 2, _mm_or_si128(_mm_shuffle_epi8(b, b2), _mm_shuffle_epi8(a, a2)));
  }
  reverse_plain(from, n - i, 3, to + 3 * i);
}

AVX2 static void reverse_grey(const uint8_t *from, int64_t n, uint8_t *to) {
  const __m128i turn = _mm_setr_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    __m128i v = _mm_loadu_si128((const __m128i *)(from + n - i - 16));
    _mm_storeu_si128((__m128i *)(to + i), _mm_shuffle_epi8(v, turn));
  }
  reverse_plain(from, n - i, 1, to + i);
}

// Sixteen RGB pixels (three vectors) to one vector a channel.
AVX2 static inline void split_rgb(const uint8_t *p, __m128i out[3]) {
  const __m128i a = _mm_loadu_si128((const __m128i *)p), b = _mm_loadu_si128((const __m128i *)(p + 16)),
                c = _mm_loadu_si128((const __m128i *)(p + 32));
#define Z (-128)
  const __m128i ra = _mm_setr_epi8(0, 3, 6, 9, 12, 15, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z),
                rb = _mm_setr_epi8(Z, Z, Z, Z, Z, Z, 2, 5, 8, 11, 14, Z, Z, Z, Z, Z),
                rc = _mm_setr_epi8(Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, 1, 4, 7, 10, 13),
                ga = _mm_setr_epi8(1, 4, 7, 10, 13, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z),
                gb = _mm_setr_epi8(Z, Z, Z, Z, Z, 0, 3, 6, 9, 12, 15, Z, Z, Z, Z, Z),
                gc = _mm_setr_epi8(Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, 2, 5, 8, 11, 14),
                ba = _mm_setr_epi8(2, 5, 8, 11, 14, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z),
                bb = _mm_setr_epi8(Z, Z, Z, Z, Z, 1, 4, 7, 10, 13, Z, Z, Z, Z, Z, Z),
                bc = _mm_setr_epi8(Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, 0, 3, 6, 9, 12, 15);
#undef Z
  out[0] = _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(a, ra), _mm_shuffle_epi8(b, rb)), _mm_shuffle_epi8(c, rc));
  out[1] = _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(a, ga), _mm_shuffle_epi8(b, gb)), _mm_shuffle_epi8(c, gc));
  out[2] = _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(a, ba), _mm_shuffle_epi8(b, bb)), _mm_shuffle_epi8(c, bc));
}

AVX2 static void planes_rgb(const uint8_t *row, int64_t n, uint8_t *out, int64_t plane) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    __m128i v[3];
    split_rgb(row + 3 * i, v);
    for (int k = 0; k < 3; k++) _mm_storeu_si128((__m128i *)(out + k * plane + i), v[k]);
  }
  planes_plain(row + 3 * i, n - i, 3, out + i, plane);
}

// One vector a channel to sixteen RGB pixels.
AVX2 static inline void join_rgb(const __m128i in[3], uint8_t *p) {
#define Z (-128)
  const __m128i ra = _mm_setr_epi8(0, Z, Z, 1, Z, Z, 2, Z, Z, 3, Z, Z, 4, Z, Z, 5),
                ga = _mm_setr_epi8(Z, 0, Z, Z, 1, Z, Z, 2, Z, Z, 3, Z, Z, 4, Z, Z),
                ba = _mm_setr_epi8(Z, Z, 0, Z, Z, 1, Z, Z, 2, Z, Z, 3, Z, Z, 4, Z),
                rb = _mm_setr_epi8(Z, Z, 6, Z, Z, 7, Z, Z, 8, Z, Z, 9, Z, Z, 10, Z),
                gb = _mm_setr_epi8(5, Z, Z, 6, Z, Z, 7, Z, Z, 8, Z, Z, 9, Z, Z, 10),
                bb = _mm_setr_epi8(Z, 5, Z, Z, 6, Z, Z, 7, Z, Z, 8, Z, Z, 9, Z, Z),
                rc = _mm_setr_epi8(Z, 11, Z, Z, 12, Z, Z, 13, Z, Z, 14, Z, Z, 15, Z, Z),
                gc = _mm_setr_epi8(Z, Z, 11, Z, Z, 12, Z, Z, 13, Z, Z, 14, Z, Z, 15, Z),
                bc = _mm_setr_epi8(10, Z, Z, 11, Z, Z, 12, Z, Z, 13, Z, Z, 14, Z, Z, 15);
#undef Z
  const __m128i r = in[0], g = in[1], b = in[2];
  _mm_storeu_si128((__m128i *)p, _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(r, ra), _mm_shuffle_epi8(g, ga)),
                                              _mm_shuffle_epi8(b, ba)));
  _mm_storeu_si128((__m128i *)(p + 16), _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(r, rb), _mm_shuffle_epi8(g, gb)),
                                                     _mm_shuffle_epi8(b, bb)));
  _mm_storeu_si128((__m128i *)(p + 32), _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(r, rc), _mm_shuffle_epi8(g, gc)),
                                                     _mm_shuffle_epi8(b, bc)));
}

AVX2 static int64_t join_planes_rgb(const uint8_t *from, int64_t plane, int64_t n, uint8_t *row) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    __m128i v[3];
    for (int k = 0; k < 3; k++) v[k] = _mm_loadu_si128((const __m128i *)(from + k * plane + i));
    join_rgb(v, row + 3 * i);
  }
  return i;
}

// Multiplied and added apart, as the plain loops do: one rounding more than a fused operation, the same everywhere.
AVX2 static inline void store_floats(__m128i bytes, __m256 scale, __m256 bias, float *out) {
  __m256 low = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
         high = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)));
  _mm256_storeu_ps(out, _mm256_add_ps(_mm256_mul_ps(low, scale), bias));
  _mm256_storeu_ps(out + 8, _mm256_add_ps(_mm256_mul_ps(high, scale), bias));
}

AVX2 static void float_planes_avx2(const uint8_t *row, int64_t n, int64_t c, const float *scale, const float *bias,
                                   float *out, int64_t plane) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    __m128i v[3];
    if (c == 3)
      split_rgb(row + 3 * i, v);
    else
      v[0] = _mm_loadu_si128((const __m128i *)(row + i));
    for (int64_t k = 0; k < c; k++)
      store_floats(v[k], _mm256_set1_ps(scale[k]), _mm256_set1_ps(bias[k]), out + k * plane + i);
  }
  float_planes_plain(row + c * i, n - i, c, scale, bias, out + i, plane);
}

// [n,3] stays [n,3]: eight pixels are three vectors of floats, with scale and bias in three rotations.
AVX2 static int64_t floats_rgb(const uint8_t *row, int64_t n, const float *scale, const float *bias, float *out) {
  float s[24], b[24];
  for (int i = 0; i < 24; i++) s[i] = scale[i % 3], b[i] = bias[i % 3];
  int64_t i = 0;
  for (; 3 * i + 24 <= 3 * n; i += 8) {
    for (int v = 0; v < 3; v++) {
      __m256 x =
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(row + 3 * i + (ptrdiff_t)8 * v))));
      x = _mm256_add_ps(_mm256_mul_ps(x, _mm256_loadu_ps(s + (ptrdiff_t)8 * v)), _mm256_loadu_ps(b + (ptrdiff_t)8 * v));
      _mm256_storeu_ps(out + 3 * i + (ptrdiff_t)8 * v, x);
    }
  }
  return i;
}
#endif

#if defined(__x86_64__)
AVX2 static void stream(const uint8_t *row, int64_t bytes, uint8_t *out) {
  for (int64_t i = 0; i < bytes; i += 32)
    _mm256_stream_si256((__m256i *)(out + i), _mm256_loadu_si256((const __m256i *)(row + i)));
}
#endif

void ls_pixels_store(const uint8_t *row, int64_t bytes, uint8_t *out) {
#if defined(__x86_64__)
  if (bytes % 32 == 0 && (uintptr_t)out % 32 == 0 && has_avx2()) {
    stream(row, bytes, out);
    return;
  }
#endif
  memcpy(out, row, (size_t)bytes);
}

void ls_pixels_stored(void) {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

void ls_pixels_reverse(const uint8_t *from, int64_t n, int64_t c, uint8_t *to) {
#if defined(__x86_64__)
  if (c == 3 && has_avx2()) {
    reverse_rgb(from, n, to);
    return;
  }
  if (c == 1 && has_avx2()) {
    reverse_grey(from, n, to);
    return;
  }
#endif
  reverse_plain(from, n, c, to);
}

void ls_pixels_to_planes(const uint8_t *row, int64_t n, int64_t c, uint8_t *out, int64_t plane) {
#if defined(__x86_64__)
  if (c == 3 && has_avx2()) {
    planes_rgb(row, n, out, plane);
    return;
  }
#endif
  planes_plain(row, n, c, out, plane);
}

void ls_pixels_from_planes(const uint8_t *from, int64_t plane, int64_t n, uint8_t *row) {
  int64_t i = 0;
#if defined(__x86_64__)
  if (has_avx2()) i = join_planes_rgb(from, plane, n, row);
#endif
  for (; i < n; i++) {
    for (int64_t k = 0; k < 3; k++) row[3 * i + k] = from[k * plane + i];
  }
}

void ls_pixels_to_float_planes(const uint8_t *row, int64_t n, int64_t c, const float *scale, const float *bias,
                               float *out, int64_t plane) {
#if defined(__x86_64__)
  if ((c == 1 || c == 3) && has_avx2()) {
    float_planes_avx2(row, n, c, scale, bias, out, plane);
    return;
  }
#endif
  float_planes_plain(row, n, c, scale, bias, out, plane);
}

void ls_pixels_to_floats(const uint8_t *row, int64_t n, int64_t c, const float *scale, const float *bias, float *out) {
  int64_t i = 0;
#if defined(__x86_64__)
  if (c == 3 && has_avx2()) i = floats_rgb(row, n, scale, bias, out);
#endif
  for (; i < n; i++) {
    for (int64_t k = 0; k < c; k++) out[i * c + k] = (float)row[i * c + k] * scale[k] + bias[k];
  }
}
