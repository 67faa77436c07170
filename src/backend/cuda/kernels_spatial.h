// Kernel bodies: pooling and the option A shortcut, channels last. See kernel_basics.h. Pooling: a stretch of channels of the
// output an index; the shortcut: one value. Backward passes gather, in fixed order, so nothing is added to memory that another
// index adds to.
#ifndef LS_BACKEND_CUDA_KERNELS_SPATIAL_H
#define LS_BACKEND_CUDA_KERNELS_SPATIAL_H

#include "backend/cuda/kernel_basics.h"

// A stretch of channels of one pixel of [n,h,w,c]: what an index of the pooling works on. Tensors have fewer than 2^31 values
// (lower.c), so 32 bits do for the divisions.
struct ls_place {
  int32_t n, h, w, c;
  int width;
  int64_t index;  // in the tensor
};

LS_BODY struct ls_place ls_place_of(int64_t i, int32_t channels, int32_t w, int32_t h) {
  struct ls_place p;
  uint32_t rest = (uint32_t)i;
  p.width = ls_stretch(channels);
  uint32_t stretches = (uint32_t)(channels / p.width);
  p.c = (int32_t)(rest % stretches) * p.width;
  rest /= stretches;
  p.index = (int64_t)rest * channels + p.c;
  p.w = (int32_t)(rest % (uint32_t)w);
  rest /= (uint32_t)w;
  p.h = (int32_t)(rest % (uint32_t)h);
  p.n = (int32_t)(rest / (uint32_t)h);
  return p;
}

// x [n,h,w,c], y [n,p,q,c]. average 0: maximum; 1: average over positions inside the image; 2: inside image and padding.
struct ls_k_pool {
  const void *from;  // x; backward: dy
  void *to;          // y; backward: dx
  uint16_t *where;   // maximum in training: which tap of the window won, [n,p,q,c]; else NULL
  enum ls_dtype dtype;
  int32_t average, c, h, w, p, q;
  int32_t kernel[2], stride[2], dilation[2], before[2], after[2];
};

// How many of the window's positions on one axis count; `margin_*`: padding that counts.
LS_BODY int32_t ls_pool_taps(int32_t at, int32_t kernel, int32_t dilation, int32_t low, int32_t high) {
  int32_t count = 0;
  for (int32_t r = 0; r < kernel; r++) count += at + r * dilation >= low && at + r * dilation < high;
  return count;
}

LS_BODY float ls_pool_divisor(const struct ls_k_pool *k, int32_t p, int32_t q) {
  int with = k->average == 2;
  int32_t rows = ls_pool_taps(p * k->stride[0] - k->before[0], k->kernel[0], k->dilation[0], with ? -k->before[0] : 0,
                              k->h + (with ? k->after[0] : 0));
  int32_t columns = ls_pool_taps(q * k->stride[1] - k->before[1], k->kernel[1], k->dilation[1],
                                 with ? -k->before[1] : 0, k->w + (with ? k->after[1] : 0));
  return (float)(rows * columns);
}

// The first of equal maxima wins, in row-major order; a NaN wins for good.
LS_BODY void ls_pool_take(const float *value, int tap, float *most, int *best, float *sum) {
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    sum[l] += value[l];
    if (best[l] >= 0 && !(value[l] > most[l]) && !(isnan(value[l]) && !isnan(most[l]))) continue;
    most[l] = value[l];
    best[l] = tap;
  }
}

// Where the maxima of a stretch were; eight as one 16-byte word.
LS_BODY void ls_put_taps(uint16_t *where, int64_t at, int width, const int *tap) {
#ifdef __CUDACC__
  if (width == LS_GROUP) {
    *(uint4 *)(where + at) =
        make_uint4((unsigned)tap[0] | (unsigned)tap[1] << 16, (unsigned)tap[2] | (unsigned)tap[3] << 16,
                   (unsigned)tap[4] | (unsigned)tap[5] << 16, (unsigned)tap[6] | (unsigned)tap[7] << 16);
    return;
  }
#endif
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
    if (l < width) where[at + l] = (uint16_t)tap[l];
  }
}

LS_BODY void ls_get_taps(const uint16_t *where, int64_t at, int width, int *tap) {
#ifdef __CUDACC__
  if (width == LS_GROUP) {
    uint4 word = *(const uint4 *)(where + at);
    tap[0] = (int)(word.x & 0xffff), tap[1] = (int)(word.x >> 16), tap[2] = (int)(word.y & 0xffff),
    tap[3] = (int)(word.y >> 16);
    tap[4] = (int)(word.z & 0xffff), tap[5] = (int)(word.z >> 16), tap[6] = (int)(word.w & 0xffff),
    tap[7] = (int)(word.w >> 16);
    return;
  }
#endif
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) tap[l] = l < width ? where[at + l] : -1;
}

LS_BODY void ls_body_pool_forward(const struct ls_k_pool *k, int64_t i) {
  struct ls_place at = ls_place_of(i, k->c, k->q, k->p);
  int best[LS_GROUP];
  float sum[LS_GROUP] = {0}, most[LS_GROUP] = {0}, v[LS_GROUP];
  LS_UNROLL for (int l = 0; l < LS_GROUP; l++) best[l] = -1;
  for (int32_t r = 0; r < k->kernel[0]; r++) {
    int32_t row = at.h * k->stride[0] + r * k->dilation[0] - k->before[0];
    if (row < 0 || row >= k->h) continue;
    for (int32_t s = 0; s < k->kernel[1]; s++) {
      int32_t column = at.w * k->stride[1] + s * k->dilation[1] - k->before[1];
      if (column < 0 || column >= k->w) continue;
      ls_get_stretch(k->from, k->dtype, (((int64_t)at.n * k->h + row) * k->w + column) * k->c + at.c, at.width, v);
      ls_pool_take(v, r * k->kernel[1] + s, most, best, sum);
    }
  }
  if (k->average) {
    float divisor = ls_pool_divisor(k, at.h, at.w);
    LS_UNROLL for (int l = 0; l < LS_GROUP; l++) most[l] = sum[l] / divisor;
  }
  ls_put_stretch_of(k->to, k->dtype, at.index, at.width, most);
  if (k->where) ls_put_taps(k->where, at.index, at.width, best);
}

// Which window (on one axis) has its tap `r` at position `at`; -1: none.
LS_BODY int32_t ls_pool_window(int32_t at, int32_t r, int32_t stride, int32_t dilation, int32_t before,
                               int32_t windows) {
  int32_t shifted = at + before - r * dilation;
  if (shifted < 0 || shifted % stride != 0) return -1;
  return shifted / stride < windows ? shifted / stride : -1;
}

LS_BODY void ls_body_pool_backward(const struct ls_k_pool *k, int64_t i) {
  struct ls_place to = ls_place_of(i, k->c, k->w, k->h);
  float sum[LS_GROUP] = {0}, v[LS_GROUP];
  int tap[LS_GROUP];
  for (int32_t r = k->kernel[0] - 1; r >= 0; r--) {  // windows in ascending order
    int32_t p = ls_pool_window(to.h, r, k->stride[0], k->dilation[0], k->before[0], k->p);
    if (p < 0) continue;
    for (int32_t s = k->kernel[1] - 1; s >= 0; s--) {
      int32_t q = ls_pool_window(to.w, s, k->stride[1], k->dilation[1], k->before[1], k->q);
      if (q < 0) continue;
      int64_t at = (((int64_t)to.n * k->p + p) * k->q + q) * k->c + to.c;
      float divisor = k->average ? ls_pool_divisor(k, p, q) : 1;
      ls_get_stretch(k->from, k->dtype, at, to.width, v);
      if (!k->average) ls_get_taps(k->where, at, to.width, tap);
      LS_UNROLL for (int l = 0; l < LS_GROUP; l++) {
        if (k->average || tap[l] == r * k->kernel[1] + s) sum[l] += v[l] / divisor;
      }
    }
  }
  ls_put_stretch_of(k->to, k->dtype, to.index, to.width, sum);
}

// large [n,h,w,c], small [n,p,q,k]: forward small = large at every stride-th pixel, 0 for the channels that large lacks.
struct ls_k_shortcut {
  const void *from;
  void *to;
  enum ls_dtype dtype;
  int32_t c, h, w, k, p, q, stride[2];
};

LS_BODY void ls_body_shortcut_forward(const struct ls_k_shortcut *k, int64_t i) {
  int32_t c = (int32_t)(i % k->k), q = (int32_t)(i / k->k % k->q), p = (int32_t)(i / k->k / k->q % k->p);
  int64_t n = i / k->k / k->q / k->p, at = ((n * k->h + p * k->stride[0]) * k->w + q * k->stride[1]) * k->c + c;
  ls_put(k->to, k->dtype, i, c < k->c ? ls_get(k->from, k->dtype, at) : 0);
}

LS_BODY void ls_body_shortcut_backward(const struct ls_k_shortcut *k, int64_t i) {
  int32_t c = (int32_t)(i % k->c), w = (int32_t)(i / k->c % k->w), h = (int32_t)(i / k->c / k->w % k->h);
  int64_t n = i / k->c / k->w / k->h;
  int taken = h % k->stride[0] == 0 && w % k->stride[1] == 0 && c < k->k;
  int64_t at = ((n * k->p + h / k->stride[0]) * k->q + w / k->stride[1]) * k->k + c;
  ls_put(k->to, k->dtype, i, taken ? ls_get(k->from, k->dtype, at) : 0);
}

#endif
