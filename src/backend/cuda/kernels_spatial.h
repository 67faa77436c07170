// Kernel bodies: pooling and the option A shortcut, channels last. See kernel_basics.h. One value of the output an index;
// backward passes gather, in fixed order, so nothing is added to memory that another index adds to.
#ifndef LS_BACKEND_CUDA_KERNELS_SPATIAL_H
#define LS_BACKEND_CUDA_KERNELS_SPATIAL_H

#include "backend/cuda/kernel_basics.h"

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
LS_BODY void ls_body_pool_forward(const struct ls_k_pool *k, int64_t i) {
  int32_t c = (int32_t)(i % k->c), q = (int32_t)(i / k->c % k->q), p = (int32_t)(i / k->c / k->q % k->p), best = -1;
  int64_t n = i / k->c / k->q / k->p;
  float sum = 0, most = 0;
  for (int32_t r = 0; r < k->kernel[0]; r++) {
    int32_t row = p * k->stride[0] + r * k->dilation[0] - k->before[0];
    if (row < 0 || row >= k->h) continue;
    for (int32_t s = 0; s < k->kernel[1]; s++) {
      int32_t column = q * k->stride[1] + s * k->dilation[1] - k->before[1];
      if (column < 0 || column >= k->w) continue;
      float value = ls_get(k->from, k->dtype, ((n * k->h + row) * k->w + column) * k->c + c);
      sum += value;
      if (best < 0 || value > most || (isnan(value) && !isnan(most))) {
        most = value;
        best = r * k->kernel[1] + s;
      }
    }
  }
  ls_put(k->to, k->dtype, i, k->average ? sum / ls_pool_divisor(k, p, q) : most);
  if (k->where) k->where[i] = (uint16_t)best;
}

// Which window (on one axis) has its tap `r` at position `at`; -1: none.
LS_BODY int32_t ls_pool_window(int32_t at, int32_t r, int32_t stride, int32_t dilation, int32_t before,
                               int32_t windows) {
  int32_t shifted = at + before - r * dilation;
  if (shifted < 0 || shifted % stride != 0) return -1;
  return shifted / stride < windows ? shifted / stride : -1;
}

LS_BODY void ls_body_pool_backward(const struct ls_k_pool *k, int64_t i) {
  int32_t c = (int32_t)(i % k->c), w = (int32_t)(i / k->c % k->w), h = (int32_t)(i / k->c / k->w % k->h);
  int64_t n = i / k->c / k->w / k->h;
  float sum = 0;
  for (int32_t r = k->kernel[0] - 1; r >= 0; r--) {  // windows in ascending order
    int32_t p = ls_pool_window(h, r, k->stride[0], k->dilation[0], k->before[0], k->p);
    if (p < 0) continue;
    for (int32_t s = k->kernel[1] - 1; s >= 0; s--) {
      int32_t q = ls_pool_window(w, s, k->stride[1], k->dilation[1], k->before[1], k->q);
      if (q < 0) continue;
      int64_t at = ((n * k->p + p) * k->q + q) * k->c + c;
      if (k->average)
        sum += ls_get(k->from, k->dtype, at) / ls_pool_divisor(k, p, q);
      else if (k->where[at] == r * k->kernel[1] + s)
        sum += ls_get(k->from, k->dtype, at);
    }
  }
  ls_put(k->to, k->dtype, i, sum);
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
