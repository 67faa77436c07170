// Resampling in two passes, first along rows and then along columns, with a triangle filter that is widened when the
// image shrinks. Weights are whole numbers of 22 bits, sums 32 bits, rounded to 8 bits after each pass: the arithmetic of
// the Python Imaging Library's BILINEAR resize, so that a test can compare bit for bit.
#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "data/augment.h"

enum { WEIGHT_BITS = 22 };

// The loops are compiled twice, for AVX2 and for any machine; the arithmetic is the same. (Not by target_clones: its
// resolver runs before ThreadSanitizer is ready.)
#define INLINE inline __attribute__((always_inline))

static double support_of(const struct ls_axis *axis) { return axis->step > 1 ? axis->step : 1; }

// Output i's values, counted from axis->offset.
static void range_of(const struct ls_axis *axis, int64_t i, int64_t *low, int64_t *high) {
  double center = ((double)(axis->first + i) + 0.5) * axis->step, support = support_of(axis);
  *low = (int64_t)floor(center - support + 0.5);
  *high = (int64_t)floor(center + support + 0.5);
  if (*low < 0) *low = 0;
  if (*high > axis->size) *high = axis->size;
}

void ls_filter_range(const struct ls_axis *axis, int64_t *low, int64_t *high) {
  int64_t ignored;
  range_of(axis, 0, low, &ignored);
  range_of(axis, axis->count - 1, &ignored, high);
  *low += axis->offset;
  *high += axis->offset;
}

static int filter_size(const struct ls_axis *axis) { return (int)ceil(support_of(axis)) * 2 + 1; }

size_t ls_filter_bytes(const struct ls_axis *axis) {
  return (size_t)axis->count * sizeof(int32_t) * (size_t)(filter_size(axis) + 2);
}

static double triangle(double x) { return fabs(x) < 1 ? 1 - fabs(x) : 0; }

void ls_filter_make(const struct ls_axis *axis, void *memory, struct ls_filter *f) {
  f->outputs = axis->count;
  f->size = filter_size(axis);
  f->most = 0;
  f->begin = memory;
  f->count = f->begin + axis->count;
  f->weights = f->count + axis->count;
  double inverse = 1 / support_of(axis);
  for (int64_t i = 0; i < axis->count; i++) {
    int64_t low, high;
    range_of(axis, i, &low, &high);
    if (high - low > f->size) high = low + f->size;
    double center = ((double)(axis->first + i) + 0.5) * axis->step, sum = 0;
    for (int64_t x = low; x < high; x++) sum += triangle(((double)x - center + 0.5) * inverse);
    f->begin[i] = (int32_t)(low + axis->offset);
    f->count[i] = (int32_t)(high - low);
    if (f->count[i] > f->most) f->most = f->count[i];
    int32_t *weights = f->weights + i * f->size;
    for (int64_t x = low; x < high; x++) {
      double weight = triangle(((double)x - center + 0.5) * inverse) / sum;
      weights[x - low] = (int32_t)(0.5 + weight * (1 << WEIGHT_BITS));
    }
    for (int64_t k = high - low; k < f->size; k++) weights[k] = 0;
  }
}

static inline uint8_t rounded(int32_t sum) {
  sum >>= WEIGHT_BITS;
  return sum < 0 ? 0 : sum > 255 ? 255 : (uint8_t)sum;
}

#if defined(__x86_64__)
// RGB: a pixel and the byte behind it are four lanes. Every output takes `taps` pixels, the last ones with weight zero: a
// loop of one length is much faster than one that ends now here, now there. So up to `taps` pixels and a byte behind the
// row are read.
__attribute__((target("avx2"))) static INLINE void rgb_with(const struct ls_filter *f, const uint8_t *row,
                                                            int64_t x_low, int32_t taps, uint8_t *out) {
  const __m128i pack =
      _mm_setr_epi8(0, 4, 8, -128, -128, -128, -128, -128, -128, -128, -128, -128, -128, -128, -128, -128);
  const int32_t *begin = f->begin, *weights = f->weights;
  int64_t outputs = f->outputs, size = f->size;
  for (int64_t i = 0; i < outputs; i++, weights += size, out += 3) {
    const uint8_t *from = row + (begin[i] - x_low) * 3;
    __m128i sum = _mm_set1_epi32(1 << (WEIGHT_BITS - 1));
    for (int32_t k = 0; k < taps; k++) {
      int32_t four;
      memcpy(&four, from + (ptrdiff_t)3 * k, sizeof four);
      sum = _mm_add_epi32(sum, _mm_mullo_epi32(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(four)), _mm_set1_epi32(weights[k])));
    }
    // Weights are not negative: no clamping below, and none above but for their rounding.
    sum = _mm_min_epi32(_mm_srai_epi32(sum, WEIGHT_BITS), _mm_set1_epi32(255));
    int32_t three = _mm_cvtsi128_si32(_mm_shuffle_epi8(sum, pack));
    if (i + 1 < outputs)
      memcpy(out, &three, 4);  // the next one goes over the fourth byte
    else
      memcpy(out, &three, 3);
  }
}

__attribute__((target("avx2"))) static void along_rows_rgb(const struct ls_filter *f, const uint8_t *row, int64_t x_low,
                                                           uint8_t *out) {
  switch (f->most) {
    case 1: rgb_with(f, row, x_low, 1, out); break;
    case 2: rgb_with(f, row, x_low, 2, out); break;
    case 3: rgb_with(f, row, x_low, 3, out); break;
    case 4: rgb_with(f, row, x_low, 4, out); break;
    case 5: rgb_with(f, row, x_low, 5, out); break;
    default: rgb_with(f, row, x_low, f->most, out); break;
  }
}
#endif

static INLINE void along_rows(const struct ls_filter *f, const uint8_t *row, int64_t x_low, int64_t c, uint8_t *out) {
  for (int64_t i = 0; i < f->outputs; i++) {
    const uint8_t *from = row + (f->begin[i] - x_low) * c;
    const int32_t *weights = f->weights + i * f->size;
    int32_t n = f->count[i];
    if (c == 3) {
      int32_t a = 1 << (WEIGHT_BITS - 1), b = a, d = a;
      for (int32_t k = 0; k < n; k++) {
        a += weights[k] * from[3 * k];
        b += weights[k] * from[3 * k + 1];
        d += weights[k] * from[3 * k + 2];
      }
      out[3 * i] = rounded(a), out[3 * i + 1] = rounded(b), out[3 * i + 2] = rounded(d);
      continue;
    }
    for (int64_t channel = 0; channel < c; channel++) {
      int32_t sum = 1 << (WEIGHT_BITS - 1);
      for (int32_t k = 0; k < n; k++) sum += weights[k] * from[k * c + channel];
      out[i * c + channel] = rounded(sum);
    }
  }
}

enum { COLUMNS = 64 };

static INLINE void along_columns(const int32_t *weights, int32_t n, const uint8_t *from, size_t stride, int64_t bytes,
                                 uint8_t *out) {
  int64_t at = 0;
  for (; at + COLUMNS <= bytes; at += COLUMNS) {
    int32_t sum[COLUMNS];
    for (int i = 0; i < COLUMNS; i++) sum[i] = 1 << (WEIGHT_BITS - 1);
    for (int32_t k = 0; k < n; k++) {
      const uint8_t *row = from + (size_t)k * stride + at;
      for (int i = 0; i < COLUMNS; i++) sum[i] += weights[k] * row[i];
    }
    for (int i = 0; i < COLUMNS; i++) out[at + i] = rounded(sum[i]);
  }
  for (; at < bytes; at++) {
    int32_t sum = 1 << (WEIGHT_BITS - 1);
    for (int32_t k = 0; k < n; k++) sum += weights[k] * from[(size_t)k * stride + (size_t)at];
    out[at] = rounded(sum);
  }
}

struct job {
  const struct ls_filter *fy, *fx;
  const uint8_t *pixels;
  size_t stride_bytes;
  int64_t rows, y_low, x_low, c;
  uint8_t *between, *out;
  size_t out_stride;
};

static INLINE void all_columns(const struct job *j) {
  size_t row_bytes = (size_t)(j->fx->outputs * j->c);
  for (int64_t i = 0; i < j->fy->outputs; i++) {
    along_columns(j->fy->weights + i * j->fy->size, j->fy->count[i],
                  j->between + (size_t)(j->fy->begin[i] - j->y_low) * row_bytes, row_bytes, (int64_t)row_bytes,
                  j->out + (size_t)i * j->out_stride);
  }
}

static INLINE void rows_from(const struct job *j, int64_t y) {
  size_t row_bytes = (size_t)(j->fx->outputs * j->c);
  for (; y < j->rows; y++)
    along_rows(j->fx, j->pixels + (size_t)y * j->stride_bytes, j->x_low, j->c, j->between + (size_t)y * row_bytes);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void resample_avx2(const struct job *j) {
  int64_t y = 0, last = j->fx->outputs - 1, end = j->fx->begin[last] + j->fx->count[last] - j->x_low;
  // Rows behind which enough pixels follow.
  int64_t behind = (end + j->fx->most + 1) * 3, safe = j->rows - 1 - behind / (int64_t)j->stride_bytes;
  for (; j->c == 3 && y < safe; y++) {
    along_rows_rgb(j->fx, j->pixels + (size_t)y * j->stride_bytes, j->x_low,
                   j->between + (size_t)y * (size_t)(j->fx->outputs * 3));
  }
  rows_from(j, y);
  all_columns(j);
}
#endif

void ls_resample(const struct ls_filter *fy, const struct ls_filter *fx, const uint8_t *pixels, size_t stride_bytes,
                 int64_t y_low, int64_t y_high, int64_t x_low, int64_t c, uint8_t *between, uint8_t *out,
                 size_t out_stride) {
  struct job j = {fy, fx, pixels, stride_bytes, y_high - y_low, y_low, x_low, c, between, out, out_stride};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) {
    resample_avx2(&j);
    return;
  }
#endif
  rows_from(&j, 0);
  all_columns(&j);
}
